//! A directory as an HTML page, and nothing in it that a file name could break.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What a link may hold unescaped.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'+');

/// The page for `entries` (name, bytes below it, is a directory) of the directory `title`; `above` is where the one above it is.
pub(crate) fn page(title: &str, cid: &str, above: Option<&str>, entries: &[(Vec<u8>, u64, bool)]) -> String {
    let title = escape(title);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}td{{padding:.15rem .5rem;border-bottom:1px solid #8884}}\
         td:last-child{{text-align:right;white-space:nowrap}}code{{overflow-wrap:anywhere}}</style></head>\n\
         <body><h1>{title}</h1><p><code>{cid}</code></p><table>\n"
    );
    if let Some(above) = above {
        let _ = writeln!(html, "<tr><td><a href=\"{above}\">../</a></td><td></td></tr>");
    }
    for (name, bytes, directory) in entries {
        let slash = if *directory { "/" } else { "" };
        let link = percent_encode(name, PLAIN);
        let shown = escape(&String::from_utf8_lossy(name));
        let _ = writeln!(
            html,
            "<tr><td><a href=\"./{link}{slash}\">{shown}{slash}</a></td><td>{}</td></tr>",
            human(*bytes)
        );
    }
    html.push_str("</table></body></html>\n");
    html
}

/// Text that is safe in HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let page = page(
            "<x>",
            "bafy",
            Some("../"),
            &[(b"a\"><script>\xff".to_vec(), 5, false)],
        );
        assert!(!page.contains("<script>"));
        assert!(page.contains("./a%22%3E%3Cscript%3E%FF"));
    }
}
