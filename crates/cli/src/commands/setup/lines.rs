//! Our lines in pacman's configuration: put in, found again, taken out.
//!
//! Each repository gets two lines, a marker and the server. They stand in `pacman.conf`
//! itself (or whichever included file has the repository's section), right above the
//! section's first `Server`, `CacheServer` or `Include`: mirror lists are replaced by their package,
//! by reflector and rankmirrors, and what we put there would be gone; sections are the user's own.
//!
//! - Invariant: [`take_out`] of [`put_in`] is the same bytes, also when other lines changed in between.
//! - Invariant: a server of our form without a marker is the user's: never touched.

use pacstore_pacman::{Conf, Directive};

/// Begins every marker; what follows is for people and may change.
const MARKER: &str = "#pacstore#";

/// The marker as written now.
const MARKER_LINE: &str =
    "#pacstore# the next line is from `pacstore setup`; `pacstore setup --undo` takes both out";

/// As which kind of server pacman asks us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// For everything.
    Server,
    /// For packages and their signatures only (pacman 6.1).
    CacheServer,
}

impl Way {
    fn key(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::CacheServer => "CacheServer",
        }
    }
}

/// What our lines say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours<'a> {
    pub(crate) way: Way,
    /// The gateway's.
    pub(crate) port: u16,
    /// `$arch`, or the architecture itself: pacman refuses the variable where `Architecture` is not set.
    pub(crate) arch: &'a str,
}

/// Stands for the architecture in a line of pacman's.
pub(crate) const ARCH: &str = "$arch";

/// The port that a line of our form names.
pub(crate) fn port_of(directive: &Directive<'_>) -> Option<u16> {
    if !matches!(directive.key, "Server" | "CacheServer") {
        return None;
    }
    let rest = directive.value?.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let (host, port) = host.rsplit_once(':')?;
    let ours = matches!(host, "127.0.0.1" | "localhost" | "[::1]");
    let arch = path.trim_end_matches('/').strip_prefix("pacman/$repo/");
    (ours && arch.is_some_and(|arch| !arch.is_empty() && !arch.contains('/')))
        .then(|| port.parse().ok())
        .flatten()
}

/// Puts our lines into the first section of each repository that `wanted` says, if they are not there.
///
/// `conf` has none of ours ([`take_out`] first). Returns the repositories that have one now.
pub(crate) fn put_in(conf: &mut Conf, ours: Ours<'_>, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut places: Vec<(usize, String)> = Vec::new();
    let mut done: Vec<String> = Vec::new();
    for section in conf.sections() {
        if !wanted(section.name) || done.iter().any(|name| name == section.name) {
            continue;
        }
        let is_source = |one: &&Directive<'_>| matches!(one.key, "Server" | "CacheServer" | "Include");
        let Some(first) = section.directives.iter().find(is_source) else {
            continue;
        };
        done.push(section.name.to_owned());
        if !section.directives.iter().any(|one| port_of(one).is_some()) {
            places.push((first.line, indent(conf, first.line)));
        }
    }
    let Ours { way, port, arch } = ours;
    let text = format!("{} = http://127.0.0.1:{port}/pacman/$repo/{arch}", way.key());
    for (line, indent) in places.into_iter().rev() {
        conf.insert(line, &format!("{indent}{text}"));
        conf.insert(line, &format!("{indent}{MARKER_LINE}"));
    }
    done
}

/// A line of our form that the user wrote, in the section where [`put_in`] found it and left it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) repository: String,
    pub(crate) port: u16,
    /// Servers of the same section stand above it: pacman asks those first.
    pub(crate) is_below: bool,
}

