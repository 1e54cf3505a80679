//! Giving a file and writing its receipt.
//!
//! - Invariant: each file that is begun leaves exactly one receipt, whatever ends it.
//! - Not here: what is kept of receipts (`crate::receipts`), how a file is opened (`crate::open`).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cid::Cid;
use pacstore_names::{MirrorName, rfc3339, unix_seconds};
use tokio::time::Instant;
use url::Url;

use crate::bytes_out::{BytesOut, Counters};
use crate::fetch::FetchError;
use crate::node::Node;
use crate::open::Content;
use crate::receipts::{Ending, Receipt};
use crate::serve::{FileAnswer, Known, Redirect};
use crate::status::chain;
use crate::transfers::Ticket;

/// What the bytes of a file are checked against.
#[derive(Clone, Debug)]
pub(crate) enum Against {
    /// The tree of this head of the mirror.
    Head(MirrorName, Cid),
    /// What the database of this repository says of the package.
    Database(String, [u8; 32]),
    /// It is this repository's own database or its signature.
    Pair(String),
    /// It is a package's signature.
    Signature,
    /// Its CID, as asked.
    Cid,
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(mirror, head) => write!(f, "leaf CIDs below head {head} of mirror {mirror}"),
            Self::Database(repository, sha256) => {
                f.write_str("SHA-256 ")?;
                sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, " in the database of repository {repository}")
            }
            Self::Pair(repository) => {
                write!(
                    f,
                    "database and signature as one mirror of repository {repository} gave them"
                )
            }
            Self::Signature => f.write_str("nothing more: a signature is checked by pacman"),
            Self::Cid => f.write_str("its own CID"),
        }
    }
}

/// When something began.
#[derive(Debug)]
struct Begin {
    at: SystemTime,
    since: Instant,
}

/// A file that is being given.
#[derive(Debug)]
pub struct Giving {
    node: Node,
    content: Content,
    tally: Arc<Counters>,
    begin: Begin,
    /// While bytes are left.
    transfer: Option<Ticket>,
    /// Bytes that are still to be given.
    left: u64,
    /// Taken when the receipt is written.
    answer: Option<FileAnswer>,
    why: Option<String>,
}

impl Giving {
    /// The next bytes, as [`Content::read`].
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn read(&mut self, start: u64, end: u64) -> Result<Bytes, FetchError> {
        let counters = [&self.node.inner.counters, &*self.tally];
        let read = match &self.answer {
            Some(answer) => {
                let (node, content) = (&self.node, &mut self.content);
                node.read_on(answer, content, start..end, &counters).await
            }
            // All was given; who asks for more gets what the content says.
            None => self.content.read_for(&self.node, start, end, &counters).await,
        };
        match read {
            Ok(data) => {
                self.left = self.left.saturating_sub(data.len() as u64);
                if self.left == 0 {
                    self.receipt();
                }
                Ok(data)
            }
            Err(error) => {
                self.why = Some(chain(&error));
                self.receipt();
                Err(error)
            }
        }
    }

    /// It is told of from now on.
    fn begin(&mut self) {
        if let Some(answer) = &self.answer {
            let bytes = self.left + self.tally.get().total();
            let transfers = &self.node.inner.transfers;
            self.transfer = Some(transfers.given(&answer.name, bytes, &self.tally));
        }
    }

    fn receipt(&mut self) {
        self.transfer = None;
        let Some(answer) = self.answer.take() else { return };
        let given = self.left == 0;
        let why = self.why.take();
        let why = why.or_else(|| (!given).then(|| "who asked went away".to_owned()));
        let held = answer.times_held();
        let why = why.or_else(|| {
            let text = || {
                format!(
                    "neighbours wanted it, too: who asked was sent back to us {held} times until it was here"
                )
            };
            (held > 0).then(text)
        });
        let ended = if given { Ending::Given } else { Ending::Broken };
        let mut receipt = Node::blank(&answer, &self.begin, ended, why);
        let root = self.content.root(&answer.root);
        receipt.givers = self.node.inner.fetch.givers(&root);
        receipt.root = Some(root.to_string());
        receipt.bytes = self.tally.get();
        if let Content::Stored(file) = &self.content {
            self.node.inner.machine.given.note(&file.info);
        }
        self.node.inner.receipts.put(receipt);
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.receipt();
    }
}

