//! An rsync module beside our copy of it: what it lists, what lies in our tree, and whether that is all as it was.
//!
//! Most rounds find what the one before found. A digest over the listing and over our tree tells that without a look at
//! each of the names; the last round that found nothing new, having looked at all of them, left it in the manifest.
//!
//! - Invariant: equal [`Survey::print`]s stand for equal views of one spec and source.
//! - Invariant: there is no print where a listing was not whole, needed a second one, or a file here was written just now.
//! - Not here: what the names mean (`crate::listing`), bringing files (`crate::module`).

use futures::future::try_join;
use pacstore_runtime::Pool;
use pacstore_upstream::{ListSpec, Listing, RsyncError, Rule};
use ring::digest::{Context, SHA256};

use crate::error::SourceError;
use crate::globs::Globs;
use crate::listing::{Names, TooMany, names_of};
use crate::module::Module;
use crate::scan::Filter;
use crate::source::scan;
use crate::spec::to_array;
use crate::view::{Mark, View};

/// A digest of all that a look at a module depends on.
pub(crate) type Print = [u8; 32];

/// Both sides as they are now.
#[derive(Debug)]
pub(crate) struct Survey {
    listing: Listing,
    /// What lies in our tree.
    pub(crate) here: View,
    /// What this is known by, if that can be told.
    pub(crate) print: Option<Print>,
}

impl Survey {
    /// Lists the module once more; what lies here is known.
    pub(crate) async fn list_again(&mut self, module: &Module) -> Result<(), SourceError> {
        self.print = None;
        self.listing = module.list(module.rules()).await?;
        Ok(())
    }
}

impl Module {
    /// Lists the module and walks our tree.
    pub(crate) async fn survey(&self) -> Result<Survey, SourceError> {
        let (listing, (here, mark)) = try_join(self.list(self.rules()), self.marked()).await?;
        let print = listing.digest.zip(mark).map(|(listing, here)| {
            let mut context = Context::new(&SHA256);
            for part in [self.depends_on, listing, here] {
                context.update(&part);
            }
            to_array(context.finish().as_ref())
        });
        Ok(Survey { listing, here, print })
    }

    /// The names that were listed. Where a link leads into what is excluded or hidden, all of the module is listed.
    pub(crate) async fn named(&self, survey: &mut Survey) -> Result<Names, SourceError> {
        let names = self.names(std::mem::take(&mut survey.listing)).await?;
        if names.unlisted && !self.rules().is_empty() {
            survey.print = None;
            let all = self.list(Vec::new()).await?;
            return self.names(all).await;
        }
        Ok(names)
    }

    /// What the sender need not list.
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.filter.hidden {
            rules.extend([".*", "~*"].map(Rule::exclude));
        }
        // What rsync would read in another way is left to the walk.
        let same = self
            .exclude
            .iter()
            .filter(|pattern| !pattern.contains(['{', '}']));
        rules.extend(same.map(|pattern| Rule::exclude(pattern.as_bytes())));
        rules
    }

    async fn list(&self, rules: Vec<Rule>) -> Result<Listing, SourceError> {
        let mut spec = ListSpec::new(&self.source);
        (spec.recursive, spec.keep_links, spec.rules) = (true, true, rules);
        (spec.max_entries, spec.deadline) = (self.filter.limit, self.deadline);
        (spec.stop, spec.pulse) = (self.tasks.stop().child_token(), self.progress.pulse());
        Ok(self.rsync.list(&spec).await?)
    }

    async fn names(&self, listing: Listing) -> Result<Names, SourceError> {
        let (filter, above) = (self.filter.clone(), above_root(&self.source));
        let named = self
            .tasks
            .blocking(Pool::Hash, move || names_of(listing.entries, &filter, &above));
        let names = named
            .await?
            .map_err(|TooMany(limit)| RsyncError::TooMany(limit))?;
        Ok(names)
    }

    /// All files that lie in our own tree.
    pub(crate) async fn staged(&self) -> Result<View, SourceError> {
        let Some(root) = self.root.clone() else {
            return Ok(View::default());
        };
        let all = Filter {
            exclude: Globs::default(),
            hidden: true,
            limit: usize::MAX,
        };
        scan(&self.tasks, root, all).await
    }

    /// The same, with a digest of it unless a file was written so lately that a later write need not show.
    async fn marked(&self) -> Result<(View, Option<[u8; 32]>), SourceError> {
        let (here, now) = (self.staged().await?, self.now);
        let marked = self.tasks.blocking(Pool::Hash, move || {
            let mut mark = Mark::new(now);
            for (path, item) in &here.files {
                mark.file(path, item);
            }
            for path in &here.folders {
                mark.folder(path);
            }
            let (digest, settled) = mark.finish();
            (here, settled.then_some(digest))
        });
        Ok(marked.await?)
    }
}

