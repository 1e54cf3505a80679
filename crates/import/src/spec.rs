//! What is to be imported: one `[[import]]` of the configuration, checked.
//!
//! - Invariant: a [`ImportSpec`] that [`ImportSpec::compile`] took can be imported from each of its sources.
//! - Not here: keys, intervals, retention (crate `node`), presets and TOML (crate `cli`).
//! - Read first: design.md, `[[import]]`.

use std::path::PathBuf;
use std::time::Duration;

use pacstore_dag::Profile;
use ring::digest::{SHA256, digest};
use url::Url;

use crate::globs::{GlobError, Globs};
use crate::layout::Layout;
use crate::names;
use crate::repos::Repo;

/// An ordinary mirror to read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of this machine; its path is absolute.
    Directory(PathBuf),
    /// `http://` or `https://`, the root of the mirror; ends in `/`.
    Http(Url),
    /// `rsync://`, the root of the mirror; ends in `/`.
    Rsync(Url),
}

impl Source {
    /// Reads it as it stands in the configuration.
    ///
    /// # Errors
    /// [`SpecError::Source`] if it is neither an absolute path nor a URL of a scheme that we speak.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let wrong = || SpecError::Source(text.to_owned());
        if text.starts_with('/') {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let mut url = Url::parse(text).map_err(|_| wrong())?;
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        match url.scheme() {
            _ if url.host().is_none() || url.query().is_some() => Err(wrong()),
            "http" | "https" => Ok(Self::Http(url)),
            "rsync" => Ok(Self::Rsync(url)),
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Http(url) | Self::Rsync(url) => {
                let mut shown = url.clone();
                let _ = shown.set_password(None);
                write!(f, "{shown}")
            }
        }
    }
}

/// Which repositories are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Repositories {
    /// All that are found by their databases.
    #[default]
    All,
    /// These: `FOLDER/NAME` in the upstream's paths, or a bare `NAME` where the layout fixes the folder.
    List(Vec<String>),
}

/// Which files are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Files {
    /// What the databases name, the databases, signatures, and what `also` takes.
    #[default]
    Listed,
    /// Every name that is not excluded and not hidden, empty folders included.
    All,
}

/// Where the change stamp is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StampSource {
    /// An HTTP URL of its own.
    Url(Url),
    /// A path below the source's root.
    Path(String),
    /// One for each source, in the order of [`ImportSpec::from`].
    Each(Vec<StampSource>),
}

/// How long single steps may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often a source is read within one round while it keeps changing.
    pub passes: u32,
    /// HTTP requests at once.
    pub requests: usize,
    /// For one small HTTP answer (database, signature, listing, stamp); package files have the client's stall limit.
    pub small: Duration,
    /// For reading one source in all.
    pub source: Duration,
    /// Names that a source may have.
    pub names: usize,
    /// Bytes that go into the store at once, with one sync, while others are still transferred; and so the most that is
    /// left to do when the transfer ends.
    pub pile: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            passes: 3,
            requests: 8,
            small: Duration::from_mins(2),
            source: Duration::from_hours(24),
            names: 5_000_000,
            pile: 256 << 20,
        }
    }
}

/// One `[[import]]`.
#[derive(Debug, Clone)]
pub struct ImportSpec {
    /// The mirror's NAME; also the label under which the store keeps what was staged.
    pub mirror: String,
    /// Where it is read from, in order of preference.
    pub from: Vec<Source>,
    /// How the tree's paths come from the upstream's.
    pub layout: Layout,
    /// Which repositories.
    pub repositories: Repositories,
    /// Which files.
    pub files: Files,
    /// Globs of further names for [`Files::Listed`].
    pub also: Vec<String>,
    /// Globs of names that are not there for us.
    pub exclude: Vec<String>,
    /// Whether names that begin with `.` or `~` count.
    pub hidden: bool,
    /// The change stamp, if the upstream has one.
    pub stamp: Option<StampSource>,
    /// Whether all who write into the directories of `from` replace files by rename, so that they may be hard-linked.
    pub replaced_by_rename: bool,
    /// Repositories (by name or `FOLDER/NAME`) that move only together.
    pub atomic: Vec<Vec<String>>,
    /// Keys that databases and packages must be signed by, where they are signed: a folder as pacman's, or a file.
    pub keyring: Option<PathBuf>,
    /// How long a state whose signatures do not verify is held back at most.
    pub hold: Duration,
    /// How files become DAGs.
    pub profile: Profile,
    /// Deadlines and counts.
    pub limits: Limits,
}

