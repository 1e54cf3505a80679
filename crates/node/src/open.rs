//! Opening what a request gets: from disk, while it arrives, or a mirror instead.
//!
//! - Invariant: every byte that is read is counted under the source this node first got
//!   it from.
//! - Not here: which file it is (`crate::serve`), how it comes (`crate::fetch`,
//!   `crate::repository`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use pacstore_runtime::Pool;
use pacstore_store::OpenFile;
use url::Url;

use crate::bytes_out::Counters;
use crate::fetch::{AskPeers, FetchError, Opened, Reader, Through};
use crate::node::Node;
use crate::serve::{FileAnswer, Known};

impl Node {
    /// Opens the file of `answer` and reads its first bytes, of `start..end`.
    ///
    /// # Errors
    /// [`FetchError::Late`] if a mirror gives them sooner than they come through us;
    /// else as [`Node::open`].
    pub async fn begin(
        &self,
        answer: &FileAnswer,
        start: u64,
        end: u64,
    ) -> Result<(Content, Bytes), FetchError> {
        self.begin_for(answer, start, end, &[&self.inner.counters]).await
    }

    /// The same, counted in `counters`.
    pub(crate) async fn begin_for(
        &self,
        answer: &FileAnswer,
        start: u64,
        end: u64,
        counters: &[&Counters],
    ) -> Result<(Content, Bytes), FetchError> {
        let waiting = match &answer.known {
            Known::Tree => self.inner.fetch.first_byte(&answer.root, answer.len, start),
            Known::Package(package) if package.is_small() => {
                self.inner.fetch.first_byte(&answer.root, answer.len, start)
            }
            // Where it is fetched whole, that part knows how long it may take.
            Known::Package(_) | Known::Bytes(..) => None,
        };
        let begun = async {
            let mut content = self.open_at(answer, start).await?;
            let first = self.read_on(answer, &mut content, start..end, counters).await?;
            Ok((content, first))
        };
        let too_late = async {
            match &waiting {
                Some(waiting) => waiting.too_late().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            begun = begun => begun,
            () = too_late, if !answer.sources.upstreams.is_empty() => {
                if let Known::Package(package) = &answer.known {
                    self.is_in_pacmans_cache_soon(package);
                }
                Err(FetchError::Late { cid: answer.root })
            }
        }
    }

    /// The mirror to send pacman to for `answer`, if one may help.
    pub fn mirror_instead(&self, answer: &FileAnswer) -> Option<Url> {
        let mut urls = answer.sources.upstreams.clone();
        self.inner.ranking.mirrors().sort(&mut urls);
        let mut urls = urls.into_iter();
        urls.find(|url| self.inner.fetch.may_lead_to(&answer.root, url))
    }

    /// Opens the file of `answer`.
    ///
    /// # Errors
    /// [`FetchError`] if no source gives it.
    pub async fn open(&self, answer: &FileAnswer) -> Result<Content, FetchError> {
        self.open_at(answer, 0).await
    }

    /// Reads on in the file of `answer`. What was shared with somebody who wrote to it, or took it away, comes from
    /// elsewhere then.
    pub(crate) async fn read_on(
        &self,
        answer: &FileAnswer,
        content: &mut Content,
        range: Range<u64>,
        counters: &[&Counters],
    ) -> Result<Bytes, FetchError> {
        let (start, end) = (range.start, range.end);
        match content.read_for(self, start, end, counters).await {
            Err(FetchError::Read { .. }) if matches!(content, Content::Stored(_)) => {
                *content = Box::pin(self.open_at(answer, start)).await?;
                content.read_for(self, start, end, counters).await
            }
            read => read,
        }
    }

    async fn open_at(&self, answer: &FileAnswer, start: u64) -> Result<Content, FetchError> {
        let opened = match &answer.known {
            Known::Tree => {
                self.show_public(answer).await;
                let fetch = &self.inner.fetch;
                fetch.open_at(&answer.root, &answer.sources, start).await?
            }
            Known::Package(package) => self.open_package(answer, package).await?,
            Known::Bytes(bytes, origin) => return Ok(Content::Small(bytes.clone(), *origin, answer.root)),
        };
        Ok(match opened {
            Opened::Stored(file) => Content::Stored(file),
            Opened::Arriving(reader) => Content::Arriving(reader),
            Opened::Small(small) => Content::Small(small.data, small.origin, answer.root),
            Opened::Through(through) => Content::Through(through),
        })
    }

    /// A public head names it: that it exists is no secret of a private repository.
    async fn show_public(&self, answer: &FileAnswer) {
        let hidden = &self.inner.privacy.hidden;
        if answer.sources.peers != AskPeers::Everyone || !hidden.is_listed(&answer.root) {
            return;
        }
        let (hidden, root) = (Arc::clone(hidden), answer.root);
        let shown = self
            .inner
            .tasks
            .blocking(Pool::Disk, move || crate::hidden::show(&hidden, &root));
        // Stopping: then nobody asks for it any more.
        let _ = shown.await;
    }
}

/// An opened file.
#[derive(Debug)]
pub enum Content {
    /// On disk.
    Stored(Arc<OpenFile>),
    /// On its way.
    Arriving(Reader),
    /// On its way, and not kept.
    Through(Box<Through>),
    /// In memory, just come in.
    Small(Bytes, pacstore_store::Origin, Cid),
}

impl Content {
    /// The next bytes at `start`, not past `end`, counted as given. Never empty.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn read(&mut self, node: &Node, start: u64, end: u64) -> Result<Bytes, FetchError> {
        self.read_for(node, start, end, &[&node.inner.counters]).await
    }

