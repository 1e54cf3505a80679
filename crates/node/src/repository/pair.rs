//! A database with the signature that is of its bytes, from one mirror.
//!
//! A mirror that is being updated may show a new database beside an old signature for a while. The signature
//! itself tells (`pacman::Seal`); where it does not, the mirror is asked once more whether the database moved.
//!
//! - Invariant: both files come from one mirror.
//! - Invariant: where a keyring is configured, a signed database whose signature is not good by it is not taken. (Arch's
//!   databases are not signed; there the signatures of packages count, `super::good`.)
//! - Invariant: where the state that is here is signed, one without signature counts as torn.
//! - Invariant: a signature that was asked for together with its database counts only where that did not change.
//! - Not here: how a signature is asked for (`super::beside`), which of two states is newer, which mirror is asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pacstore_pacman::openpgp::Verdict;
use pacstore_pacman::{DbError, DbKind, Fit, Seal};
use pacstore_runtime::Pool;
use pacstore_upstream::{Get, HttpError, Response, Url};
use tokio::time::Instant;

use super::beside::{Early, Signature, file_url, signature, unless};
use super::check::{Looked, modified, tag};
use super::incoming::{Arrived, Incoming, arrived};
use super::index::Index;
use super::line::{Candidate, Line, Seen, State, Tag};
use super::order::Age;
use super::{Repository, shown};
use crate::error::StoreError;
use crate::node::Node;

/// How long a mirror may take for an answer's header.
pub(super) const HEADER: Duration = Duration::from_secs(5);

/// How long a database may take to come.
const BODY: Duration = Duration::from_mins(2);

/// How long a mirror may send nothing within it.
const STALL: Duration = Duration::from_secs(4);

/// The longest databases taken: ten times the largest ones known.
const MAX_DB: u64 = 128 << 20;
const MAX_FILES: u64 = 512 << 20;

/// Tries to read a whole pair while the mirror moves.
const PASSES: u32 = 3;

/// Between two of them.
const AGAIN: Duration = Duration::from_millis(400);

/// Why a mirror gave no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("no answer of use")]
    Http(#[from] HttpError),
    #[error("`{0}` is no URL that a file can be named in")]
    Url(String),
    #[error("`{0}` sent nothing for {secs} s", secs = STALL.as_secs())]
    Stalled(String),
    #[error("`{0}` is no database")]
    NoDatabase(String, #[source] DbError),
    #[error("`{0}` is no archive")]
    NoArchive(String),
    #[error("the signature beside `{0}` is of other bytes")]
    Torn(String),
    #[error("`{0}` came without its end")]
    Cut(String),
    #[error("`{0}` has no signature any more")]
    Unsigned(String),
    #[error("`{0}` is not taken: {1}")]
    NotGood(String, Verdict),
    #[error("cannot check a database")]
    Keyring(#[from] pacstore_import::KeyringReadError),
    #[error("`{0}` changed while it was read")]
    Moved(String),
    #[error("cannot write a file on its way in")]
    Disk(#[from] io::Error),
    #[error("cannot read what is here")]
    Store(#[from] StoreError),
    #[error("the node is stopping")]
    Stopping,
}

impl LookError {
    /// pacman would wait there in vain, too.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Stalled(_) => true,
            Self::Http(error) => error.is_silence(),
            _ => false,
        }
    }

    /// Our own disk or store, whatever the mirror has.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Disk(_) | Self::Store(_))
    }

    /// A moment later it may be another.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Torn(_) | Self::Cut(_) | Self::Unsigned(_) | Self::Moved(_)
        )
    }
}

/// What a mirror answers when it is asked for a database.
pub(super) enum Header {
    /// It is that of a state that is here; the signature beside it was asked for, too.
    Same(Seen, Arc<State>, Box<Early>),
    /// It is another one, or nothing tells.
    Other(Box<Response>, Tag),
}

