//! Reading of databases: packings, fields, bounds, and entries that are wrong.

use crate::samples::{TIME, desc, package, repository, tar};
use pacstore_pacman::build::{Compression, RepoBuilder};
use pacstore_pacman::{Database, DbError, DbKind, DescError, Limits, NameError, read_file_lists};
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// Reads a database of one `desc`, `a-1-1/desc`.
fn read_desc(text: impl AsRef<[u8]>) -> Result<Database, DbError> {
    Database::read(&tar(&[("a-1-1/desc", text.as_ref())]), &Limits::DB)
}

fn entry_error(text: impl AsRef<[u8]>) -> DescError {
    match read_desc(text) {
        Err(DbError::Entry { entry, source }) => {
            assert_eq!(entry, "a-1-1");
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_packing_gives_the_same_database() {
    let (mut repo, _) = repository();
    let mut all = Vec::new();
    for compression in [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Bzip2,
        Compression::None,
    ] {
        repo.compression = compression;
        for kind in [DbKind::Db, DbKind::Files] {
            let bytes = repo.database(kind).unwrap();
            all.push(Database::read(&bytes, &Limits::FILES).unwrap());
        }
    }
    let names: Vec<String> = all[0].entries.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["abc 0.1.r5.gabcdef-3", "lib++ 9-1.1", "zoo 1:2.0-1"]);
    assert!(all.iter().all(|database| *database == all[0]));
}

#[test]
fn all_fields_come_back() {
    let (mut built, _) = package("abc", "1.0-1");
    built.spec.depends = vec!["glibc".into(), "zlib>=1.2".into()];
    built.spec.provides = vec!["libabc.so=1-64".into()];
    built.spec.conflicts = vec!["abc-git".into()];
    built.spec.replaces = vec!["oldabc".into()];
    built.spec.groups = vec!["base".into(), "tools".into()];
    built.md5 = Some([3; 16]);
    built.signature = Some(vec![9; 119]);
    for split_depends in [false, true] {
        let mut repo = RepoBuilder::new("r", TIME);
        repo.embed_signatures = true;
        repo.split_depends = split_depends;
        repo.add(built.clone());
        let database = Database::read(&repo.database(DbKind::Db).unwrap(), &Limits::DB).unwrap();
        let desc = database.get("abc").unwrap();
        assert_eq!(&*desc.filename, "abc-1.0-1-any.pkg.tar.zst");
        assert_eq!(
            (desc.csize, desc.isize, desc.build_date),
            (Some(built.csize), Some(built.isize), Some(TIME))
        );
        assert_eq!((desc.sha256, desc.md5), (Some(built.sha256), Some([3; 16])));
        assert_eq!(desc.pgpsig.as_deref(), Some(&[9; 119][..]));
        assert_eq!(desc.depends.iter().collect::<Vec<_>>(), ["glibc", "zlib>=1.2"]);
        assert_eq!(desc.provides.iter().collect::<Vec<_>>(), ["libabc.so=1-64"]);
        assert_eq!(desc.conflicts.iter().collect::<Vec<_>>(), ["abc-git"]);
        assert_eq!(desc.replaces.iter().collect::<Vec<_>>(), ["oldabc"]);
        assert_eq!(desc.groups.iter().collect::<Vec<_>>(), ["base", "tools"]);
        assert_eq!(database.architectures(), ["any"]);
    }
}

#[test]
fn optional_fields_may_be_missing_and_unknown_ones_may_come() {
    let text = desc("a", "1-1") + "%NEWTHING%\nsomething\nmore\n\n%DESC%\nwith words\n";
    let database = read_desc(text).unwrap();
    let entry = &database.entries[0];
    assert_eq!(
        (entry.csize, entry.sha256, entry.md5, &entry.pgpsig),
        (None, None, None, &None)
    );
    assert!(entry.depends.is_empty() && entry.base.is_none());
    let mut bytes = desc("a", "1-1").into_bytes();
    bytes.extend_from_slice(b"%PACKAGER%\n\xff\xfe\n\n%DEPENDS%\nb\xff\n");
    assert_eq!(
        read_desc(bytes).unwrap().entries[0]
            .depends
            .iter()
            .collect::<Vec<_>>(),
        ["b\u{fffd}"]
    );
}

/// libalpm takes the lines of a list as they are, so a field inside a list must not count for us either.
#[test]
fn fields_are_seen_where_libalpm_sees_them() {
    let text =
        desc("a", "1-1") + "%LICENSE%\n%FILENAME%\nevil\n\n%DEPENDS%\n%NAME%\nevil\n\n%DESC%\n%NAME%\n\n";
    let database = read_desc(text).unwrap();
    assert_eq!(&*database.entries[0].filename, "a-1-1-any.pkg.tar.zst");
    assert_eq!(
        database.entries[0].depends.iter().collect::<Vec<_>>(),
        ["%NAME%", "evil"]
    );
    // After a field that libalpm does not know, the very next line may be a field.
    let text = desc("a", "1-1") + "%FOO%\n%NAME%\nevil\n";
    assert_eq!(entry_error(text), DescError::Twice("NAME"));
}

#[test]
fn a_wrong_entry_is_named_with_what_is_wrong() {
    let whole = desc("a", "1-1");
    for field in ["FILENAME", "NAME", "VERSION", "ARCH"] {
        let without = whole.replace(&format!("%{field}%"), "%GONE%");
        assert_eq!(
            entry_error(without),
            DescError::Missing(match field {
                "FILENAME" => "FILENAME",
                "NAME" => "NAME",
                "VERSION" => "VERSION",
                _ => "ARCH",
            })
        );
    }
    assert_eq!(entry_error(whole.clone() + &whole), DescError::Twice("FILENAME"));
    assert_eq!(
        entry_error(whole.clone() + "%CSIZE%\n12x\n"),
        DescError::Number("CSIZE")
    );
    assert_eq!(
        entry_error(whole.clone() + "%CSIZE%\n-1\n"),
        DescError::Number("CSIZE")
    );
    assert_eq!(
        entry_error(whole.clone() + "%CSIZE%\n99999999999999999999\n"),
        DescError::Number("CSIZE")
    );
    assert_eq!(
        entry_error(whole.clone() + "%SHA256SUM%\nabcd\n"),
        DescError::Digest("SHA256SUM")
    );
    assert_eq!(
        entry_error(format!("{whole}%SHA256SUM%\n{}\n", "g".repeat(64))),
        DescError::Digest("SHA256SUM")
    );
    assert_eq!(
        entry_error(whole.clone() + "%MD5SUM%\n\n"),
        DescError::Digest("MD5SUM")
    );
    assert_eq!(
        entry_error(whole.clone() + "%PGPSIG%\n!!\n"),
        DescError::Base64("PGPSIG")
    );
    assert_eq!(entry_error(desc("b", "1-1")), DescError::Folder("b-1-1".into()));
    assert_eq!(entry_error(desc("a", "2-1")), DescError::Folder("a-2-1".into()));
    for (name, why) in [
        ("../../etc/passwd", NameError::LeadingDot),
        (".hidden", NameError::LeadingDot),
        ("a/b", NameError::Byte(b'/')),
        ("a\0b", NameError::Byte(0)),
        ("", NameError::Empty),
    ] {
        let text = whole.replace("a-1-1-any.pkg.tar.zst", name);
        assert_eq!(entry_error(text), DescError::Name("FILENAME", why), "{name:?}");
    }
    let long = whole.replace("a-1-1-any.pkg.tar.zst", &"x".repeat(300));
    assert_eq!(entry_error(long), DescError::Name("FILENAME", NameError::TooLong));
    let error = read_desc("").unwrap_err();
    assert_eq!(error.to_string(), "the entry `a-1-1` is wrong");
}

#[test]
fn members_that_are_no_entries_are_passed_over() {
    let text = desc("a", "1-1");
    let archive = tar(&[
        ("./a-1-1/desc", text.as_bytes()),
        ("a-1-1/deltas", b"x"),
        ("a-1-1/some/deep/desc", b"x"),
        ("desc", b"x"),
        (".hidden", b"x"),
    ]);
    assert_eq!(Database::read(&archive, &Limits::DB).unwrap().entries.len(), 1);
}

#[test]
fn an_empty_database_is_a_database() {
    let empty = RepoBuilder::new("r", TIME);
    let bytes = empty.database(DbKind::Db).unwrap();
    assert!(Database::read(&bytes, &Limits::DB).unwrap().entries.is_empty());
    assert!(
        Database::read(&[0; 10240], &Limits::DB)
            .unwrap()
            .entries
            .is_empty()
    );
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [&b""[..], b"<html>503</html>", &[0; 100], b"\x1f"] {
        assert!(
            matches!(Database::read(bytes, &Limits::DB), Err(DbError::Format)),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_cut_or_damaged_database_is_never_a_shorter_one() {
    let (mut repo, _) = repository();
    for compression in [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Bzip2,
        Compression::None,
    ] {
        repo.compression = compression;
        let whole = repo.database(DbKind::Db).unwrap();
        let least = if compression == Compression::None { 1024 } else { 1 };
        for cut in (0..whole.len() - least)
            .step_by(whole.len() / 50 + 1)
            .chain([whole.len() - least])
        {
            assert!(
                Database::read(&whole[..cut], &Limits::DB).is_err(),
                "{compression:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn a_bomb_is_an_error_before_it_costs_anything() {
    let text = desc("a", "1-1");
    let mut bomb = tar(&[
        ("a-1-1/desc", text.as_bytes()),
        ("b-1-1/other", &vec![0; 40 << 20]),
    ]);
    bomb.truncate(bomb.len() - 1024);
    let packed = gzip(&bomb);
    assert!(packed.len() < 100_000);
    let limits = Limits {
        unpacked: 8 << 20,
        ..Limits::DB
    };
    match Database::read(&packed, &limits) {
        Err(DbError::TooLarge { limit }) => assert_eq!(limit, 8 << 20),
        other => panic!("{other:?}"),
    }
    // Zeros behind the archive are read, too, but not without bound.
    let mut tail = tar(&[("a-1-1/desc", text.as_bytes())]);
    tail.resize(40 << 20, 0);
    assert!(matches!(
        Database::read(&gzip(&tail), &limits),
        Err(DbError::TooLarge { .. })
    ));
}

/// As gzip and pacman take them; what breaks off within a member is still an error.
#[test]
fn a_gzip_file_may_have_several_members_and_padding_behind_them() {
    let archive = tar(&[("a-1-1/desc", desc("a", "1-1").as_bytes())]);
    let (one, two) = archive.split_at(700);
    let members = [gzip(one), gzip(two)].concat();
    let read = |packed: &[u8]| Database::read(packed, &Limits::DB).map(|database| database.entries.len());
    for packed in [
        members.clone(),
        [&gzip(&archive)[..], &[0; 512]].concat(),
        [&members[..], &[0; 1]].concat(),
        [&gzip(&archive)[..], b"signed by nobody"].concat(),
    ] {
        assert!(matches!(read(&packed), Ok(1)), "{:?}", read(&packed));
    }
    let cut = &members[..members.len() - 9];
    assert!(matches!(read(cut), Err(DbError::Unpack(_))), "{:?}", read(cut));
}

#[test]
fn every_bound_has_its_error() {
    let text = desc("a", "1-1");
    let archive = tar(&[
        ("a-1-1/desc", text.as_bytes()),
        ("a-1-1/x", b""),
        ("a-1-1/b/c/d", b""),
    ]);
    let read = |limits: Limits| Database::read(&archive, &limits);
    assert!(read(Limits::DB).is_ok());
    assert!(matches!(
        read(Limits {
            member: 10,
            ..Limits::DB
        }),
        Err(DbError::MemberTooLarge { limit: 10, .. })
    ));
    assert!(matches!(
        read(Limits {
            members: 2,
            ..Limits::DB
        }),
        Err(DbError::TooManyMembers { limit: 2 })
    ));
    assert!(matches!(
        read(Limits {
            depth: 3,
            ..Limits::DB
        }),
        Err(DbError::TooDeep { limit: 3, .. })
    ));
    for path in ["../a-1-1/desc", "a-1-1/../desc", "\u{7}/../desc"] {
        let archive = tar(&[(path, text.as_bytes())]);
        let error = Database::read(&archive, &Limits::DB).unwrap_err();
        assert!(matches!(error, DbError::Path { .. }), "{error:?}");
        assert!(
            !error.to_string().contains('\u{7}'),
            "control characters reach a terminal: {error:?}"
        );
    }
}

#[test]
fn long_paths_in_gnu_and_pax_headers_are_read_within_bounds() {
    let name = "n".repeat(120);
    let text = desc(&name, "1-1");
    let path = format!("{name}-1-1/desc");
    let mut gnu = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    gnu.append_data(&mut header, &path, text.as_bytes()).unwrap();
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("mtime", &b"1.5"[..]), ("path", path.as_bytes())])
        .unwrap();
    pax.append_data(&mut header, "short", text.as_bytes()).unwrap();
    for archive in [gnu.into_inner().unwrap(), pax.into_inner().unwrap()] {
        assert_eq!(
            &*Database::read(&archive, &Limits::DB).unwrap().entries[0].name,
            name
        );
    }
    let mut huge = tar::Builder::new(Vec::new());
    huge.append_pax_extensions([("path", &vec![b'x'; 100_000][..])])
        .unwrap();
    let mut other_size = tar::Builder::new(Vec::new());
    other_size.append_pax_extensions([("size", &b"1"[..])]).unwrap();
    for archive in [huge.into_inner().unwrap(), other_size.into_inner().unwrap()] {
        assert!(matches!(
            Database::read(&archive, &Limits::DB),
            Err(DbError::Path { .. })
        ));
    }
}

#[test]
fn the_lists_of_files_can_be_read_one_by_one() {
    let (repo, _) = repository();
    let mut seen = Vec::new();
    let bytes = repo.database(DbKind::Files).unwrap();
    read_file_lists(&bytes, &Limits::FILES, |folder, paths| {
        seen.push((folder.to_owned(), paths.map(str::to_owned).collect::<Vec<_>>()));
    })
    .unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].0, "abc-0.1.r5.gabcdef-3");
    assert_eq!(seen[0].1, repo.packages()[0].paths);
    assert!(seen[0].1.contains(&"usr/bin/abc".to_owned()) && seen[0].1.contains(&"var/lib/abc/".to_owned()));
}
