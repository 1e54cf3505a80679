//! `pacman.conf` as pacman reads it, and edits that touch only their own lines.
//!
//! [`Conf`] is one file, line by line; [`Settings`] is what the file and all that it
//! includes come to. Pacman has no comments behind a value: `Server = x # y` is the
//! value `x # y`; only a line that begins with `#` is a comment.
//!
//! - Invariant: [`Conf::to_bytes`] of what was parsed are the same bytes, whatever they were.
//! - Invariant: what is not understood is kept, never an error.
//! - Not here: reading files and globs; [`Settings::read`] asks its caller for what is included.
//! - Read first: `pacman.conf(5)`; pacman's `src/common/ini.c` and `src/pacman/conf.c`.
//!
//! ```
//! use pacstore_pacman::{Conf, Settings};
//!
//! let conf = Conf::parse(b"[options]\nIgnorePkg = linux\n[core]\nServer = https://a.example/$repo\n");
//! let settings = Settings::read(&conf, &mut |_pattern| Vec::new())?;
//! assert_eq!(settings.options.ignore_pkg, ["linux"]);
//! assert_eq!(settings.repositories[0].servers, ["https://a.example/$repo"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;

/// Includes within includes that pacman follows (`PARSER_MAX_RECURSION`).
const MAX_DEPTH: usize = 10;

/// Files that may be included in all; far above what a machine has.
const MAX_FILES: usize = 1_000;

/// Why a configuration cannot be understood as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// Includes go in circles, or nearly so.
    #[error("`Include = {0}` is more than {MAX_DEPTH} includes deep")]
    Depth(String),
    /// More files than any machine has.
    #[error("more than {MAX_FILES} files are included")]
    Files,
}

/// What one line is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Blank,
    Comment,
    Section(String),
    /// A key, and the value where an `=` stands.
    Directive(String, Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// With its ending, if it has one.
    bytes: Vec<u8>,
    kind: Kind,
}

impl Line {
    fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
        let kind = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            _ if text.is_empty() => Kind::Blank,
            _ if text.starts_with('#') => Kind::Comment,
            Some(name) => Kind::Section(name.to_owned()),
            None => match text.split_once('=') {
                Some((key, value)) => {
                    Kind::Directive(key.trim_end().to_owned(), Some(value.trim_start().to_owned()))
                }
                None => Kind::Directive(text.to_owned(), None),
            },
        };
        Self {
            bytes: bytes.to_owned(),
            kind,
        }
    }
}

/// A key and its value, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive<'a> {
    /// Index of its line in the file.
    pub line: usize,
    /// Such as `Server`; case counts.
    pub key: &'a str,
    /// What follows the `=`, if there is one.
    pub value: Option<&'a str>,
}

/// One `[NAME]` and what stands below it, up to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Without brackets. A name may come several times.
    pub name: &'a str,
    /// Index of its header's line.
    pub line: usize,
    /// Index of the first line that is no longer part of it.
    pub end: usize,
    /// In the file's order.
    pub directives: Vec<Directive<'a>>,
}

/// One configuration file or mirrorlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    lines: Vec<Line>,
}

impl Conf {
    /// Reads any bytes; `\n` and `\r\n` end lines, the last may lack its end.
    pub fn parse(bytes: &[u8]) -> Self {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        Self {
            lines: lines.map(Line::new).collect(),
        }
    }

