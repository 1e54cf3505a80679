//! The listings of a web mirror: which repositories there are, what `also` takes, what is named in vain.
//!
//! - Invariant: depth, number and length of listings are bounded; a walk that meets a bound is an error, never a part of
//!   the mirror that looks like all of it.
//! - Invariant: a folder whose listing is that of one above it is a link that leads back, and is not walked again; one of a
//!   single folder only if what is below the two is the same, too.
//! - Not here: files (`crate::web`), how a listing is read (crate `upstream`).
//! - Read first: `crate::web`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use pacstore_pacman as pacman;
use pacstore_runtime::Pool;
use pacstore_upstream::{Get, HttpError, parse_listing};

use crate::error::SourceError;
use crate::layout::{ARCHLINUX, Layout};
use crate::names;
use crate::repos::Repo;
use crate::scan::MAX_DEPTH;
use crate::view::View;
use crate::web::Web;

/// The longest listing.
const MAX_LISTING: u64 = 64 << 20;
/// Listings that are read while looking for repositories, or for what one glob of `also` takes.
const MAX_LISTINGS: usize = 5000;
/// Folders with a single folder in them that are compared before two are taken for one.
const MAX_ALIKE: usize = 8;
/// What each link of a page has.
const HREF: &[u8] = b"href";

/// The visible names of a folder, and whether each is a folder.
type Names = Vec<(Vec<u8>, bool)>;

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Also {
    /// The files that were wanted.
    pub(crate) files: Vec<Vec<u8>>,
    /// Folders that the one above them names, and the server does not show.
    pub(crate) unread: Vec<Vec<u8>>,
}

/// The listings of the folders that a walk stands in, from the nearest up.
#[derive(Debug)]
struct Above {
    folder: Vec<u8>,
    names: Names,
    next: Option<Arc<Above>>,
}

impl Web {
    /// What no database vouches for (signatures, twins) and the server does not give, but its listing of the folder
    /// names: a link that dangles, most likely. A server without listings says nothing of it.
    pub(crate) async fn named_in_vain(&self, view: &View, mut asked: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let repos = self.found.iter().flat_map(|(repos, _)| repos);
        let looked_at: BTreeSet<Vec<u8>> = asked.iter().map(|path| names::split(path).0.to_vec()).collect();
        for repo in repos.filter(|repo| looked_at.contains(&repo.folder)) {
            asked.extend(pacman::database_names(&repo.name).map(|name| repo.path(&name)));
        }
        asked.retain(|path| view.get(path).is_none() && self.is_ours(path));
        let folders: BTreeSet<Vec<u8>> = asked.iter().map(|path| names::split(path).0.to_vec()).collect();
        let mut named: BTreeSet<Vec<u8>> = BTreeSet::new();
        for folder in folders {
            let Ok(Some(entries)) = self.listing(&folder).await else {
                continue;
            };
            let files = entries.into_iter().filter(|(_, is_folder)| !is_folder);
            named.extend(files.map(|(name, _)| names::join(&folder, &name)));
        }
        asked.retain(|path| named.contains(path));
        asked
    }

    /// The repositories, and what `also` takes.
    pub(crate) async fn repositories(&mut self) -> Result<(Vec<Repo>, Also), SourceError> {
        if let Some(found) = &self.found {
            return Ok(found.clone());
        }
        let mut repos: Vec<Repo> = match &self.wanted {
            Some(wanted) => wanted
                .iter()
                .map(|w| Repo {
                    folder: w.folder.clone(),
                    name: w.name.clone(),
                })
                .collect(),
            None => match self.find_repositories().await {
                // Another source had listings.
                Err(SourceError::NoListing(_)) if !self.known.is_empty() => {
                    self.unlisted = true;
                    self.known.clone()
                }
                found => {
                    let mut found = found?;
                    found.extend(self.unnamed(&found).await?);
                    found
                }
            },
        };
        repos.sort();
        repos.dedup();
        let also = self.find_also().await?;
        self.found = Some((repos.clone(), also.clone()));
        Ok((repos, also))
    }

