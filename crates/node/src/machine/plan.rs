//! What `pacman -Syu` would fetch, worked out from the databases and the list of what is installed.
//!
//! As pacman does it: each installed package is looked for in the repositories in their order; the first that
//! replaces it or has it decides. What the new versions need and nobody provides comes along, the first provider
//! in order where several could.
//!
//! - Invariant: pure, and bounded by the databases: each package is looked at once.
//! - Not here: conflicts (pacman asks about them), reading files (`super::local`).
//! - Read first: libalpm's `sync.c` (`alpm_sync_sysupgrade`) and `deps.c` (`resolvedep`).

use std::collections::{HashMap, HashSet};

use pacstore_pacman::{Database, Desc, vercmp};

/// A package on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As its description has them, such as `libfoo.so=1-64`.
    pub(crate) provides: Vec<String>,
}

/// What the user told pacman to leave alone: globs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored {
    pub(crate) packages: Vec<String>,
    pub(crate) groups: Vec<String>,
}

impl Ignored {
    fn covers(&self, desc: &Desc) -> bool {
        self.packages.iter().any(|glob| matches(glob, &desc.name))
            || desc
                .groups
                .iter()
                .any(|group| self.groups.iter().any(|glob| matches(glob, group)))
    }
}

/// A package of a database: number of the database, number of the entry.
pub(crate) type Entry = (usize, usize);

/// What would be fetched, in the order in which it was found.
pub(crate) fn updates(databases: &[Database], installed: &[Installed], ignored: &Ignored) -> Vec<Entry> {
    let index = Index::of(databases);
    let mut plan = Plan {
        index: &index,
        databases,
        ignored,
        targets: Vec::new(),
        chosen: HashSet::new(),
        present: Present::default(),
    };
    let by_name: HashMap<&str, &Installed> = installed.iter().map(|one| (&*one.name, one)).collect();
    let mut replaced = HashSet::new();
    for one in installed {
        for number in 0..databases.len() {
            let replacers = plan.replacers(number, one, &by_name);
            if !replacers.is_empty() {
                replaced.insert(&*one.name);
                for entry in replacers {
                    plan.choose(entry);
                }
                break;
            }
            let Some(entry) = index
                .named
                .get(&*one.name)
                .and_then(|all| all.iter().copied().find(|(database, _)| *database == number))
            else {
                continue;
            };
            let desc = plan.desc(entry);
            if vercmp(desc.version.as_str(), &one.version).is_gt() && !ignored.covers(desc) {
                plan.choose(entry);
            }
            break;
        }
    }
    let renewed: HashSet<&str> = plan
        .targets
        .iter()
        .map(|entry| &*plan.desc(*entry).name)
        .collect();
    let stays = |one: &&Installed| !renewed.contains(&*one.name) && !replaced.contains(&*one.name);
    for one in installed.iter().filter(stays) {
        plan.present
            .add(&one.name, &one.version, one.provides.iter().map(String::as_str));
    }
    for entry in plan.targets.clone() {
        plan.arrives(entry);
    }
    plan.add_dependencies();
    plan.targets
}

/// Names and what is provided, over all databases.
struct Index<'a> {
    named: HashMap<&'a str, Vec<Entry>>,
    providing: HashMap<&'a str, Vec<Entry>>,
    replacing: HashMap<&'a str, Vec<Entry>>,
}

impl<'a> Index<'a> {
    fn of(databases: &'a [Database]) -> Self {
        let mut index = Self {
            named: HashMap::new(),
            providing: HashMap::new(),
            replacing: HashMap::new(),
        };
        for (number, database) in databases.iter().enumerate() {
            for (at, desc) in database.entries.iter().enumerate() {
                let entry = (number, at);
                index.named.entry(&desc.name).or_default().push(entry);
                for provided in desc.provides.iter() {
                    index
                        .providing
                        .entry(Dep::of(provided).name)
                        .or_default()
                        .push(entry);
                }
                for replaced in desc.replaces.iter() {
                    index
                        .replacing
                        .entry(Dep::of(replaced).name)
                        .or_default()
                        .push(entry);
                }
            }
        }
        index
    }
}

/// What will be on the machine: names with versions, the package's own and those that it provides.
#[derive(Default)]
struct Present<'a>(HashMap<&'a str, Vec<Option<&'a str>>>);