    /// The file as it is now.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines
            .iter()
            .flat_map(|line| line.bytes.iter().copied())
            .collect()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// There is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The text of line `index` without blanks around it; empty past the end.
    pub fn text(&self, index: usize) -> Cow<'_, str> {
        let bytes = self.lines.get(index).map_or(&b""[..], |line| &line.bytes);
        String::from_utf8_lossy(bytes.trim_ascii())
    }

    /// The bytes of line `index` as they stand in the file; empty past the end.
    pub fn raw(&self, index: usize) -> &[u8] {
        self.lines.get(index).map_or(&b""[..], |line| &line.bytes)
    }

    /// All keys, those before the first section too.
    pub fn directives(&self) -> impl Iterator<Item = Directive<'_>> {
        self.lines
            .iter()
            .enumerate()
            .filter_map(|(line, one)| match &one.kind {
                Kind::Directive(key, value) => Some(Directive {
                    line,
                    key,
                    value: value.as_deref(),
                }),
                _ => None,
            })
    }

    /// The sections in the file's order; one that stands twice comes twice.
    pub fn sections(&self) -> Vec<Section<'_>> {
        let mut sections: Vec<Section<'_>> = Vec::new();
        for (line, one) in self.lines.iter().enumerate() {
            if let Kind::Section(name) = &one.kind {
                sections.push(Section {
                    name,
                    line,
                    end: line + 1,
                    directives: Vec::new(),
                });
            }
            let Some(section) = sections.last_mut() else {
                continue;
            };
            section.end = line + 1;
            if let Kind::Directive(key, value) = &one.kind {
                section.directives.push(Directive {
                    line,
                    key,
                    value: value.as_deref(),
                });
            }
        }
        sections
    }

    /// Puts `text`, one line without its ending, before line `index` (past the end: last).
    ///
    /// The ending is that of the neighbouring lines. Taking the line out again with
    /// [`Conf::remove`] gives the bytes from before, save at the end of a file whose last
    /// line has no ending: that line gets one.
    pub fn insert(&mut self, index: usize, text: &str) {
        let index = index.min(self.lines.len());
        let ending = self.ending(index);
        if let Some(last) = index.checked_sub(1).and_then(|last| self.lines.get_mut(last))
            && !last.bytes.ends_with(b"\n")
        {
            last.bytes.extend_from_slice(ending);
        }
        let bytes = [text.as_bytes(), ending].concat();
        self.lines.insert(index, Line::new(&bytes));
    }

    /// Takes line `index` out; nothing happens past the end.
    pub fn remove(&mut self, index: usize) {
        if index < self.lines.len() {
            self.lines.remove(index);
        }
    }

    /// How lines end around `index`: the line before, else the one after, else `\n`.
    fn ending(&self, index: usize) -> &'static [u8] {
        let near = index.checked_sub(1).into_iter().chain([index]);
        for line in near.filter_map(|index| self.lines.get(index)) {
            if line.bytes.ends_with(b"\r\n") {
                return b"\r\n";
            }
            if line.bytes.ends_with(b"\n") {
                return b"\n";
            }
        }
        b"\n"
    }
}

/// What `[options]` says, as far as anybody here asks. Empty = not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `Architecture`, first one first; `auto` is left to the caller (it means `uname -m`).
    pub architectures: Vec<String>,
    /// `IgnorePkg`: globs.
    pub ignore_pkg: Vec<String>,
    /// `IgnoreGroup`: globs.
    pub ignore_group: Vec<String>,
    /// `CacheDir`, in order; pacman's default is `/var/cache/pacman/pkg/`.
    pub cache_dirs: Vec<String>,
    /// `RootDir`.
    pub root_dir: Option<String>,
    /// `DBPath`; pacman's default is `/var/lib/pacman/`.
    pub db_path: Option<String>,
    /// `GPGDir`; pacman's default is `/etc/pacman.d/gnupg/`.
    pub gpg_dir: Option<String>,
    /// `SigLevel`'s words, all of them in order.
    pub sig_level: Vec<String>,
    /// `ParallelDownloads`, where it is a number; pacman's default is 1.
    pub parallel_downloads: Option<u32>,
    /// `XferCommand`.
    pub xfer_command: Option<String>,
    /// `DownloadUser` (pacman 7).
    pub download_user: Option<String>,
    /// Every other key in order, with its value.
    pub other: Vec<(String, Option<String>)>,
}

/// One repository as pacman sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Its name, such as `core`.
    pub name: String,
    /// `Server`, in order, `$repo` and `$arch` as written.
    pub servers: Vec<String>,
    /// `CacheServer` (pacman 6.1), in order.
    pub cache_servers: Vec<String>,
    /// `SigLevel`'s words, beyond those of `[options]`.
    pub sig_level: Vec<String>,
    /// `Usage`'s words; none = all uses.
    pub usage: Vec<String>,
    /// Every other key in order, with its value.
    pub other: Vec<(String, Option<String>)>,
}

/// What `pacman.conf` and all that it includes come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[options]`.
    pub options: Options,
    /// In pacman's order; a section that stands twice is one repository here.
    pub repositories: Vec<RepositorySettings>,
}