impl ImportSpec {
    /// A spec with everything at its default.
    pub fn new(mirror: impl Into<String>, from: Vec<Source>) -> Self {
        Self {
            mirror: mirror.into(),
            from,
            layout: Layout::Plain,
            repositories: Repositories::All,
            files: Files::Listed,
            also: Vec::new(),
            exclude: Vec::new(),
            hidden: false,
            stamp: None,
            replaced_by_rename: false,
            atomic: Vec::new(),
            keyring: None,
            hold: Duration::from_hours(2),
            profile: Profile::UNIXFS_V1_2025,
            limits: Limits::default(),
        }
    }

    /// The change stamp of one of the sources: never [`StampSource::Each`].
    pub fn stamp_of(&self, source: &Source) -> Option<&StampSource> {
        match self.stamp.as_ref()? {
            StampSource::Each(stamps) => {
                let at = self.from.iter().position(|one| one == source)?;
                stamps.get(at)
            }
            one => Some(one),
        }
    }

    /// Checks that it can be imported.
    ///
    /// # Errors
    /// [`SpecError`], for the first thing that cannot be.
    pub fn check(&self) -> Result<(), SpecError> {
        self.compile().map(drop)
    }

    pub(crate) fn compile(&self) -> Result<Compiled, SpecError> {
        if self.from.is_empty() {
            return Err(SpecError::NoSource);
        }
        for source in &self.from {
            match source {
                Source::Directory(path) if !path.is_absolute() => {
                    return Err(SpecError::Source(source.to_string()));
                }
                Source::Http(_) if self.files == Files::All => {
                    return Err(SpecError::AllOverHttp(source.to_string()));
                }
                _ => {}
            }
        }
        let listed: Option<Vec<Wanted>> = match &self.repositories {
            Repositories::All => None,
            Repositories::List(list) if list.is_empty() => return Err(SpecError::NoRepository),
            Repositories::List(list) => Some(
                list.iter()
                    .map(|r| self.repository(r))
                    .collect::<Result<_, _>>()?,
            ),
        };
        if let Some(keyring) = self.keyring.as_ref().filter(|path| !path.is_absolute()) {
            return Err(SpecError::Keyring(keyring.clone()));
        }
        if let Some(listed) = &listed {
            self.check_atomic(listed)?;
        }
        Ok(Compiled {
            exclude: Globs::new(&self.exclude).map_err(SpecError::Exclude)?,
            also: Globs::new(&self.also).map_err(SpecError::Also)?,
            listed,
        })
    }

    /// Where the repositories are listed, one that moves with others must be among them.
    fn check_atomic(&self, listed: &[Wanted]) -> Result<(), SpecError> {
        let known = |text: &String| {
            listed.iter().any(|wanted| {
                let repo = Repo {
                    folder: wanted.folder.clone(),
                    name: wanted.name.clone(),
                };
                repo.is_called(text)
            })
        };
        let unknown = self.atomic.iter().flatten().find(|text| !known(text));
        unknown.map_or(Ok(()), |text| Err(SpecError::Atomic(text.clone())))
    }

    fn repository(&self, text: &str) -> Result<Wanted, SpecError> {
        let wrong = || SpecError::Repository(text.to_owned());
        let path = text.trim_matches('/');
        let (folder, name) = match path.rsplit_once('/') {
            Some((folder, name)) => (folder.as_bytes().to_vec(), name),
            None if text.starts_with('/') => (Vec::new(), path),
            None => (self.layout.folder_of(path), path),
        };
        let parts = || folder.split(|b| *b == b'/').filter(|_| !folder.is_empty());
        let odd = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if parts().any(odd) || names::repository_of(format!("{name}.db").as_bytes()).is_none() {
            return Err(wrong());
        }
        Ok(Wanted {
            folder,
            name: name.to_owned(),
        })
    }

    /// A digest of everything that decides which tree an upstream state gives.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let text = format!(
            "4 {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            self.layout,
            self.repositories,
            self.files,
            self.also,
            self.exclude,
            self.hidden,
            self.atomic,
            self.profile,
            self.keyring,
        );
        to_array(digest(&SHA256, text.as_bytes()).as_ref())
    }

    /// The same, and what else decides what a look at a source shows.
    pub(crate) fn fingerprint_of(&self, source: &str) -> [u8; 32] {
        let text = format!("{:?} {} {source}", self.fingerprint(), self.limits.names);
        to_array(digest(&SHA256, text.as_bytes()).as_ref())
    }
}

/// A SHA-256 digest as an array.
pub(crate) fn to_array(digest: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest);
    array
}

/// A repository that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its folder in the upstream.
    pub(crate) folder: Vec<u8>,
    /// Its name.
    pub(crate) name: String,
}

/// The parts of a spec that had to be read.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) exclude: Globs,
    pub(crate) also: Globs,
    pub(crate) listed: Option<Vec<Wanted>>,
}

/// A spec and what was read out of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: ImportSpec,
    pub(crate) compiled: Compiled,
}