/// Asks the mirror at `folder` whether its database is another than last time, and at the same time for the
/// signature: mostly nothing changed, and then both answers are here after one round trip.
pub(super) async fn header(node: &Node, line: &Line, folder: &Url) -> Result<Header, LookError> {
    let url = file_url(folder, &line.name)?;
    let seen = line
        .seen(folder.as_str())
        .filter(|(seen, _)| seen.database.tells());
    let mut get = Get::new(&url);
    get.max_len = Some(longest(line.kind));
    get.deadline = Some(BODY);
    let mut early = None;
    if let Some((seen, _)) = &seen {
        unless(&mut get, &seen.database);
        early = Some(Box::new(Early::new(node, folder, line, seen)?));
    }
    let asked = async {
        let answer = node.inner.http.get(&get);
        match &mut early {
            Some(early) => early.beside(answer).await,
            None => answer.await,
        }
    };
    let answered = tokio::time::timeout(HEADER, asked).await;
    match (answered, seen.zip(early)) {
        (Err(_), _) => Err(LookError::Stalled(shown(&url))),
        (Ok(Err(HttpError::NotModified { .. })), Some(((seen, state), early))) => {
            Ok(Header::Same(seen, state, early))
        }
        (Ok(Err(error)), _) => Err(error.into()),
        (Ok(Ok(response)), seen) => {
            let tag = tag(&response);
            match seen {
                Some(((seen, state), early)) if seen.database.shows(&tag) => {
                    Ok(Header::Same(seen, state, early))
                }
                _ => Ok(Header::Other(Box::new(response), tag)),
            }
        }
    }
}

/// Reads on: the database, its signature, until both are of one moment.
pub(super) async fn whole(
    node: &Node,
    repository: &Repository,
    line: &Line,
    folder: &Url,
    header: Header,
) -> Result<Looked, LookError> {
    let mut next = Some(header);
    for pass in 1..=PASSES {
        let header = match next.take() {
            Some(header) => header,
            None => self::header(node, line, folder).await?,
        };
        match once(node, repository, line, folder, header).await {
            Err(error) if error.may_pass() && pass < PASSES => tokio::time::sleep(AGAIN * pass).await,
            looked => return looked,
        }
    }
    Err(LookError::Moved(shown(folder)))
}

async fn once(
    node: &Node,
    repository: &Repository,
    line: &Line,
    folder: &Url,
    header: Header,
) -> Result<Looked, LookError> {
    let url = file_url(folder, &line.name)?;
    let (database, built, tag, same) = match header {
        Header::Same(seen, state, early) => {
            let signature = match early.answer(node, folder, line, &seen).await? {
                Signature::Same => return Ok(Looked::Same(seen)),
                Signature::None if seen.signature.is_none() => return Ok(Looked::Same(seen)),
                other => other,
            };
            // The same database, signed anew.
            let bytes = node.read_all(&state.database.root).await?;
            let store = node.inner.store.clone();
            let database = node
                .inner
                .tasks
                .blocking(Pool::Disk, move || arrived(&store, &bytes));
            let database = database.await.map_err(|_| LookError::Stopping)??;
            (database, state.age.built, seen.database, Some(signature))
        }
        Header::Other(response, tag) => {
            let (database, built) = receive(node, repository, line, folder, response).await?;
            (database, built, tag, None)
        }
    };
    let signature = match same {
        Some(signature) => signature,
        None => signature(node, folder, line).await?,
    };
    let held_is_signed = line.current().is_some_and(|state| state.signature.is_some());
    let (signature, signature_tag, signed) = match signature {
        Signature::New(bytes, tag) => {
            let made = fitting(node, &url, &database, &bytes, line, folder, &tag).await?;
            verify(node, repository, &url, &database, &bytes).await?;
            let store = node.inner.store.clone();
            let kept = node
                .inner
                .tasks
                .blocking(Pool::Disk, move || arrived(&store, &bytes));
            (
                Some(kept.await.map_err(|_| LookError::Stopping)??),
                Some(tag),
                made,
            )
        }
        Signature::None | Signature::Same if held_is_signed => return Err(LookError::Unsigned(shown(&url))),
        Signature::None | Signature::Same => (None, None, None),
    };
    let told = tag
        .modified
        .max(signature_tag.as_ref().and_then(|tag| tag.modified));
    Ok(Looked::Other(Box::new(Candidate {
        database,
        signature,
        modified: modified(told, node.inner.clock.now()),
        age: Age { signed, told, built },
        seen: Seen {
            url: folder.as_str().to_owned(),
            database: tag,
            signature: signature_tag,
            state: String::new(),
        },
    })))
}