    /// The same, counted in `counters`.
    pub(crate) async fn read_for(
        &mut self,
        node: &Node,
        start: u64,
        end: u64,
        counters: &[&Counters],
    ) -> Result<Bytes, FetchError> {
        match self.piece(node, start, end, counters).await {
            // The disk filled up half-way: on without it.
            Err(error) if error.is_about_keeping() => {
                let Self::Arriving(reader) = self else {
                    return Err(error);
                };
                *self = Self::Through(Box::new(reader.through()?));
                self.piece(node, start, end, counters).await
            }
            read => read,
        }
    }

    /// The root under which its bytes are known; `asked` is that of the answer.
    pub(crate) fn root(&self, asked: &Cid) -> Cid {
        match self {
            Self::Stored(file) => file.info.root,
            Self::Arriving(reader) => reader.root(),
            Self::Small(_, _, root) => *root,
            Self::Through(_) => *asked,
        }
    }

    async fn piece(
        &mut self,
        node: &Node,
        start: u64,
        end: u64,
        counters: &[&Counters],
    ) -> Result<Bytes, FetchError> {
        let count = |origin, data: &Bytes| {
            let bytes = data.len() as u64;
            for counters in counters {
                counters.add(origin, bytes);
            }
        };
        match self {
            Self::Stored(file) => {
                let data = node.read_stored(file, start, end).await?;
                let bytes = data.len() as u64;
                for counters in counters {
                    counters.add_shared(&file.info.by_origin, bytes);
                }
                Ok(data)
            }
            Self::Arriving(reader) => {
                let root = reader.root();
                let read = reader.read(start, end).await?;
                let (data, origin) = read.ok_or_else(|| FetchError::NoSource {
                    cid: root,
                    why: "past its end".into(),
                })?;
                count(origin, &data);
                Ok(data)
            }
            Self::Through(through) => {
                let (data, origin) = through.read(start, end).await?;
                count(origin, &data);
                Ok(data)
            }
            Self::Small(data, origin, root) => {
                if end <= start || data.len() as u64 <= start {
                    return Err(FetchError::Read {
                        cid: *root,
                        source: Arc::new(std::io::ErrorKind::UnexpectedEof.into()),
                    });
                }
                let part =
                    data.slice(start.min(data.len() as u64) as usize..end.min(data.len() as u64) as usize);
                count(*origin, &part);
                Ok(part)
            }
        }
    }
}
