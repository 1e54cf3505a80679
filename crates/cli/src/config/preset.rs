//! Known distributions: what `preset = "arch"` of an `[[import]]` stands for.
//!
//! A preset gives the keys that are not written beside it: NAME, upstreams with their change
//! stamps, layout, what is left out, what is taken beside the packages. The first upstream, its
//! stamp, the excludes and the NAME are those that the names were published with since 2020; the
//! upstreams behind it are of the distributions' own mirror lists.
//!
//! - Invariant: a written key always wins; where `from` is written, the stamp is looked for at
//!   the root of what is written, never at an upstream of the preset's.
//! - Not here: keys, intervals, alerts: they are the operator's.
//! - Read first: `docs/importer.md`, "Presets".

use toml::{Table, Value};

use super::schema::nearest;

/// One upstream: its root, and its change stamp (a URL, or a path below the root).
type Upstream = (&'static str, &'static str);

/// One known distribution.
#[derive(Debug)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    also_called: &'static [&'static str],
    mirror: &'static str,
    upstreams: &'static [Upstream],
    /// Where any mirror of the same files has the stamp, below its root.
    stamp: &'static str,
    layout: &'static str,
    exclude: &'static [&'static str],
    also: &'static [&'static str],
}

const MANJARO: &[Upstream] = &[
    ("rsync://moson.eu/repos", "https://manjaro.moson.eu/state"),
    ("https://mirrors.manjaro.org/repo/", "state"),
    ("https://mirror.alpix.eu/manjaro/", "state"),
];

/// All of them.
pub(crate) const PRESETS: &[Preset] = &[
    Preset {
        name: "arch",
        also_called: &["archlinux"],
        mirror: "x86-64.archlinux.pkg.pacman.store",
        upstreams: &[
            (
                "rsync://mirror.f4st.host/archlinux/",
                "https://mirror.f4st.host/archlinux/lastupdate",
            ),
            ("https://geo.mirror.pkgbuild.com/", "lastupdate"),
            ("https://mirror.rackspace.com/archlinux/", "lastupdate"),
            ("https://mirrors.kernel.org/archlinux/", "lastupdate"),
        ],
        stamp: "lastupdate",
        layout: "archlinux",
        exclude: &["/pool"],
        also: &["/iso/**"],
    },
    Preset {
        name: "endeavouros",
        also_called: &[],
        mirror: "endeavouros.pkg.pacman.store",
        upstreams: &[
            (
                "rsync://mirror.moson.org/endeavouros/",
                "https://mirror.moson.org/endeavouros/synctrace.txt",
            ),
            ("https://mirror.alpix.eu/endeavouros/", "repo/state"),
            ("https://de.freedif.org/EndeavourOS/", "repo/state"),
            ("https://ftp.acc.umu.se/mirror/endeavouros/", "repo/state"),
        ],
        stamp: "synctrace.txt",
        layout: "plain",
        exclude: &[],
        also: &["/iso/**"],
    },
    Preset {
        name: "manjaro",
        also_called: &[],
        mirror: "manjaro.pkg.pacman.store",
        upstreams: MANJARO,
        stamp: "state",
        layout: "plain",
        exclude: &[
            "/pool",
            "/arm-testing",
            "/arm-unstable",
            "/stable-staging",
            "/testing",
            "/unstable",
            "/stable/kde-unstable",
        ],
        also: &[],
    },
    Preset {
        name: "manjaro-arm",
        also_called: &[],
        mirror: "manjaro-arm.pkg.pacman.store",
        upstreams: MANJARO,
        stamp: "state",
        layout: "plain",
        exclude: &[
            "/pool",
            "/arm-testing",
            "/arm-unstable",
            "/stable-staging",
            "/testing",
            "/unstable",
            "/stable",
        ],
        also: &[],
    },
    Preset {
        name: "alhp",
        also_called: &[],
        mirror: "alhp.archlinux.pkg.pacman.store",
        upstreams: &[
            (
                "rsync://alhp.harting.dev/alhp/",
                "https://alhp.harting.dev/lastupdate",
            ),
            ("https://alhp.krautflare.de/", "lastupdate"),
            ("https://mirror.sunred.org/alhp/", "lastupdate"),
        ],
        stamp: "lastupdate",
        layout: "plain",
        exclude: &["/logs", "/packages.html"],
        also: &[],
    },
    Preset {
        name: "chaotic-aur",
        also_called: &["chaotic"],
        mirror: "chaotic-aur.pkg.pacman.store",
        upstreams: &[
            (
                "rsync://builds.garudalinux.org/chaotic/chaotic-aur/",
                "https://builds.garudalinux.org/repos/chaotic-aur/lastupdate",
            ),
            ("https://geo-mirror.chaotic.cx/chaotic-aur/", "lastupdate"),
            ("https://cdn-mirror.chaotic.cx/chaotic-aur/", "lastupdate"),
        ],
        stamp: "lastupdate",
        layout: "plain",
        exclude: &[
            "/index.html",
            "/pkgs.files.old.txt",
            "/pkgs.txt",
            "/pkgs.files.txt",
            "/.*",
            "/x86_64/.*",
            "/x86_64/*.lck",
        ],
        also: &[],
    },
];

/// The preset of that name.
///
/// # Errors
/// One line that names the nearest one.
pub(crate) fn named(name: &str) -> Result<&'static Preset, String> {
    let called = |preset: &&Preset| preset.name == name || preset.also_called.contains(&name);
    PRESETS.iter().find(called).ok_or_else(|| {
        let all: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        let near = nearest(name, all.iter().copied());
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        format!("no preset is called `{name}`; {near}there are {}", all.join(", "))
    })
}