impl Node {
    /// [`Node::begin`] with a receipt. Gives what is read on, and the first bytes.
    ///
    /// # Errors
    /// As [`Node::begin`]; the receipt is up to the caller then ([`Node::not_given`]).
    pub async fn give(
        &self,
        answer: &FileAnswer,
        start: u64,
        end: u64,
    ) -> Result<(Giving, Bytes), FetchError> {
        let begin = self.now();
        let tally = Arc::new(Counters::default());
        let counters = [&self.inner.counters, &*tally];
        let (content, first) = self.begin_for(answer, start, end, &counters).await?;
        let mut giving = self.giving(answer, content, (tally, begin), end - start);
        giving.left = giving.left.saturating_sub(first.len() as u64);
        if giving.left == 0 {
            giving.receipt();
        } else {
            giving.begin();
        }
        Ok((giving, first))
    }

    /// The same for somebody who is in no hurry, as pacman is. Nothing is read yet.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn give_slowly(&self, answer: &FileAnswer, start: u64, end: u64) -> Result<Giving, FetchError> {
        let begin = self.now();
        let content = self.open(answer).await?;
        let mut giving = self.giving(answer, content, (Arc::default(), begin), end - start);
        giving.begin();
        Ok(giving)
    }

    fn giving(
        &self,
        answer: &FileAnswer,
        content: Content,
        counted: (Arc<Counters>, Begin),
        left: u64,
    ) -> Giving {
        let (tally, begin) = counted;
        Giving {
            node: self.clone(),
            content,
            tally,
            begin,
            transfer: None,
            left,
            answer: Some(answer.clone()),
            why: None,
        }
    }

    fn now(&self) -> Begin {
        Begin {
            at: self.inner.clock.now(),
            since: Instant::now(),
        }
    }

    /// The receipt of a file of which nothing is known yet but what it is.
    fn blank(answer: &FileAnswer, begin: &Begin, ended: Ending, why: Option<String>) -> Receipt {
        // The root of a package that is known by its SHA-256 only stands for it.
        let has_root = !matches!(answer.known, Known::Package(_));
        Receipt {
            name: String::from_utf8_lossy(&answer.name).into_owned(),
            at: rfc3339(unix_seconds(begin.at)),
            took_ms: u64::try_from(begin.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            ended,
            why,
            url: None,
            root: has_root.then(|| answer.root.to_string()),
            len: Some(answer.len),
            bytes: BytesOut::default(),
            givers: Vec::new(),
            checked: Some(answer.against.to_string()),
        }
    }

    /// Writes down that `answer` was not given because of `error`, and where who asked was sent instead.
    pub fn not_given(&self, answer: &FileAnswer, error: &FetchError, instead: Option<&Url>) {
        let ended = if instead.is_some() {
            Ending::Redirected
        } else {
            Ending::Failed
        };
        let mut receipt = Self::blank(answer, &self.now(), ended, Some(chain(error)));
        receipt.url = instead.map(|url| crate::repository::plain(url).to_string());
        // No byte of it was here to be checked.
        receipt.checked = None;
        self.inner.receipts.put(receipt);
    }

    /// Writes down that who asked for the file `name` was sent elsewhere before anything was tried.
    pub fn sent_elsewhere(&self, name: &str, redirect: &Redirect) {
        self.inner.receipts.put(Receipt {
            name: name.to_owned(),
            at: rfc3339(unix_seconds(self.inner.clock.now())),
            took_ms: 0,
            ended: Ending::Redirected,
            why: Some(redirect.why.to_string()),
            url: Some(crate::repository::plain(&redirect.url).to_string()),
            root: None,
            len: None,
            bytes: BytesOut::default(),
            givers: Vec::new(),
            checked: None,
        });
    }

    /// Writes down that `answer` was fetched ahead and is kept under `root` since `since`.
    pub(crate) fn fetched_ahead(&self, answer: &FileAnswer, root: &Cid, (at, since): (SystemTime, Instant)) {
        let mut receipt = Self::blank(answer, &Begin { at, since }, Ending::Fetched, None);
        receipt.root = Some(root.to_string());
        receipt.givers = self.inner.fetch.givers(root);
        self.inner.receipts.put(receipt);
    }

    /// What is known of a file, or of the files of a package: the newest receipts, the newest first.
    pub fn why(&self, what: &str) -> Vec<Receipt> {
        self.inner.receipts.about(what)
    }
}