impl<'a> Present<'a> {
    fn add(&mut self, name: &'a str, version: &'a str, provides: impl Iterator<Item = &'a str>) {
        self.0.entry(name).or_default().push(Some(version));
        for provided in provides {
            let dep = Dep::of(provided);
            self.0.entry(dep.name).or_default().push(dep.version);
        }
    }

    fn satisfies(&self, dep: &Dep<'_>) -> bool {
        let versions = self.0.get(dep.name);
        versions.is_some_and(|all| all.iter().any(|version| dep.allows(*version)))
    }
}

struct Plan<'a> {
    index: &'a Index<'a>,
    databases: &'a [Database],
    ignored: &'a Ignored,
    targets: Vec<Entry>,
    chosen: HashSet<Entry>,
    present: Present<'a>,
}

impl<'a> Plan<'a> {
    fn desc(&self, (database, at): Entry) -> &'a Desc {
        &self.databases[database].entries[at]
    }

    fn choose(&mut self, entry: Entry) {
        if self.chosen.insert(entry) {
            self.targets.push(entry);
        }
    }

    fn arrives(&mut self, entry: Entry) {
        let desc = self.desc(entry);
        self.present
            .add(&desc.name, desc.version.as_str(), desc.provides.iter());
    }

    /// Packages of one database that take the place of `one`.
    fn replacers(&self, number: usize, one: &Installed, installed: &HashMap<&str, &Installed>) -> Vec<Entry> {
        let named = self.index.replacing.get(&*one.name).into_iter().flatten();
        let ours = named.copied().filter(|(database, _)| *database == number);
        ours.filter(|entry| {
            let desc = self.desc(*entry);
            let says = |text: &str| {
                let dep = Dep::of(text);
                dep.name == one.name && dep.allows(Some(&one.version))
            };
            let current = installed
                .get(&*desc.name)
                .is_some_and(|have| !vercmp(desc.version.as_str(), &have.version).is_gt());
            *desc.name != *one.name
                && !current
                && desc.replaces.iter().any(says)
                && !self.ignored.covers(desc)
                && !self.ignored.packages.iter().any(|glob| matches(glob, &one.name))
        })
        .collect()
    }

    /// What the targets need and nobody has, and what that needs in turn.
    fn add_dependencies(&mut self) {
        let mut next = 0;
        while let Some(entry) = self.targets.get(next).copied() {
            next += 1;
            for text in self.desc(entry).depends.iter() {
                let dep = Dep::of(text);
                if self.present.satisfies(&dep) {
                    continue;
                }
                // Nobody has it: pacman would say so; the others are wanted all the same.
                if let Some(provider) = self.provider(&dep) {
                    self.choose(provider);
                    self.arrives(provider);
                }
            }
        }
    }

    fn provider(&self, dep: &Dep<'_>) -> Option<Entry> {
        let by_name = self.index.named.get(dep.name).into_iter().flatten();
        let by_provided = self.index.providing.get(dep.name).into_iter().flatten();
        let literal = by_name.copied().find(|entry| {
            let desc = self.desc(*entry);
            dep.allows(Some(desc.version.as_str())) && !self.ignored.covers(desc)
        });
        literal.or_else(|| {
            by_provided.copied().find(|entry| {
                let desc = self.desc(*entry);
                let gives = |text: &str| {
                    let given = Dep::of(text);
                    given.name == dep.name && dep.allows(given.version)
                };
                desc.provides.iter().any(gives) && !self.ignored.covers(desc)
            })
        })
    }
}

/// `name`, `name=1.2-1`, `name>=2`; a description behind `: ` is none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dep<'a> {
    name: &'a str,
    how: &'a str,
    version: Option<&'a str>,
}

impl<'a> Dep<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.split(": ").next().unwrap_or(text);
        for how in ["<=", ">=", "=", "<", ">"] {
            if let Some((name, version)) = text.split_once(how) {
                let version = Some(version);
                return Self { name, how, version };
            }
        }
        Self {
            name: text,
            how: "",
            version: None,
        }
    }

    /// True if something of this version will do; `None` has none, and does only where none is asked.
    fn allows(&self, version: Option<&str>) -> bool {
        let Some(wanted) = self.version else { return true };
        let Some(version) = version else { return false };
        let order = vercmp(version, wanted);
        match self.how {
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "=" => order.is_eq(),
            "<" => order.is_lt(),
            _ => order.is_gt(),
        }
    }
}

