//! From a mirror's root and a path of raw bytes to the URL of the file.
//!
//! - Invariant: the result lies below the root; a name with `..`, `/`-games or NUL gives none.
//! - Not here: reading listings (`crate::listing`).

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use url::Url;

/// What a URL's path may not carry plainly. `%` is in it: names are raw, not encoded.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A path that names nothing below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is empty or has an empty, `.`, `..` or NUL part")]
pub struct NotAPath;

/// The URL of `path` (raw bytes, `a/b/c`, a final `/` allowed) below `root`.
///
/// `root` is taken as a directory, with or without a final slash; its query is dropped.
///
/// # Errors
/// [`NotAPath`] for an empty path and for parts that are empty, `.`, `..` or hold a NUL.
pub fn url_of(root: &Url, path: &[u8]) -> Result<Url, NotAPath> {
    let (body, slash) = match path.strip_suffix(b"/") {
        Some(body) => (body, "/"),
        None => (path, ""),
    };
    let mut full = root.path().trim_end_matches('/').to_owned();
    for part in body.split(|&b| b == b'/') {
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
            return Err(NotAPath);
        }
        full.push('/');
        full.extend(percent_encode(part, SEGMENT));
    }
    full.push_str(slash);
    let mut url = root.clone();
    url.set_path(&full);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_unix_name_becomes_a_url_below_the_root() {
        let root = Url::parse("http://m.example/arch?x#y").expect("url");
        let ok = |p: &[u8]| url_of(&root, p).expect("a path").to_string();
        assert_eq!(
            ok(b"core/os/a-1:2-1.pkg"),
            "http://m.example/arch/core/os/a-1:2-1.pkg"
        );
        assert_eq!(ok(b"a b#c?d%41/"), "http://m.example/arch/a%20b%23c%3Fd%2541/");
        assert_eq!(ok(b"\xff\n\\"), "http://m.example/arch/%FF%0A%5C");
        assert_eq!(ok(b"%2e%2e/x"), "http://m.example/arch/%252e%252e/x");
        for bad in [&b""[..], b"/", b"..", b"a/../b", b"a//b", b"./a", b"a\0"] {
            assert_eq!(url_of(&root, bad), Err(NotAPath), "{bad:?}");
        }
    }
}
