//! Shapes of pacman's configuration, as people have them.

pub(crate) const ARCH: &str = "Server = https://a.example/$repo/os/$arch\n# Server = https://b.example/$repo/os/$arch\n\
    Server = https://c.example/$repo/os/$arch\n";

/// A machine's pacman configuration: `DIR` in a text is its folder.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) main: &'static str,
    pub(crate) others: &'static [(&'static str, &'static str)],
    /// Repositories that we serve after setup.
    pub(crate) ours: &'static [&'static str],
}

pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        name: "Arch as installed, multilib commented out",
        main: "#\n# /etc/pacman.conf\n#\n# See the pacman.conf(5) manpage\n\n[options]\nHoldPkg     = pacman glibc\n\
            Architecture = auto\nColor\n#VerbosePkgLists\nParallelDownloads = 5\nSigLevel    = Required DatabaseOptional\n\
            LocalFileSigLevel = Optional\n\n#[core-testing]\n#Include = DIR/mirrorlist\n\n[core]\nInclude = DIR/mirrorlist\n\n\
            [extra]\nInclude = DIR/mirrorlist\n\n#[multilib]\n#Include = DIR/mirrorlist\n\n#[custom]\n#SigLevel = Optional TrustAll\n\
            #Server = file:///home/custompkgs\n",
        others: &[("mirrorlist", ARCH)],
        ours: &["core", "extra"],
    },
    Shape {
        name: "EndeavourOS",
        main: "[options]\nArchitecture = auto\n\n[endeavouros]\nSigLevel = PackageRequired\nInclude = DIR/endeavouros-mirrorlist\n\n\
            [core]\nInclude = DIR/mirrorlist\n\n[extra]\nInclude = DIR/mirrorlist\n\n[multilib]\nInclude = DIR/mirrorlist\n",
        others: &[
            ("mirrorlist", ARCH),
            (
                "endeavouros-mirrorlist",
                "# EndeavourOS\nServer = https://e.example/repo/$repo/$arch\n",
            ),
        ],
        ours: &["endeavouros", "core", "extra", "multilib"],
    },
    Shape {
        name: "Manjaro",
        main: "[options]\nArchitecture = auto\nSyncFirst   = manjaro-system\n[core]\nSigLevel = PackageRequired\n\
            Include = DIR/mirrorlist\n[extra]\nSigLevel = PackageRequired\nInclude = DIR/mirrorlist\n",
        others: &[(
            "mirrorlist",
            "## Country : Austria\nServer = https://m.example/stable/$repo/$arch\n\n",
        )],
        ours: &["core", "extra"],
    },
    Shape {
        name: "ALHP above Arch's",
        main: "[options]\nArchitecture = auto\n\n[core-x86-64-v3]\nInclude = DIR/alhp-mirrorlist\n\n[extra-x86-64-v3]\n\
            Include = DIR/alhp-mirrorlist\n\n[core]\nInclude = DIR/mirrorlist\n[extra]\nInclude = DIR/mirrorlist\n",
        others: &[
            ("mirrorlist", ARCH),
            (
                "alhp-mirrorlist",
                "Server = https://alhp.example/$repo/os/$arch/\n",
            ),
        ],
        ours: &["core-x86-64-v3", "extra-x86-64-v3", "core", "extra"],
    },
    Shape {
        name: "Chaotic-AUR at the end, with CacheServer lines",
        main: "[options]\nArchitecture = x86_64\n[core]\nCacheServer = http://nas.lan/$repo\nInclude = DIR/mirrorlist\n\
            [chaotic-aur]\nInclude = DIR/chaotic-mirrorlist",
        others: &[
            ("mirrorlist", ARCH),
            ("chaotic-mirrorlist", "Server = https://cdn.example/$repo/$arch\n"),
        ],
        ours: &["core", "chaotic-aur"],
    },
    Shape {
        name: "sections in files of their own",
        main: "[options]\nArchitecture = x86_64\nInclude = DIR/repos.d/*.conf\n",
        others: &[
            ("repos.d/10-core.conf", "[core]\nInclude = DIR/mirrorlist\n"),
            ("repos.d/20-mine.conf", "[mine]\nServer = http://nas.lan/$repo\n"),
            ("repos.d/30-off.disabled", "[off]\nServer = https://off.example\n"),
            ("mirrorlist", ARCH),
        ],
        ours: &["core", "mine"],
    },
    Shape {
        name: "line ends of another system",
        main: "[options]\r\nArchitecture = x86_64\r\n\r\n[core]\r\nSigLevel = Never\r\nInclude = DIR/mirrorlist\r\n\r\n[extra]\r\nServer = https://a.example/$repo\r\n",
        others: &[("mirrorlist", ARCH)],
        ours: &["core", "extra"],
    },
    Shape {
        name: "no end of the last line",
        main: "[options]\nArchitecture = x86_64\n[core]\nServer = https://a.example/$repo/os/$arch",
        others: &[],
        ours: &["core"],
    },
    Shape {
        name: "tabs and blanks",
        main: "[options]\n\tArchitecture\t=\tx86_64\n\n  [core]\n\tSigLevel = Never\n\t Server\t=\thttps://a.example/$repo\n\n\n\t[extra]\n    Include=DIR/mirrorlist\n",
        others: &[("mirrorlist", ARCH)],
        ours: &["core", "extra"],
    },
    Shape {
        name: "options twice and in between",
        main: "[options]\nArchitecture = x86_64\n[core]\nServer = https://a.example/$repo\n[options]\nIgnorePkg = linux\n[extra]\nServer = https://a.example/$repo\n[options]\nNoExtract = x\n",
        others: &[],
        ours: &["core", "extra"],
    },
    Shape {
        name: "uses, signatures and mirrors in a mixed order",
        main: "[options]\nArchitecture = x86_64\n[core]\nUsage = Sync Search\nServer = https://a.example/$repo\nUsage = Install\nInclude = DIR/mirrorlist\nSigLevel = Never\nServer = https://z.example/$repo\n",
        others: &[("mirrorlist", ARCH)],
        ours: &["core"],
    },
    Shape {
        name: "a local repository, one with a password, one without servers",
        main: "[options]\nArchitecture = x86_64\n[custom]\nSigLevel = Optional TrustAll\nServer = file:///srv/custom\n\
            [secret]\nServer = https://me:secret@s.example/$repo\n[core]\nInclude = DIR/mirrorlist\n",
        others: &[("mirrorlist", ARCH)],
        ours: &["core"],
    },
    Shape {
        name: "no Architecture, which pacman needs for the variable alone",
        main: "[options]\nColor\n[core]\nServer = https://a.example/$repo/os/x86_64\n[extra]\nInclude = DIR/mirrorlist\n",
        others: &[("mirrorlist", "Server = https://b.example/$repo\n")],
        ours: &["core", "extra"],
    },
    Shape {
        name: "bytes that are no text, comments behind values",
        main: "[options]\nArchitecture = x86_64\n# Gr\u{fc}\u{df}e \u{1f980}\n[core]\nServer = https://a.example/$repo\n#Server = https://old.example\n\n\n#end",
        others: &[],
        ours: &["core"],
    },
];