/// The folders of the module that lie above what the URL names, and that one.
fn above_root(url: &str) -> Vec<Vec<u8>> {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let parts = path.split('/').skip(1).filter(|part| !part.is_empty());
    parts.skip(1).map(|part| part.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use pacstore_runtime::{Clock, Tasks};
    use pacstore_store::{Options, Store};
    use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult};
    use pacstore_upstream::{Http, HttpOptions};

    use super::*;
    use crate::progress::Progress;
    use crate::round::Importer;
    use crate::spec::{Files, ImportSpec, Source};

    /// As files are that were written long before they are looked at. rsync tells files apart by size and second.
    fn age(dir: &Path, hours: u64) -> TestResult {
        for entry in fs_err::read_dir(dir)? {
            let file = fs_err::File::open(entry?.path())?;
            file.file()
                .set_modified(std::time::SystemTime::now() - Duration::from_hours(hours))?;
        }
        Ok(())
    }

    /// Whether a look at the source of `importer` would be taken for the one before.
    async fn is_as_before(importer: &mut Importer) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let state = importer.prepare().await?;
        let known = importer.manifest.as_ref().ok_or("it is open")?.print()?;
        let source = importer.spec().from.first().cloned().ok_or("it has one")?;
        let opened = importer.open(&source, state.as_ref(), &Progress::default()).await;
        let mut transport = opened.map_err(|e| format!("{e:?}"))?;
        Ok(transport.look_unless(known).await?.is_none())
    }

    #[tokio::test]
    async fn only_what_is_all_as_it_was_is_taken_for_it() -> TestResult {
        let upstream = tempfile::tempdir()?;
        let mut repo = Repo::create(upstream.path(), RepoSpec::new("core").packages(3, 500))?;
        fs_err::write(upstream.path().join("README"), b"1")?;
        age(upstream.path(), 9)?;
        let Some(daemon) = RsyncDaemon::serve(upstream.path())? else {
            return Ok(());
        };
        for (hours, files) in [(8, Files::All), (6, Files::Listed)] {
            let dir = tempfile::tempdir()?;
            let store = Store::open(&dir.path().join("store"), Options::new(1 << 30))?;
            let make = |change: &dyn Fn(&mut ImportSpec)| {
                let mut spec =
                    ImportSpec::new("test.mirror", vec![Source::parse(&daemon.url("")).expect("one")]);
                spec.files = files;
                change(&mut spec);
                let (http, work) = (Http::new(HttpOptions::default()), dir.path().join("work"));
                Importer::new(spec, store.clone(), http, Tasks::new(), Clock::system(), work)
            };
            let progress = Progress::default();
            let mut importer = make(&|_| ())?;
            assert!(importer.round(&progress).await?.changed);
            assert!(
                !is_as_before(&mut importer).await?,
                "nobody found it unchanged yet"
            );
            let unchanged = importer.round(&progress).await?;
            assert!(!unchanged.changed);
            assert!(is_as_before(&mut importer).await?, "{files:?}");
            let again = importer.round(&progress).await?;
            assert_eq!((again.tree, again.counts), (unchanged.tree, unchanged.counts));
            assert_eq!(again.repositories, unchanged.repositories);

            // The next process, then other wishes.
            drop(importer);
            assert!(is_as_before(&mut make(&|_| ())?).await?);
            assert!(!is_as_before(&mut make(&|spec| spec.exclude.push("x*".to_owned()))?).await?);
            assert!(!is_as_before(&mut make(&|spec| spec.limits.names = 1000)?).await?);
            let mut importer = make(&|_| ())?;

            // Our own copy.
            let staged = dir.path().join("work/rsync/tree/core.db");
            let (bytes, modified) = (fs_err::read(&staged)?, fs_err::metadata(&staged)?.modified()?);
            fs_err::remove_file(&staged)?;
            fs_err::write(&staged, &bytes)?;
            fs_err::File::open(&staged)?.file().set_modified(modified)?;
            assert!(
                !is_as_before(&mut importer).await?,
                "another file of the same bytes and time"
            );
            importer.round(&progress).await?;

            // The upstream.
            repo.update(&["pkg1"])?;
            age(upstream.path(), hours)?;
            assert!(!is_as_before(&mut importer).await?);
            let changed = importer.round(&progress).await?;
            assert!(changed.changed && !is_as_before(&mut importer).await?);
            importer.round(&progress).await?;
            assert!(is_as_before(&mut importer).await?);
            fs_err::write(upstream.path().join("README"), b"22")?;
            assert!(!is_as_before(&mut importer).await?);
            age(upstream.path(), hours - 1)?;
        }
        Ok(())
    }

    #[test]
    fn the_module_is_the_first_part_of_the_path() {
        assert!(above_root("rsync://h/m/").is_empty());
        let above = above_root("rsync://u@[::1]:873/m/a/b/");
        assert_eq!(above, [b"a".to_vec(), b"b".to_vec()]);
    }
}