impl Preset {
    /// Its keys and their values; `written` says which of its own the table has.
    fn values(&self, written: impl Fn(&str) -> bool) -> Vec<(&'static str, Value)> {
        let list = |items: &[&str]| Value::Array(items.iter().map(|item| Value::from(*item)).collect());
        let (from, stamps): (Vec<&str>, Vec<&str>) = self.upstreams.iter().copied().unzip();
        let stamp = if written("from") {
            Value::from(self.stamp)
        } else {
            list(&stamps)
        };
        vec![
            ("mirror", Value::from(self.mirror)),
            ("from", list(&from)),
            ("stamp", stamp),
            ("layout", Value::from(self.layout)),
            ("exclude", list(self.exclude)),
            ("also", list(self.also)),
        ]
    }

    /// Puts what is not written into an `[[import]]`, and gives the keys that it put there.
    pub(crate) fn fill(&self, import: &mut Table) -> Vec<&'static str> {
        let mut values = self.values(|key| import.contains_key(key));
        values.retain(|(key, _)| !import.contains_key(*key));
        let keys = values.iter().map(|(key, _)| *key).collect();
        import.extend(values.into_iter().map(|(key, value)| (key.to_owned(), value)));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NAME, first upstream, its stamp, layout, what is left out.
    type Known = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
    );

    /// As they were published from 2020 to 2023; `manjaro-arm` is the ARM part of `manjaro`.
    const TABLE: &[Known] = &[
        (
            "arch",
            "x86-64.archlinux.pkg.pacman.store",
            "rsync://mirror.f4st.host/archlinux/",
            "https://mirror.f4st.host/archlinux/lastupdate",
            "archlinux",
            "/pool",
        ),
        (
            "endeavouros",
            "endeavouros.pkg.pacman.store",
            "rsync://mirror.moson.org/endeavouros/",
            "https://mirror.moson.org/endeavouros/synctrace.txt",
            "plain",
            "",
        ),
        (
            "manjaro",
            "manjaro.pkg.pacman.store",
            "rsync://moson.eu/repos",
            "https://manjaro.moson.eu/state",
            "plain",
            "/pool /arm-testing /arm-unstable /stable-staging /testing /unstable /stable/kde-unstable",
        ),
        (
            "manjaro-arm",
            "manjaro-arm.pkg.pacman.store",
            "rsync://moson.eu/repos",
            "https://manjaro.moson.eu/state",
            "plain",
            "/pool /arm-testing /arm-unstable /stable-staging /testing /unstable /stable",
        ),
        (
            "alhp",
            "alhp.archlinux.pkg.pacman.store",
            "rsync://alhp.harting.dev/alhp/",
            "https://alhp.harting.dev/lastupdate",
            "plain",
            "/logs /packages.html",
        ),
        (
            "chaotic-aur",
            "chaotic-aur.pkg.pacman.store",
            "rsync://builds.garudalinux.org/chaotic/chaotic-aur/",
            "https://builds.garudalinux.org/repos/chaotic-aur/lastupdate",
            "plain",
            "/index.html /pkgs.files.old.txt /pkgs.txt /pkgs.files.txt /.* /x86_64/.* /x86_64/*.lck",
        ),
    ];

    fn text(value: &Value) -> String {
        let items = value.as_array().into_iter().flatten();
        let items: Vec<&str> = items.filter_map(Value::as_str).collect();
        value.as_str().map_or_else(|| items.join(" "), str::to_owned)
    }

    #[test]
    fn each_preset_has_the_values_that_its_name_was_published_with() {
        assert_eq!(PRESETS.len(), TABLE.len());
        for (name, mirror, from, stamp, layout, exclude) in TABLE {
            let mut import = Table::new();
            let keys = named(name).unwrap().fill(&mut import);
            assert_eq!(keys, ["mirror", "from", "stamp", "layout", "exclude", "also"]);
            let first = |key: &str| import[key].as_array().unwrap()[0].as_str().unwrap().to_owned();
            let count = |key: &str| import[key].as_array().unwrap().len();
            assert_eq!(text(&import["mirror"]), *mirror);
            assert_eq!((&*first("from"), &*first("stamp")), (*from, *stamp), "{name}");
            assert_eq!(text(&import["layout"]), *layout, "{name}");
            assert_eq!(text(&import["exclude"]), *exclude, "{name}");
            assert!(1 < count("from"), "{name} has others beside it");
            assert_eq!(count("from"), count("stamp"), "{name}: one stamp each");
        }
    }

    #[test]
    fn a_written_key_wins_and_a_written_upstream_is_asked_for_its_own_stamp() {
        let mut import: Table = "from = \"/srv/arch\"\nexclude = []\n".parse().unwrap();
        let keys = named("archlinux").unwrap().fill(&mut import);
        assert_eq!(keys, ["mirror", "stamp", "layout", "also"]);
        assert_eq!(import["from"].as_str(), Some("/srv/arch"));
        assert_eq!(import["exclude"].as_array().map(Vec::len), Some(0));
        assert_eq!(import["stamp"].as_str(), Some("lastupdate"));
    }

    #[test]
    fn an_unknown_preset_is_refused_with_the_nearest() {
        let message = named("arhc").unwrap_err();
        assert!(
            message.starts_with("no preset is called `arhc`; did you mean `arch`?"),
            "{message}"
        );
        assert!(named("").unwrap_err().contains("there are arch, endeavouros"));
    }
}