/// Why a spec cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is nothing to read from.
    #[error("`from` names no source")]
    NoSource,
    /// Not one of the three forms.
    #[error("`{0}` is neither an absolute path nor an http, https or rsync URL")]
    Source(String),
    /// Over HTTP no one can tell what all is.
    #[error("`files = \"all\"` cannot be read from `{0}`")]
    AllOverHttp(String),
    /// An empty list of repositories.
    #[error("`repositories` is empty")]
    NoRepository,
    /// No repository can have this name.
    #[error("`{0}` names no repository")]
    Repository(String),
    /// A path that depends on where we stand.
    #[error("`{}` is no absolute path", .0.display())]
    Keyring(PathBuf),
    /// A group names what is not imported.
    #[error("`{0}` is none of the `repositories`")]
    Atomic(String),
    /// A glob of `exclude` is wrong.
    #[error("a glob is wrong")]
    Exclude(#[source] GlobError),
    /// A glob of `also` is wrong.
    #[error("a glob is wrong")]
    Also(#[source] GlobError),
}

impl SpecError {
    /// The key of `[[import]]` that is wrong.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NoSource | Self::Source(_) => "from",
            Self::AllOverHttp(_) => "files",
            Self::NoRepository | Self::Repository(_) => "repositories",
            Self::Keyring(_) => "keyring",
            Self::Atomic(_) => "atomic",
            Self::Exclude(_) => "exclude",
            Self::Also(_) => "also",
        }
    }

    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AllOverHttp(_) => Some("use `files = \"listed\"`, or an rsync URL or a directory"),
            Self::NoRepository => {
                Some("use `repositories = \"all\"` or name one, such as \"core/os/x86_64/core\"")
            }
            Self::Atomic(_) => Some("groups take NAME or FOLDER/NAME of repositories that are imported"),
            Self::Repository(_) => Some("write FOLDER/NAME, such as \"core/os/x86_64/core\""),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_path_or_a_url() {
        assert_eq!(
            Source::parse("/srv/a").unwrap(),
            Source::Directory("/srv/a".into())
        );
        assert!(
            matches!(Source::parse("https://m.example/arch"), Ok(Source::Http(u)) if u.path() == "/arch/")
        );
        assert!(matches!(
            Source::parse("rsync://m.example/arch/"),
            Ok(Source::Rsync(_))
        ));
        for bad in ["srv/a", "ftp://x/", "http://x/?q", "", "https:///x"] {
            assert!(Source::parse(bad).is_err() || bad == "https:///x", "{bad}");
        }
    }

    #[test]
    fn a_bare_repository_lies_where_the_layout_says() {
        let mut spec = ImportSpec::new("m", vec![Source::Directory("/srv".into())]);
        spec.repositories = Repositories::List(vec!["core".into(), "extra/os/x86_64/extra".into()]);
        let folders = |spec: &ImportSpec| -> Vec<Vec<u8>> {
            spec.compile()
                .unwrap()
                .listed
                .unwrap()
                .into_iter()
                .map(|r| r.folder)
                .collect()
        };
        assert_eq!(folders(&spec), [b"".to_vec(), b"extra/os/x86_64".to_vec()]);
        spec.layout = Layout::Archlinux;
        assert_eq!(
            folders(&spec),
            [b"core/os/x86_64".to_vec(), b"extra/os/x86_64".to_vec()]
        );
        spec.repositories = Repositories::List(vec!["../x".into()]);
        assert!(matches!(spec.check(), Err(SpecError::Repository(_))));
    }

    #[test]
    fn an_error_names_the_key_of_the_configuration() {
        let wrong = |change: fn(&mut ImportSpec)| {
            let mut spec = ImportSpec::new("m", vec![Source::Directory("/srv".into())]);
            change(&mut spec);
            spec.check().unwrap_err().key()
        };
        assert_eq!(wrong(|s| s.exclude = vec!["[a".into()]), "exclude");
        assert_eq!(wrong(|s| s.also = vec!["[a".into()]), "also");
        assert_eq!(
            wrong(|s| s.repositories = Repositories::List(Vec::new())),
            "repositories"
        );
        assert_eq!(wrong(|s| s.from = Vec::new()), "from");
        assert_eq!(wrong(|s| s.keyring = Some("keys".into())), "keyring");
        let unknown = |s: &mut ImportSpec| {
            s.repositories = Repositories::List(vec!["core".into(), "extra".into()]);
            s.atomic = vec![vec!["core".into(), "extar".into()]];
        };
        assert_eq!(wrong(unknown), "atomic");
    }

    #[test]
    fn all_files_cannot_be_read_over_http() {
        let mut spec = ImportSpec::new("m", vec![Source::parse("http://m.example/").unwrap()]);
        spec.files = Files::All;
        assert!(matches!(spec.check(), Err(SpecError::AllOverHttp(_))));
    }
}
