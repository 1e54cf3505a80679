//! Foreign bytes of any kind: an answer or an error, never a panic.

use crate::samples::{repository, tar};
use pacstore_pacman::build::{Compression, PackageSpec, RepoBuilder, write_package};
use pacstore_pacman::{
    Database, DbFileName, DbKind, Limits, PkgFileName, Version, check_file_name, read_file_lists,
};
use proptest::prelude::*;
use std::sync::LazyLock;

/// Small bounds, so that nothing costs much.
const SMALL: Limits = Limits {
    unpacked: 4 << 20,
    member: 1 << 20,
    members: 1000,
    depth: 4,
};

/// What a `desc` is made of, and worse.
const PIECES: &[&[u8]] = &[
    b"%FILENAME%\n",
    b"%NAME%\n",
    b"%VERSION%\n",
    b"%ARCH%\n",
    b"%CSIZE%\n",
    b"%SHA256SUM%\n",
    b"%PGPSIG%\n",
    b"%DEPENDS%\n",
    b"\n",
    b"a\n",
    b"1-1\n",
    b"%",
    b"\xff\n",
    b"../x\n",
    b"\0",
];

static DATABASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (mut repo, _) = repository();
    let packings = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Bzip2,
    ];
    let pack = |compression| {
        repo.compression = compression;
        repo.database(DbKind::Files).unwrap()
    };
    packings.map(pack).into()
});

fn read_all(bytes: &[u8]) -> Option<Database> {
    let _ = read_file_lists(bytes, &SMALL, |_, paths| {
        paths.count();
    });
    Database::read(bytes, &SMALL).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn mutated_databases_never_panic(
        which in 0usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = DATABASES[which].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn any_desc_is_read_or_refused(text in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        read_all(&tar(&[("a-1-1/desc", &text.concat()), ("a-1-1/depends", &text.concat())]));
    }

    #[test]
    fn any_text_is_a_name_or_none(text in ".{0,40}") {
        let _ = (PkgFileName::parse(&text), DbFileName::parse(&text), Version::new(&text), check_file_name(&text));
    }

    /// Whatever a database names can be joined to a folder.
    #[test]
    fn an_accepted_name_is_one_component(text in "[./a~\\\\-]{0,8}") {
        if check_file_name(&text).is_ok() {
            let joined = std::path::Path::new("/folder").join(&text);
            prop_assert_eq!(joined.parent(), Some(std::path::Path::new("/folder")));
        }
    }

    #[test]
    fn what_was_built_is_read_back(
        names in prop::collection::btree_map("[a-z][a-z0-9+@_.-]{0,40}", "([1-9]:)?[0-9a-z.~+]{1,9}-[1-9]", 0..6),
        depends in prop::collection::vec("[a-z]{1,9}(>=[0-9.]{1,4})?", 0..4),
        packing in 0usize..5,
        split_depends in any::<bool>(),
        embed_signatures in any::<bool>(),
    ) {
        let packings = [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];
        let mut repo = RepoBuilder::new("r", 1);
        (repo.compression, repo.split_depends, repo.embed_signatures) = (packings[packing], split_depends, embed_signatures);
        for (name, version) in &names {
            let mut spec = PackageSpec::new(name.clone(), version, 1).unwrap();
            spec.depends.clone_from(&depends);
            let mut built = write_package(&spec, &mut std::io::sink()).unwrap();
            built.signature = Some(vec![1, 2, 3]);
            repo.add(built);
        }
        let db = Database::read(&repo.database(DbKind::Db).unwrap(), &SMALL).unwrap();
        let files = Database::read(&repo.database(DbKind::Files).unwrap(), &SMALL).unwrap();
        prop_assert_eq!(&db, &files);
        prop_assert_eq!(db.entries.len(), names.len());
        for (entry, (package, (name, version))) in db.entries.iter().zip(repo.packages().iter().zip(&names)) {
            prop_assert_eq!((&*entry.name, entry.version.as_str()), (&**name, &**version));
            prop_assert_eq!((entry.csize, entry.sha256), (Some(package.csize), Some(package.sha256)));
            prop_assert_eq!(entry.depends.iter().collect::<Vec<_>>(), depends.iter().collect::<Vec<_>>());
            prop_assert_eq!(entry.pgpsig.is_some(), embed_signatures);
            let file = PkgFileName::parse(&entry.filename).unwrap();
            prop_assert_eq!((file.name(), file.version_str()), (&**name, &**version));
        }
    }
}