    /// Repositories of the last tree that no listing led to, and that the one of their own folder names: a page of people's
    /// own above it, such as a front page, says nothing of what is below it.
    async fn unnamed(&self, found: &[Repo]) -> Result<Vec<Repo>, SourceError> {
        let mut unnamed = Vec::new();
        for repo in self.known.iter().filter(|repo| !found.contains(repo)) {
            let name = format!("{}.db", repo.name);
            if !self.is_ours(&repo.path(&name)) {
                continue;
            }
            let listed = self.listing(&repo.folder).await?;
            let entry = (name.into_bytes(), false);
            if listed.is_some_and(|names| names.contains(&entry)) {
                unnamed.push(repo.clone());
            }
        }
        Ok(unnamed)
    }

    async fn find_repositories(&self) -> Result<Vec<Repo>, SourceError> {
        if self.layout == Layout::Archlinux {
            let top = self
                .listing(b"")
                .await?
                .ok_or_else(|| SourceError::NoListing(self.root.to_string()))?;
            let names = top.into_iter().filter(|(_, is_folder)| *is_folder);
            let names = names.filter_map(|(name, _)| String::from_utf8(name).ok());
            let names = names.filter(|name| !self.exclude.takes_folder(name.as_bytes()));
            let repos = stream::iter(names)
                .map(|name| self.architectures_of(name))
                .buffer_unordered(self.limits.requests.max(1));
            return repos.try_concat().await;
        }
        let mut repos = Vec::new();
        let found = self.crawl(Vec::new(), |path| {
            let (folder, name) = names::split(path);
            if let Some(name) = names::repository_of(name) {
                repos.push(Repo {
                    folder: folder.to_vec(),
                    name: name.to_owned(),
                });
            }
            false
        });
        if found.await?.is_none() {
            return Err(SourceError::NoListing(self.root.to_string()));
        }
        Ok(repos)
    }

    /// `R` for the usual architecture, and for each of which `R/os` has a folder; with a database or without.
    async fn architectures_of(&self, name: String) -> Result<Vec<Repo>, SourceError> {
        let (above, usual) = names::split(ARCHLINUX);
        let os = [name.as_bytes(), above].concat();
        let folders = self.listing(&os).await?.unwrap_or_default();
        let folders = folders.into_iter().filter(|(_, is_folder)| *is_folder);
        let mut all: BTreeSet<Vec<u8>> = folders.map(|(arch, _)| arch).collect();
        all.insert(usual.to_vec());
        let repo = |arch: Vec<u8>| Repo {
            folder: names::join(&os, &arch),
            name: name.clone(),
        };
        Ok(all.into_iter().map(repo).collect())
    }

    async fn find_also(&self) -> Result<Also, SourceError> {
        let mut all = Also::default();
        if self.also.is_empty() {
            return Ok(all);
        }
        for start in self.also.starts() {
            match self
                .crawl(start.clone(), |path| self.also.covers_file(path))
                .await?
            {
                Some(found) => {
                    all.files.extend(found.files);
                    all.unread.extend(found.unread);
                }
                // A server without any listing does not name it.
                None if self.listing(b"").await?.is_some() && self.is_named(start).await? => {
                    all.unread.push(start.clone());
                }
                None => {}
            }
        }
        Ok(all)
    }