/// The first line of our form in each section; `conf` has none of ours ([`take_out`] first).
pub(crate) fn own(conf: &Conf) -> Vec<Own> {
    let sections = conf.sections();
    let found = sections.iter().filter_map(|section| {
        let (place, port) = section
            .directives
            .iter()
            .enumerate()
            .find_map(|(place, one)| Some((place, port_of(one)?)))?;
        // pacman asks the one kind before the other, wherever they stand.
        let same = |one: &Directive<'_>| one.key == "Include" || one.key == section.directives[place].key;
        Some(Own {
            repository: section.name.to_owned(),
            port,
            is_below: section.directives[..place].iter().any(same),
        })
    });
    found.collect()
}

/// The blanks before the text of a line.
fn indent(conf: &Conf, line: usize) -> String {
    let raw = conf.raw(line);
    let blanks = raw.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    blanks.map(|byte| char::from(*byte)).collect()
}

/// Takes out each marker and, before the next marker, the first server of our form.
pub(crate) fn take_out(conf: &mut Conf) {
    let markers: Vec<usize> = (0..conf.len())
        .filter(|line| conf.text(*line).starts_with(MARKER))
        .collect();
    let ours: Vec<usize> = conf
        .directives()
        .filter(|one| port_of(one).is_some())
        .map(|one| one.line)
        .collect();
    let mut gone = Vec::new();
    for (index, marker) in markers.iter().enumerate() {
        let until = markers.get(index + 1).copied().unwrap_or(usize::MAX);
        gone.push(*marker);
        gone.extend(ours.iter().copied().find(|line| marker < line && *line < until));
    }
    gone.into_iter().rev().for_each(|line| conf.remove(line));
}

#[cfg(test)]
const USUAL: Ours<'_> = Ours {
    way: Way::Server,
    port: 8080,
    arch: ARCH,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> String {
        let mut conf = Conf::parse(text.as_bytes());
        put_in(&mut conf, USUAL, &|name| name != "options");
        String::from_utf8(conf.to_bytes()).expect("text")
    }

    fn without(text: &str) -> String {
        let mut conf = Conf::parse(text.as_bytes());
        take_out(&mut conf);
        String::from_utf8(conf.to_bytes()).expect("text")
    }

    const TEXT: &str =
        "[options]\nColor\n\n[core]\nSigLevel = Never\nInclude = /etc/m\n\n[extra]\n\tServer = https://a\n";

    #[test]
    fn ours_stands_before_the_first_source_of_each_repository_and_goes_without_trace() {
        let text = with(TEXT);
        let line = "Server = http://127.0.0.1:8080/pacman/$repo/$arch";
        assert!(
            text.contains(&format!("{MARKER_LINE}\n{line}\nInclude = /etc/m\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\t{MARKER_LINE}\n\t{line}\n\tServer = https://a\n")),
            "{text}"
        );
        assert_eq!(without(&text), TEXT);
    }

    #[test]
    fn a_line_of_our_form_that_the_user_wrote_stays_and_is_not_doubled() {
        let text = "[core]\nServer = http://localhost:8080/pacman/$repo/$arch\nServer = https://a\n";
        assert_eq!(with(text), text);
        assert_eq!(without(text), text);
    }

    #[test]
    fn a_line_of_our_form_that_the_user_wrote_is_known_to_stand_first_or_below_others() {
        let ours = "Server = http://localhost:8081/pacman/$repo/$arch\n";
        for (text, is_below) in [
            (format!("[core]\n{ours}Server = https://a\n"), false),
            (
                format!("[core]\nSigLevel = Never\n{ours}Include = /etc/m\n"),
                false,
            ),
            (
                format!("[core]\nCacheServer = https://a\n{ours}Server = https://a\n"),
                false,
            ),
            (format!("[core]\nServer = https://a\n{ours}"), true),
            (format!("[core]\nInclude = /etc/m\n{ours}"), true),
        ] {
            let own = own(&Conf::parse(text.as_bytes()));
            let repository = "core".to_owned();
            let want = Own {
                repository,
                port: 8081,
                is_below,
            };
            assert_eq!(own, [want], "{text}");
        }
        assert_eq!(own(&Conf::parse(TEXT.as_bytes())), []);
    }

    #[test]
    fn ours_is_found_again_where_the_user_wrote_around_it() {
        let text = with(TEXT);
        let moved = text.replace(
            &format!("{MARKER_LINE}\nServer"),
            &format!("{MARKER_LINE}\n# mine\n\nServer"),
        );
        assert_ne!(moved, text);
        assert_eq!(without(&moved), TEXT.replace("Include", "# mine\n\nInclude"));
        let mine = text.replacen("127.0.0.1:8080", "192.168.0.2:8080", 1);
        let kept = "Server = http://192.168.0.2:8080/pacman/$repo/$arch\nInclude";
        assert_eq!(without(&mine), TEXT.replace("Include", kept));
    }
}

