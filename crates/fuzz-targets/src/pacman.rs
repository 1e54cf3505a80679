//! Targets of crate `pacman`: descriptions, databases, names, configuration.

use std::cmp::Ordering;

use pacstore_pacman::build::{PackageSpec, RepoBuilder, write_package};
use pacstore_pacman::{
    Conf, Database, DbFileName, DbKind, Limits, Mirrorlist, PkgFileName, Settings, check_file_name,
    expand_server, read_file_lists, vercmp,
};

/// Tight enough that a bomb is over in milliseconds.
const LIMITS: Limits = Limits {
    unpacked: 4 << 20,
    member: 256 << 10,
    members: 2_000,
    depth: 8,
};

/// A packed database of either kind.
pub(crate) fn database(bytes: &[u8]) {
    if let Ok(database) = Database::read(bytes, &LIMITS) {
        assert!(database.entries.len() <= LIMITS.members);
        for entry in &database.entries {
            check_file_name(&entry.filename).expect("a file name that was checked");
        }
        let _ = database.architectures();
    }
    let mut packages = 0;
    let _ = read_file_lists(bytes, &LIMITS, |_, paths| {
        packages += 1;
        assert!(paths.count() <= LIMITS.member as usize);
    });
    assert!(packages <= LIMITS.members);
}

/// Both databases of a repository of two packages, packed and bare.
pub(crate) fn database_seeds() -> Vec<Vec<u8>> {
    let mut repo = RepoBuilder::new("core", 1_700_000_000);
    for (name, version) in [("one", "1.0-1"), ("two", "2:0.5+r3-2")] {
        let spec = PackageSpec::new(name, version, 1_700_000_000).expect("a version");
        repo.add(write_package(&spec, &mut Vec::new()).expect("memory takes everything"));
    }
    let packed =
        [DbKind::Db, DbKind::Files].map(|kind| repo.database(kind).expect("memory takes everything"));
    packed.into_iter().chain([bare(DESC.as_bytes())]).collect()
}

const DESC: &str = "%FILENAME%\na-1-1-any.pkg.tar.zst\n\n%NAME%\na\n\n%BASE%\na\n\n%VERSION%\n1-1\n\n%DESC%\nwords\n\n\
%CSIZE%\n10\n\n%ISIZE%\n20\n\n%MD5SUM%\n0123456789abcdef0123456789abcdef\n\n%SHA256SUM%\n\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\n%PGPSIG%\niQEz\n\n%ARCH%\nany\n\n%BUILDDATE%\n1700000000\n\n\
%DEPENDS%\nglibc>=2\nsh\n\n";

/// A bare tar with one package whose description is this.
fn bare(desc: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(desc.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "a-1-1/desc", desc)
        .expect("memory takes everything");
    tar.into_inner().expect("memory takes everything")
}

/// The text of one description.
pub(crate) fn desc(bytes: &[u8]) {
    if let Ok(database) = Database::read(&bare(bytes), &LIMITS) {
        let [entry] = &database.entries[..] else {
            panic!("{} packages of one", database.entries.len());
        };
        check_file_name(&entry.filename).expect("a file name that was checked");
        assert_eq!(entry.folder(), "a-1-1", "a description of another package");
    }
}

/// A whole description.
pub(crate) fn desc_seeds() -> Vec<Vec<u8>> {
    vec![DESC.into()]
}

/// Names of files and versions.
pub(crate) fn package_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = PkgFileName::parse(&text) {
        assert_eq!(name.as_str(), text);
        check_file_name(&text).expect("a package's name is a file's name");
        assert!(!name.name().is_empty() && !name.arch().is_empty());
    }
    let _ = DbFileName::parse(&text);
    let (a, b) = text.split_once('\n').unwrap_or((&text, "1.0-1"));
    assert_eq!(vercmp(a, b), vercmp(b, a).reverse(), "{a:?} {b:?}");
    assert_eq!(vercmp(a, a), Ordering::Equal, "{a:?}");
}

/// Names and pairs of versions.
pub(crate) fn package_name_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "gtk-update-icon-cache-1:4.14.2+r3+g5a-1-x86_64.pkg.tar.zst",
        "core.db.tar.gz.sig",
        "1:1.0.rc1-2\n1.0-1.5",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// `pacman.conf` and mirror lists: what is read can be written without losing a byte.
pub(crate) fn conf(bytes: &[u8]) {
    let conf = Conf::parse(bytes);
    assert_eq!(conf.to_bytes(), bytes, "a byte was lost");
    assert!(conf.directives().count() <= conf.len());
    let _ = conf.sections();
    if let Ok(settings) = Settings::read(&conf, &mut |_| vec![Conf::parse(bytes)]) {
        let _ = settings.architecture("x86_64");
    }
    let list = Mirrorlist::parse(bytes);
    assert_eq!(list.to_bytes(), bytes, "a byte was lost");
    for server in list.used().iter().chain(&list.offered()) {
        let _ = expand_server(server, "core", "x86_64");
    }
}

/// A configuration with an include, and a mirror list.
pub(crate) fn conf_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "# words\n[options]\nArchitecture = auto\nSigLevel = Required DatabaseOptional\nIgnorePkg = a b\n\n\
         [core]\nInclude = /etc/pacman.d/mirrorlist\r\n[extra]\nCacheServer = http://a/$repo\nServer=http://b/$repo/os/$arch",
        "## Country\n#Server = https://a.example/$repo/os/$arch\nServer = https://b.example/$repo/os/$arch\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}
