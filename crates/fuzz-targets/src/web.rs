//! Targets of crates `http` and `upstream`: what clients, web servers and rsync say.

use pacstore_http::fuzzing;
use pacstore_upstream::{Url, parse_listing, parse_rsync_line};

/// The length of a file, then lines: a Range header, a Host header, a path.
pub(crate) fn request(bytes: &[u8]) {
    let (len, text) = bytes.split_first_chunk().unwrap_or((&[0; 8], bytes));
    let len = u64::from_le_bytes(*len);
    let text = String::from_utf8_lossy(text);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    if let Some(range) = fuzzing::range(line(), len) {
        assert!(range.start < range.end && range.end <= len, "{range:?} of {len}");
    }
    fuzzing::route(line(), line());
}

/// Ranges, hosts, paths.
pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        (1000u64, "bytes=0-99\nlocalhost:8080\n/pacman/core/x86_64/core.db"),
        (
            u64::MAX,
            "bytes=-5\nx86--64-archlinux.ipns.localhost\n/core/os/x86_64/a.pkg.tar.zst",
        ),
        (
            0,
            "bytes=7-\n[::1]:8080\n/ipfs/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e/a",
        ),
    ];
    seeds
        .map(|(len, text)| [&len.to_le_bytes()[..], text.as_bytes()].concat())
        .into()
}

/// The page of a folder: each name is one that a folder can have.
pub(crate) fn listing(bytes: &[u8]) {
    let base = Url::parse("https://mirror.example/a%20b/core/").expect("a URL");
    for entry in parse_listing(bytes, &base) {
        let name = &entry.name;
        assert!(!name.is_empty() && name != b"." && name != b"..", "{name:?}");
        assert!(!name.contains(&b'/') && !name.contains(&0), "{name:?}");
    }
}

/// A page as nginx makes it, with what Apache adds.
pub(crate) fn listing_seeds() -> Vec<Vec<u8>> {
    vec![
        b"<html><h1>Index of /core/</h1><a href=\"../\">../</a><a href=\"?C=N;O=D\">Name</a>\
          <a href=\"a%2Bb-1-1-any.pkg.tar.zst\">a</a> 01-Jan-2026 <a href='/a%20b/core/os/'>os</a>\
          <a href=core.db>core.db</a></html>"
            .to_vec(),
    ]
}

/// One line of `rsync --list-only`.
pub(crate) fn rsync_line(bytes: &[u8]) {
    if let Ok(Some(listed)) = parse_rsync_line(bytes) {
        assert!(!listed.path.is_empty() && listed.path.len() <= bytes.len());
    }
}

/// A file with an escaped byte in its name, a folder, what is no entry.
pub(crate) fn rsync_line_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "-rw-r--r--      1,234,567 2026/01/31 23:59:59 core/os/x86_64/a\\#012b-1-1-any.pkg.tar.zst",
        "drwxr-xr-x          4,096 2026/01/31 23:59:59 core/os",
        "sent 20 bytes  received 1,234 bytes  836.00 bytes/sec",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}