/// The signature is of these bytes; when it was made, as it says.
async fn fitting(
    node: &Node,
    url: &Url,
    database: &Arrived,
    bytes: &bytes::Bytes,
    line: &Line,
    folder: &Url,
    tag: &Tag,
) -> Result<Option<u64>, LookError> {
    let Some(seal) = Seal::read(bytes) else {
        return Err(LookError::Torn(shown(url)));
    };
    let made = seal.made();
    let path = database.path().to_owned();
    let fit = node.inner.tasks.blocking(Pool::Hash, move || {
        seal.fit(|| fs_err::File::open(&path).map(io::BufReader::new))
    });
    match fit.await.map_err(|_| LookError::Stopping)?? {
        Fit::Fits => Ok(made),
        Fit::Other => Err(LookError::Torn(shown(url))),
        Fit::Unknown => {
            // Nothing in it tells; then at least the signature must not move between two looks.
            tokio::time::sleep(AGAIN).await;
            match signature(node, folder, line).await? {
                Signature::New(again, again_tag) if again == *bytes && again_tag == *tag => Ok(made),
                _ => Err(LookError::Moved(shown(url))),
            }
        }
    }
}

/// A key of the configured keyring made the signature.
async fn verify(
    node: &Node,
    repository: &Repository,
    url: &Url,
    database: &Arrived,
    signature: &bytes::Bytes,
) -> Result<(), LookError> {
    let Some(keyring) = repository.config.keyring.clone() else {
        return Ok(());
    };
    let (path, signature, now) = (
        database.path().to_owned(),
        signature.clone(),
        node.inner.clock.unix_seconds(),
    );
    // Read anew: a database comes a few times a day, and keys change.
    let checked = node.inner.tasks.blocking(Pool::Hash, move || {
        let keyring = pacstore_import::read_keyring(&keyring)?;
        let mut file = fs_err::File::open(&path)?;
        Ok::<_, LookError>(keyring.keys.verify(&signature, &mut file, now)?)
    });
    let verdict = checked.await.map_err(|_| LookError::Stopping)??;
    if verdict.is_good() {
        Ok(())
    } else {
        Err(LookError::NotGood(shown(url), verdict))
    }
}

/// Reads a database onto the disk and looks into it.
async fn receive(
    node: &Node,
    repository: &Repository,
    line: &Line,
    folder: &Url,
    mut response: Box<Response>,
) -> Result<(Arrived, Option<u64>), LookError> {
    let (tasks, began) = (&node.inner.tasks, Instant::now());
    let mut incoming = Incoming::new(&node.inner.store, tasks).await?;
    loop {
        let piece = tokio::time::timeout(STALL, response.chunk()).await;
        let piece = piece.map_err(|_| LookError::Stalled(shown(&response.url)))??;
        let Some(piece) = piece else { break };
        incoming = incoming.push(tasks, piece).await?;
    }
    repository.measured(folder, incoming.len(), began.elapsed());
    let database = incoming.finish(tasks).await?;
    let (path, url, kind) = (database.path().to_owned(), shown(&response.url), line.kind);
    let built = tasks.blocking(Pool::Hash, move || match kind {
        DbKind::Db => {
            let index =
                Index::read(&fs_err::read(&path)?).map_err(|error| LookError::NoDatabase(url, error))?;
            Ok(index.built)
        }
        // Unpacking Arch's takes seconds; whether it is an archive at all tells it from a web page.
        DbKind::Files if is_archive(&path)? => Ok(None),
        DbKind::Files => Err(LookError::NoArchive(url)),
    });
    Ok((database, built.await.map_err(|_| LookError::Stopping)??))
}

fn longest(kind: DbKind) -> u64 {
    match kind {
        DbKind::Db => MAX_DB,
        DbKind::Files => MAX_FILES,
    }
}

/// The first bytes are those of a packing that pacman reads, or of a bare tar.
fn is_archive(path: &std::path::Path) -> io::Result<bool> {
    use std::io::Read as _;
    let mut start = Vec::new();
    fs_err::File::open(path)?.take(512).read_to_end(&mut start)?;
    let packings: [&[u8]; 4] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"\xfd7zXZ\0", b"BZh"];
    let packed = packings.iter().any(|magic| start.starts_with(magic));
    Ok(packed || start.get(257..262) == Some(b"ustar"))
}
