//! The listings of a web mirror: which repositories there are, what `also` takes, what is named in vain.
//!
//! - Invariant: depth, number and length of listings are bounded, so no link makes a walk endless.
//! - Not here: files (`crate::web`), how a listing is read (crate `upstream`).
//! - Read first: `crate::web`.

use std::collections::{BTreeSet, VecDeque};

use pacstore_pacman as pacman;
use pacstore_runtime::Pool;
use pacstore_upstream::{Get, HttpError, parse_listing};

use crate::error::SourceError;
use crate::layout::{ARCHLINUX, Layout};
use crate::names;
use crate::repos::Repo;
use crate::view::View;
use crate::web::Web;

/// The longest listing.
const MAX_LISTING: u64 = 64 << 20;
/// Listings that are read while looking for repositories.
const MAX_LISTINGS: usize = 2000;
const MAX_DEPTH: usize = 8;

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

    /// The repositories, and the paths that `also` takes.
    pub(crate) async fn repositories(&mut self) -> Result<(Vec<Repo>, Vec<Vec<u8>>), SourceError> {
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
                found => found?,
            },
        };
        repos.sort();
        repos.dedup();
        let also = self.find_also().await?;
        self.found = Some((repos.clone(), also.clone()));
        Ok((repos, also))
    }

    async fn find_repositories(&self) -> Result<Vec<Repo>, SourceError> {
        if self.layout == Layout::Archlinux {
            let top = self
                .listing(b"")
                .await?
                .ok_or_else(|| SourceError::NoListing(self.root.to_string()))?;
            let folders = top
                .into_iter()
                .filter(|(_, is_folder)| *is_folder)
                .map(|(name, _)| name);
            let repos = folders.filter_map(|name| {
                let folder = [&*name, ARCHLINUX].concat();
                String::from_utf8(name).ok().map(|name| Repo { folder, name })
            });
            return Ok(repos.collect());
        }
        let mut repos = Vec::new();
        let files = self.crawl(Vec::new(), |path| {
            let (folder, name) = names::split(path);
            if let Some(name) = names::repository_of(name) {
                repos.push(Repo {
                    folder: folder.to_vec(),
                    name: name.to_owned(),
                });
            }
            false
        });
        if files.await?.is_none() {
            return Err(SourceError::NoListing(self.root.to_string()));
        }
        Ok(repos)
    }

    async fn find_also(&self) -> Result<Vec<Vec<u8>>, SourceError> {
        let mut all = Vec::new();
        if self.also.is_empty() {
            return Ok(all);
        }
        for start in self.also.starts() {
            all.extend(
                self.crawl(start.clone(), |path| self.also.covers_file(path))
                    .await?
                    .unwrap_or_default(),
            );
        }
        Ok(all)
    }

    /// Walks the listings below a folder and gives the files that `take` takes; nothing if there is no listing.
    async fn crawl(
        &self,
        start: Vec<u8>,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Vec<Vec<u8>>>, SourceError> {
        let mut todo = VecDeque::from([(start, 0)]);
        let mut files = Vec::new();
        let mut listings = 0;
        while let Some((folder, depth)) = todo.pop_front() {
            listings += 1;
            if MAX_LISTINGS < listings {
                break;
            }
            let Some(entries) = self.listing(&folder).await? else {
                if depth == 0 {
                    return Ok(None);
                }
                continue;
            };
            for (name, is_folder) in entries {
                let path = names::join(&folder, &name);
                if is_folder {
                    if depth < MAX_DEPTH && !self.exclude.takes_folder(&path) {
                        todo.push_back((path, depth + 1));
                    }
                } else if self.is_ours(&path) && take(&path) {
                    files.push(path);
                }
            }
        }
        Ok(Some(files))
    }

    /// The visible names of a folder, and whether each is a folder; nothing if the server does not say.
    pub(crate) async fn listing(&self, folder: &[u8]) -> Result<Option<Vec<(Vec<u8>, bool)>>, SourceError> {
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
        let mut answer = match self.http.get(&get).await {
            Ok(answer) => answer,
            Err(HttpError::Status {
                code: 401 | 403 | 404 | 410,
                ..
            }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let html = answer.bytes().await?;
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