    /// Walks the listings below a folder and gives the files that `take` takes; nothing if there is no listing.
    async fn crawl(
        &self,
        start: Vec<u8>,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Also>, SourceError> {
        let mut todo = VecDeque::from([(start, 0, None::<Arc<Above>>)]);
        let mut found = Also::default();
        let mut listings = 0;
        while let Some((folder, depth, above)) = todo.pop_front() {
            listings += 1;
            if MAX_LISTINGS < listings {
                return Err(SourceError::TooManyFolders(self.root.to_string(), MAX_LISTINGS));
            }
            let Some(names) = self.listing(&folder).await? else {
                if depth == 0 {
                    return Ok(None);
                }
                found.unread.push(folder);
                continue;
            };
            if self.leads_back(&folder, &names, above.as_ref()).await? {
                continue;
            }
            let here = Arc::new(Above {
                folder: folder.clone(),
                names,
                next: above,
            });
            for (name, is_folder) in &here.names {
                let path = names::join(&folder, name);
                if !is_folder {
                    if self.is_ours(&path) && take(&path) {
                        found.files.push(path);
                    }
                } else if !self.exclude.takes_folder(&path) {
                    if MAX_DEPTH <= depth {
                        return Err(SourceError::TooDeep(self.root.to_string(), MAX_DEPTH));
                    }
                    todo.push_back((path, depth + 1, Some(Arc::clone(&here))));
                }
            }
        }
        Ok(Some(found))
    }

    /// Whether `names` is the listing of a folder above, so that a link led back to it. One without folders leads nowhere.
    async fn leads_back(
        &self,
        folder: &[u8],
        names: &Names,
        above: Option<&Arc<Above>>,
    ) -> Result<bool, SourceError> {
        if names.iter().all(|(_, is_folder)| !is_folder) {
            return Ok(false);
        }
        for above in std::iter::successors(above, |folder| folder.next.as_ref()) {
            if above.names == *names && self.go_on_alike(&above.folder, folder, names).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether two folders of these names are one. A single folder says little (`x86_64/x86_64/`), so it is looked whether
    /// what is below it is the same, too, until a listing says more.
    async fn go_on_alike(&self, a: &[u8], b: &[u8], names: &Names) -> Result<bool, SourceError> {
        let (mut a, mut b, mut names) = (a.to_vec(), b.to_vec(), names.clone());
        for _ in 0..MAX_ALIKE {
            let [(name, true)] = &*names else { return Ok(true) };
            (a, b) = (names::join(&a, name), names::join(&b, name));
            match (self.listing(&a).await?, self.listing(&b).await?) {
                (Some(below), Some(other)) if below == other => names = below,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether the nearest folder above that can be listed names `folder`, or the one on the way to it.
    pub(crate) async fn is_named(&self, folder: &[u8]) -> Result<bool, SourceError> {
        let mut folder = folder;
        while !folder.is_empty() {
            let (above, name) = names::split(folder);
            if let Some(names) = self.listing(above).await? {
                return Ok(names.iter().any(|(other, is_folder)| *is_folder && other == name));
            }
            folder = above;
        }
        Ok(true)
    }

    /// The visible names of a folder, and whether each is a folder; nothing if the server does not say.
    ///
    /// Below the root a page without a single link is no listing, which would lead to the folder above: it is that of a
    /// server in trouble, or of a portal.
    pub(crate) async fn listing(&self, folder: &[u8]) -> Result<Option<Names>, SourceError> {
        let url = if folder.is_empty() {
            self.root.clone()
        } else {
            let Some(url) = self.url(&[folder, b"/"].concat()) else {
                return Ok(None);
            };
            url
        };
        let mut get = Get::new(&url);
        get.max_len = Some(MAX_LISTING);
        get.deadline = Some(self.limits.small);
        let mut answer = match self.ask(&get).await {
            Ok(answer) => answer,
            Err(HttpError::Status {
                code: 401 | 403 | 404 | 410,
                ..
            }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let html = answer.bytes().await?;
        self.progress.pulse().beat();
        if !folder.is_empty()
            && !html
                .windows(HREF.len())
                .any(|part| part.eq_ignore_ascii_case(HREF))
        {
            return Ok(None);
        }
        let base = answer.url.clone();
        let entries = self
            .tasks
            .blocking(Pool::Hash, move || parse_listing(&html, &base))
            .await?;
        let visible = entries
            .into_iter()
            .filter(|e| self.hidden || !names::is_hidden(&e.name));
        Ok(Some(visible.map(|e| (e.name, e.is_dir)).collect()))
    }
}