/// A shell glob with `*`, `?` and `[...]` over a whole name.
pub(super) fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        let step = match glob.get(g) {
            Some('*') => {
                star = Some((g, n));
                g += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&glob[g..], name[n]),
            Some(c) if *c == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(step), _) => {
                g += step;
                n += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                g = at + 1;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// The length of the `[...]` that `glob` begins with, if it has `c`.
fn class(glob: &[char], c: char) -> Option<usize> {
    let end = 2 + glob.get(2..)?.iter().position(|c| *c == ']')?;
    let (negated, set) = match glob[1] {
        '!' | '^' => (true, &glob[2..end]),
        _ => (false, &glob[1..end]),
    };
    let mut found = false;
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
            found |= (set[at]..=set[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= set[at] == c;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use pacstore_pacman::Version;

    use super::*;

    fn list(items: &[&str]) -> pacstore_pacman::List {
        items.iter().copied().collect()
    }

    fn package(name: &str, version: &str) -> Desc {
        Desc {
            filename: format!("{name}-{version}-any.pkg.tar.zst").into(),
            name: name.into(),
            version: Version::new(version).unwrap(),
            base: None,
            arch: "any".into(),
            csize: Some(1),
            isize: None,
            sha256: None,
            md5: None,
            pgpsig: None,
            build_date: None,
            replaces: list(&[]),
            conflicts: list(&[]),
            provides: list(&[]),
            depends: list(&[]),
            groups: list(&[]),
        }
    }

    fn have(name: &str, version: &str) -> Installed {
        Installed {
            name: name.to_owned(),
            version: version.to_owned(),
            provides: Vec::new(),
        }
    }

    fn names(databases: &[Database], installed: &[Installed], ignored: &Ignored) -> Vec<String> {
        let found = updates(databases, installed, ignored);
        found
            .iter()
            .map(|(d, e)| databases[*d].entries[*e].folder())
            .collect()
    }

    #[test]
    fn the_first_repository_that_has_a_package_decides_and_older_versions_are_left() {
        let databases = [
            Database {
                entries: vec![package("a", "2-1"), package("b", "1-1"), package("new", "1-1")],
            },
            Database {
                entries: vec![package("b", "9-1"), package("c", "1:1-1")],
            },
        ];
        let installed = [
            have("a", "1-1"),
            have("b", "1-1"),
            have("c", "5-1"),
            have("foreign", "1-1"),
        ];
        assert_eq!(
            names(&databases, &installed, &Ignored::default()),
            ["a-2-1", "c-1:1-1"]
        );
        let ignored = Ignored {
            packages: vec!["[a-b]*".into()],
            groups: Vec::new(),
        };
        assert_eq!(names(&databases, &installed, &ignored), ["c-1:1-1"]);
    }

    #[test]
    fn what_replaces_and_what_is_newly_needed_comes_along() {
        let mut app = package("app", "2-1");
        app.depends = list(&["libnew.so>=2", "sh", "gone<1", "there"]);
        let mut old = package("oldlib", "1-1");
        old.provides = list(&["libnew.so=1"]);
        let mut new = package("newlib", "2-1");
        new.provides = list(&["libnew.so=2"]);
        new.depends = list(&["deep"]);
        let mut heir = package("heir", "1-1");
        heir.replaces = list(&["dead<2"]);
        let databases = [Database {
            entries: vec![app, old, new, package("deep", "1-1"), heir],
        }];
        let mut shell = have("bash", "5-1");
        shell.provides = vec!["sh".into()];
        let installed = [
            have("app", "1-1"),
            have("dead", "1-1"),
            shell,
            have("there", "1-1"),
        ];
        assert_eq!(
            names(&databases, &installed, &Ignored::default()),
            ["app-2-1", "heir-1-1", "newlib-2-1", "deep-1-1"]
        );
        // A replaced package of a version that is not meant stays.
        let installed = [have("dead", "3-1")];
        assert!(names(&databases, &installed, &Ignored::default()).is_empty());
    }

    #[test]
    fn globs_mean_what_a_shell_means() {
        for (glob, name, is) in [
            ("linux", "linux", true),
            ("linux", "linux-lts", false),
            ("linux*", "linux-lts", true),
            ("*-git", "foo-git", true),
            ("*-git", "foo-git2", false),
            ("a?c", "abc", true),
            ("[!a]x", "bx", true),
            ("[!a]x", "ax", false),
            ("[]x", "x", false),
            ("*a*b", "xaxxb", true),
            ("", "", true),
        ] {
            assert_eq!(matches(glob, name), is, "{glob} {name}");
        }
    }
}