/// What the user does in between.
#[cfg(test)]
mod edits {
    use proptest::prelude::*;

    use super::*;

    const BASE: &str = "# top\n[options]\nColor\n\n[core]\nSigLevel = Never\nInclude = /etc/m\n\n[extra]\r\nServer = https://a\r\n\
        # between\n[mine]\n\tServer = https://b\n#end";

    /// One edit; the number says where, among the lines that are not ours.
    #[derive(Clone, Debug)]
    enum Edit {
        Insert(usize, String),
        Delete(usize),
        Replace(usize, String),
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let line = prop_oneof![
            Just("# note\n".to_owned()),
            Just("\n".to_owned()),
            Just("[new]\n".to_owned()),
            Just("Server = https://new\r\n".to_owned()),
            Just("Usage = Sync\n".to_owned()),
        ];
        let edit = prop_oneof![
            (0..40usize, line.clone()).prop_map(|(at, text)| Edit::Insert(at, text)),
            (0..40usize).prop_map(Edit::Delete),
            (0..40usize, line).prop_map(|(at, text)| Edit::Replace(at, text)),
        ];
        prop::collection::vec(edit, 0..12)
    }

    /// A line and whether it is ours.
    type Marked = Vec<(String, bool)>;

    fn apply(lines: &mut Marked, edits: &[Edit]) {
        for edit in edits {
            let theirs: Vec<usize> = (0..lines.len()).filter(|at| !lines[*at].1).collect();
            let at = |number: usize| theirs.get(number % theirs.len().max(1)).copied();
            match edit {
                Edit::Insert(number, text) => {
                    let at = at(*number).unwrap_or(0);
                    lines.insert(at, (text.clone(), false));
                }
                Edit::Delete(number) => {
                    if let Some(at) = at(*number) {
                        lines.remove(at);
                    }
                }
                Edit::Replace(number, text) => {
                    if let Some(at) = at(*number) {
                        lines[at].0.clone_from(text);
                    }
                }
            }
        }
    }

    fn text(lines: &Marked, ours: bool) -> String {
        lines
            .iter()
            .filter(|(_, is_ours)| ours || !is_ours)
            .map(|(text, _)| text.as_str())
            .collect()
    }

    proptest! {
        #[test]
        fn undo_leaves_exactly_what_the_user_made_of_the_rest(edits in edits()) {
            let mut conf = Conf::parse(BASE.as_bytes());
            put_in(&mut conf, USUAL, &|name| name != "options");
            let with = String::from_utf8(conf.to_bytes()).expect("text");
            let is_ours = |line: &str| line.trim().starts_with(MARKER) || line.contains("127.0.0.1");
            let mut lines: Marked = with.split_inclusive('\n').map(|line| (line.to_owned(), is_ours(line))).collect();
            prop_assert_eq!(lines.iter().filter(|(_, ours)| *ours).count(), 6);
            prop_assert_eq!(text(&lines, false), BASE);
            apply(&mut lines, &edits);
            let mut conf = Conf::parse(text(&lines, true).as_bytes());
            take_out(&mut conf);
            prop_assert_eq!(String::from_utf8(conf.to_bytes()).expect("text"), text(&lines, false));
        }
    }
}
