//! The question for the signature beside a database.
//!
//! Where a mirror was asked before, it is put together with the one for the database ([`Early`]): a look at which
//! nothing changed takes one round trip and not two.
//!
//! - Invariant: it is never waited for longer than if it were put after the database's answer.
//! - Not here: whether the signature is of the database's bytes (`super::pair`).

use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pacstore_pacman::{MAX_SIGNATURE, Seal};
use pacstore_upstream::{Get, HttpError, Url, url_of};
use tokio::time::Instant;

use super::check::{modified, tag};
use super::line::{Line, Seen, Tag};
use super::pair::{HEADER, LookError};
use super::shown;
use crate::node::Node;

/// What is beside a database.
pub(super) enum Signature {
    New(bytes::Bytes, Tag),
    /// That of the state that was seen last.
    Same,
    None,
}

/// A question that is under way before it is known whether its answer is of use. Dropped, it is taken back.
pub(super) struct Early {
    asking: BoxFuture<'static, Result<Signature, LookError>>,
    answer: Option<Result<Signature, LookError>>,
}

impl Early {
    /// Is the signature another than the one `seen`? Nothing goes out before [`Self::beside`].
    pub(super) fn new(node: &Node, folder: &Url, line: &Line, seen: &Seen) -> Result<Self, LookError> {
        let (node, url, tag) = (node.clone(), url(folder, line)?, tag_of(seen).cloned());
        Ok(Self {
            asking: async move { ask(&node, &url, tag.as_ref(), HEADER).await }.boxed(),
            answer: None,
        })
    }

    /// Goes on while `other` does, whose end is waited for.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        tokio::select! {
            biased;
            got = &mut other => return got,
            answer = &mut self.asking, if self.answer.is_none() => self.answer = Some(answer),
        }
        other.await
    }

    /// The answer, now that the database is known to be the one `seen`. A mirror that does not take two questions at
    /// once is asked again.
    pub(super) async fn answer(
        self,
        node: &Node,
        folder: &Url,
        line: &Line,
        seen: &Seen,
    ) -> Result<Signature, LookError> {
        let until = Instant::now() + HEADER;
        let answer = match self.answer {
            Some(answer) => answer,
            None => self.asking.await,
        };
        match answer {
            Err(LookError::Http(error)) if was_refused(&error) => {
                let left = until.saturating_duration_since(Instant::now());
                ask(node, &url(folder, line)?, tag_of(seen), left).await
            }
            answer => answer,
        }
    }
}

/// At once, and perhaps for being the second question; not by silence.
fn was_refused(error: &HttpError) -> bool {
    use HttpError::{Connect, NoAnswer, Status};
    error.is_transient() && matches!(error, Connect { .. } | NoAnswer { .. } | Status { .. })
}

/// Fetches what is beside the database at `folder`.
pub(super) async fn signature(node: &Node, folder: &Url, line: &Line) -> Result<Signature, LookError> {
    ask(node, &url(folder, line)?, None, HEADER).await
}

async fn ask(node: &Node, url: &Url, seen: Option<&Tag>, time: Duration) -> Result<Signature, LookError> {
    let mut get = Get::new(url);
    get.max_len = Some(MAX_SIGNATURE as u64);
    get.deadline = Some(time);
    if let Some(tag) = seen {
        unless(&mut get, tag);
    }
    match node.inner.http.get(&get).await {
        Err(HttpError::NotModified { .. }) => Ok(Signature::Same),
        // Or a page that says so in many words.
        Err(
            HttpError::Status {
                code: 403 | 404 | 410,
                ..
            }
            | HttpError::TooLong { .. },
        ) => Ok(Signature::None),
        Err(error) => Err(error.into()),
        Ok(mut response) => {
            let tag = tag(&response);
            if seen.is_some_and(|seen| seen.shows(&tag)) {
                return Ok(Signature::Same);
            }
            let bytes = response.bytes().await?;
            Ok(match Seal::read(&bytes) {
                Some(_) => Signature::New(bytes, tag),
                None if Seal::is_cut(&bytes) => return Err(LookError::Cut(shown(url))),
                None => Signature::None,
            })
        }
    }
}

fn url(folder: &Url, line: &Line) -> Result<Url, LookError> {
    file_url(folder, &format!("{}.sig", line.name))
}

fn tag_of(seen: &Seen) -> Option<&Tag> {
    seen.signature.as_ref().filter(|tag| tag.tells())
}

/// The URL of a file in a mirror's folder.
pub(super) fn file_url(folder: &Url, name: &str) -> Result<Url, LookError> {
    url_of(folder, name.as_bytes()).map_err(|_| LookError::Url(shown(folder)))
}

/// Asks only for another version than the one with `tag`.
pub(super) fn unless(get: &mut Get<'_>, tag: &Tag) {
    get.if_none_match.clone_from(&tag.etag);
    if tag.etag.is_none() {
        get.if_modified_since = tag
            .modified
            .map(|told| modified(Some(told), std::time::UNIX_EPOCH));
    }
}