impl Settings {
    /// Puts `conf` and what it includes together.
    ///
    /// `include` is given the glob of each `Include` and returns the files that match, in
    /// the glob's order; none is fine, as it is for pacman. An included file goes on in the
    /// section that includes it, and a section that it begins lasts beyond its end.
    ///
    /// # Errors
    /// [`ConfError`] if includes go in circles or are more than a machine can have.
    pub fn read(conf: &Conf, include: &mut dyn FnMut(&str) -> Vec<Conf>) -> Result<Self, ConfError> {
        let mut reading = Reading {
            settings: Self::default(),
            section: None,
            files: 0,
            include,
        };
        reading.file(conf, 0)?;
        Ok(reading.settings)
    }

    /// The architecture that `$arch` stands for; `auto` or nothing said is `machine`'s.
    pub fn architecture<'a>(&'a self, machine: &'a str) -> &'a str {
        match self.options.architectures.first().map(String::as_str) {
            None | Some("auto") => machine,
            Some(first) => first,
        }
    }
}

/// `server` with `$repo` and `$arch` filled in, as pacman does it.
pub fn expand_server(server: &str, repository: &str, architecture: &str) -> String {
    server.replace("$arch", architecture).replace("$repo", repository)
}

/// Where new keys go.
#[derive(Clone, Copy, Debug)]
enum Place {
    Options,
    Repository(usize),
}

struct Reading<'a> {
    settings: Settings,
    section: Option<Place>,
    files: usize,
    include: &'a mut dyn FnMut(&str) -> Vec<Conf>,
}

impl Reading<'_> {
    fn file(&mut self, conf: &Conf, depth: usize) -> Result<(), ConfError> {
        for line in &conf.lines {
            match &line.kind {
                Kind::Section(name) => self.section = Some(self.begin(name)),
                Kind::Directive(key, Some(pattern)) if key == "Include" => {
                    if depth == MAX_DEPTH {
                        return Err(ConfError::Depth(pattern.clone()));
                    }
                    for file in (self.include)(pattern) {
                        self.files += 1;
                        if self.files > MAX_FILES {
                            return Err(ConfError::Files);
                        }
                        self.file(&file, depth + 1)?;
                    }
                }
                Kind::Directive(key, value) => self.say(key, value.as_deref()),
                Kind::Blank | Kind::Comment => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, name: &str) -> Place {
        if name == "options" {
            return Place::Options;
        }
        let repositories = &mut self.settings.repositories;
        if let Some(known) = repositories.iter().position(|one| one.name == name) {
            return Place::Repository(known);
        }
        repositories.push(RepositorySettings {
            name: name.to_owned(),
            ..RepositorySettings::default()
        });
        Place::Repository(repositories.len() - 1)
    }

    fn say(&mut self, key: &str, value: Option<&str>) {
        match self.section {
            Some(Place::Options) => self.settings.options.say(key, value),
            Some(Place::Repository(index)) => {
                if let Some(repository) = self.settings.repositories.get_mut(index) {
                    repository.say(key, value);
                }
            }
            None => {}
        }
    }
}

fn words(value: &str) -> impl Iterator<Item = String> {
    value.split_whitespace().map(str::to_owned)
}

impl Options {
    fn say(&mut self, key: &str, value: Option<&str>) {
        let text = value.unwrap_or_default();
        let one = || Some(text.to_owned());
        match key {
            "Architecture" => self.architectures.extend(words(text)),
            "IgnorePkg" => self.ignore_pkg.extend(words(text)),
            "IgnoreGroup" => self.ignore_group.extend(words(text)),
            "CacheDir" => self.cache_dirs.extend(words(text)),
            "SigLevel" => self.sig_level.extend(words(text)),
            // Of these pacman keeps the first one.
            "RootDir" if self.root_dir.is_none() => self.root_dir = one(),
            "DBPath" if self.db_path.is_none() => self.db_path = one(),
            "GPGDir" if self.gpg_dir.is_none() => self.gpg_dir = one(),
            "ParallelDownloads" => self.parallel_downloads = text.parse().ok(),
            "XferCommand" => self.xfer_command = one(),
            "DownloadUser" => self.download_user = one(),
            _ => self.other.push((key.to_owned(), value.map(str::to_owned))),
        }
    }
}

impl RepositorySettings {
    fn say(&mut self, key: &str, value: Option<&str>) {
        let text = value.unwrap_or_default();
        match key {
            "Server" => self.servers.push(text.to_owned()),
            "CacheServer" => self.cache_servers.push(text.to_owned()),
            "SigLevel" => self.sig_level.extend(words(text)),
            "Usage" => self.usage.extend(words(text)),
            _ => self.other.push((key.to_owned(), value.map(str::to_owned))),
        }
    }
}
