//! File names of packages and databases.

use pacstore_pacman::{
    DbFileName, DbKind, NameError, PkgFileName, check_file_name, database_names, is_package_file,
};

#[test]
fn a_package_file_name_comes_apart() {
    let cases = [
        (
            "zlib-1:1.3.1-2-x86_64.pkg.tar.zst",
            "zlib",
            "1:1.3.1-2",
            "x86_64",
            Some("zst"),
        ),
        ("a-b-c-1-1.1-any.pkg.tar", "a-b-c", "1-1.1", "any", None),
        (
            "gtk2+extra-2.1.2-6-i686_v2.pkg.tar.xz",
            "gtk2+extra",
            "2.1.2-6",
            "i686_v2",
            Some("xz"),
        ),
        (
            "mingw-w64-x86_64-foo-1~2.3-1-any.pkg.tar.zst",
            "mingw-w64-x86_64-foo",
            "1~2.3-1",
            "any",
            Some("zst"),
        ),
        (
            "@scope-0.6.4.r0.3a5c2bd-1-loong64.pkg.tar.Z",
            "@scope",
            "0.6.4.r0.3a5c2bd-1",
            "loong64",
            Some("Z"),
        ),
    ];
    for (text, name, version, arch, compression) in cases {
        let parsed = PkgFileName::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            (parsed.name(), parsed.version_str(), parsed.arch()),
            (name, version, arch),
            "{text}"
        );
        assert_eq!(parsed.compression(), compression, "{text}");
        assert_eq!(parsed.version().as_str(), version, "{text}");
        assert_eq!(parsed.to_string(), text);
        assert!(
            is_package_file(text) && is_package_file(&format!("{text}.sig")),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_package_file_is_refused() {
    let names = [
        "",
        "zlib",
        "core.db",
        "zlib-1-1-any.pkg.tar.exe",
        "zlib-1-1-any.pkg.tar.zst.part",
        "zlib-1-any.pkg.tar.zst",
        "-1-1-any.pkg.tar.zst",
        "zlib--1-any.pkg.tar.zst",
        "zlib-1-1-.pkg.tar.zst",
        "zlib-1-1-x86/64.pkg.tar.zst",
        "../zlib-1-1-any.pkg.tar.zst",
        ".zlib-1-1-any.pkg.tar.zst",
        "zl ib-1-1-any.pkg.tar.zst",
        "zlib-1-1-any.pkg.tar.zst.sig.sig",
        "zlib-1-1-any.pkg.tarzst",
    ];
    for name in names {
        assert!(!is_package_file(name), "{name}");
    }
}

#[test]
fn a_foreign_file_name_stays_in_its_folder() {
    for fine in ["a", "a..b", "~a", "-a", "ä-1-1-any.pkg.tar.zst", &"x".repeat(251)] {
        assert_eq!(check_file_name(fine), Ok(()), "{fine}");
    }
    let refused = [
        ("", NameError::Empty),
        (".", NameError::LeadingDot),
        ("..", NameError::LeadingDot),
        (".hidden", NameError::LeadingDot),
        ("a/b", NameError::Byte(b'/')),
        ("/etc/passwd", NameError::Byte(b'/')),
        ("a\0", NameError::Byte(0)),
        ("a\r", NameError::Byte(b'\r')),
    ];
    for (name, why) in refused {
        assert_eq!(check_file_name(name), Err(why), "{name:?}");
    }
    assert_eq!(check_file_name(&"x".repeat(252)), Err(NameError::TooLong));
}

#[test]
fn a_database_file_name_comes_apart() {
    let db = |repo, kind, ending, signature| {
        Some(DbFileName {
            repo,
            kind,
            ending,
            signature,
        })
    };
    assert_eq!(DbFileName::parse("core.db"), db("core", DbKind::Db, "", false));
    assert_eq!(
        DbFileName::parse("a.b-c.files.tar.zst.sig"),
        db("a.b-c", DbKind::Files, ".tar.zst", true)
    );
    assert_eq!(
        DbFileName::parse("core.db.tar"),
        db("core", DbKind::Db, ".tar", false)
    );
    for other in [
        "core",
        ".db",
        "core.db.old",
        "core.db.tar.gz.old",
        "core.links",
        "x/core.db",
        "db",
        "core.db.sig.sig",
    ] {
        assert_eq!(DbFileName::parse(other), None, "{other}");
    }
}

#[test]
fn every_database_name_is_taken_apart_again() {
    let names: Vec<String> = database_names("extra").collect();
    assert_eq!(names[..2], ["extra.db", "extra.db.sig"]);
    assert_eq!(names.len(), 24);
    for name in &names {
        let parsed = DbFileName::parse(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(parsed.repo, "extra", "{name}");
        assert_eq!(parsed.signature, name.strip_suffix(".sig").is_some(), "{name}");
    }
}
