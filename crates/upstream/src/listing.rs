//! Reads the directory page that a web server makes (nginx, Apache, lighttpd, Caddy, Python ...).
//!
//! There is no standard for these pages. What they share: each entry is a link whose
//! target is the entry's name, percent-encoded, with a final `/` for a directory. So
//! the text of the page, its columns and dates are not looked at, only link targets.
//!
//! - Invariant: each name is one path component (no `/`, no NUL, not `.` or `..`)
//!   that lies directly below the page's own URL, on the page's own host.
//! - Not here: whether the page is a listing at all; a page without entries gives none.
//! - Read first: [`parse_listing`].

use std::collections::BTreeMap;

use html5gum::{HtmlString, Token, Tokenizer};
use percent_encoding::percent_decode;
use url::Url;

/// The most entries that are taken of one page; Arch's largest folder has about 30,000.
pub const MAX_ENTRIES: usize = 500_000;

/// One entry of a directory page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListEntry {
    /// The raw name, without a final slash.
    pub name: Vec<u8>,
    /// Whether its link ends in `/`.
    pub is_dir: bool,
}

/// The entries of the directory page `html` that was found at `base`, sorted by name, each once.
///
/// `base` is the final URL (after redirects). Parent links, sort links (`?C=N`), fragments
/// and links to other hosts or folders are left out. At most [`MAX_ENTRIES`].
pub fn parse_listing(html: &[u8], base: &Url) -> Vec<ListEntry> {
    let mut base = base.clone();
    base.set_query(None);
    base.set_fragment(None);
    let folder = base
        .path()
        .rfind('/')
        .map_or("/", |slash| &base.path()[..=slash])
        .to_owned();
    base.set_path(&folder);
    let mut found = BTreeMap::new();
    for token in Tokenizer::new(html) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        if &**tag.name != b"a" {
            continue;
        }
        let href = tag.attributes.get(&HtmlString(b"href".to_vec()));
        if let Some(entry) = href.and_then(|href| entry(href, &base, &folder)) {
            let is_dir = found.entry(entry.name).or_insert(false);
            *is_dir |= entry.is_dir;
        }
        if found.len() >= MAX_ENTRIES {
            break;
        }
    }
    found
        .into_iter()
        .map(|(name, is_dir)| ListEntry { name, is_dir })
        .collect()
}

fn entry(href: &[u8], base: &Url, folder: &str) -> Option<ListEntry> {
    let href = String::from_utf8_lossy(href);
    let target = resolve(href.trim_ascii(), base)?;
    if target.query().is_some() || target.fragment().is_some() || target.origin() != base.origin() {
        return None;
    }
    let rest = target.path().strip_prefix(folder)?;
    let (part, is_dir) = match rest.strip_suffix('/') {
        Some(part) => (part, true),
        None => (rest, false),
    };
    let name: Vec<u8> = percent_decode(part.as_bytes()).collect();
    let usable = !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, b'/' | 0))
        && !part.contains('/');
    usable.then_some(ListEntry { name, is_dir })
}

/// Resolves a link. A name with an epoch (`vim-2:9.1-1-x86_64.pkg.tar.zst`) that a server
/// left unescaped looks like a scheme, and is not one.
fn resolve(href: &str, base: &Url) -> Option<Url> {
    let looks_relative = href.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.starts_with("//")
            && !matches!(
                scheme.to_ascii_lowercase().as_str(),
                "mailto" | "javascript" | "data" | "tel"
            )
            && !scheme.contains(['/', '?', '#'])
    });
    if looks_relative {
        base.join(&format!("./{href}")).ok()
    } else {
        base.join(href).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(html: &str) -> Vec<String> {
        let base = Url::parse("http://m.example/archlinux/core/").expect("url");
        parse_listing(html.as_bytes(), &base)
            .into_iter()
            .map(|e| String::from_utf8_lossy(&e.name).into_owned() + if e.is_dir { "/" } else { "" })
            .collect()
    }

    #[test]
    fn nginx_pages_are_read() {
        let page = "<html>\r\n<head><title>Index of /archlinux/core/</title></head>\r\n<body>\r\n\
            <h1>Index of /archlinux/core/</h1><hr><pre><a href=\"../\">../</a>\r\n\
            <a href=\"os/\">os/</a>                     21-Nov-2026 10:00      -\r\n\
            <a href=\"a%20b%25c.txt\">a b%c.txt</a>     21-Nov-2026 10:00     12\r\n\
            <a href=\"vim-2%3A9.1-1-x86_64.pkg.tar.zst\">vim-2:9.1-1-x86_64.pkg..&gt;</a>  1\r\n\
            <a href=\"%C3%A4.db\">\u{e4}.db</a>  1\r\n</pre><hr></body>\r\n</html>\r\n";
        assert_eq!(
            names(page),
            ["a b%c.txt", "os/", "vim-2:9.1-1-x86_64.pkg.tar.zst", "\u{e4}.db"]
        );
    }

    #[test]
    fn apache_pages_are_read_without_sort_and_parent_links() {
        let page = "<table><tr><th><a href=\"?C=N;O=D\">Name</a></th><th><a href=\"?C=M;O=A\">Last</a></th></tr>\
            <tr><td><a href=\"/archlinux/\">Parent Directory</a></td></tr>\
            <tr><td><a href=\"core.db\">core.db</a></td></tr>\
            <tr><td><a href=\"a&amp;b.pkg\">a&amp;b.pkg</a></td></tr>\
            <tr><td><a href=\"os/\">os/</a></td></tr></table>";
        assert_eq!(names(page), ["a&b.pkg", "core.db", "os/"]);
    }

    #[test]
    fn caddy_lighttpd_and_python_pages_are_read() {
        let page = "<a href=\"./x-1:2.pkg\">x</a><A HREF='y-1:2.pkg'>y</A><a href=\"../\">up</a>\
            <a href=\"http://m.example/archlinux/core/abs.sig\">abs</a><a href=\"/archlinux/core/rooted/\">r</a>\
            <li><a href=\"%0Anewline\">n</a></li><a class=q href = unquoted.db>u</a>";
        assert_eq!(
            names(page),
            [
                "\nnewline",
                "abs.sig",
                "rooted/",
                "unquoted.db",
                "x-1:2.pkg",
                "y-1:2.pkg"
            ]
        );
    }

    #[test]
    fn links_elsewhere_are_no_entries() {
        let page = "<a href=\"//evil.example/archlinux/core/a\">a</a><a href=\"https://m.example/archlinux/core/b\">b</a>\
            <a href=\"..%2f..%2fetc\">c</a><a href=\"%2e%2e/\">d</a><a href=\"sub/deep\">e</a><a href=\"mailto:x@y\">m</a>\
            <a href=\"javascript:alert(1)\">j</a><a href=\"a%00b\">n</a><a href=\"#top\">t</a><a href=\"\">s</a>\
            <a name=x>n</a><a href=\"/elsewhere\">w</a><!-- <a href=\"comment\"> --><a href=\"http://u@h:x/\">";
        assert_eq!(names(page), Vec::<String>::new());
    }

    #[test]
    fn bytes_that_are_no_html_give_nothing_and_do_not_hang() {
        let noise: Vec<u8> = (0..100_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let base = Url::parse("http://m.example/").expect("url");
        assert!(parse_listing(&noise, &base).len() < 100);
    }
}
