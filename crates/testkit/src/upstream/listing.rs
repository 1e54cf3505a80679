//! Directory pages as the usual servers make them.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::content::Name;

/// Which server's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `<pre>` with columns; escapes nearly everything.
    Nginx,
    /// A table with sort links; leaves `:` and `+` plain.
    Apache,
    /// `<ul>` of Python's `http.server`.
    Python,
    /// lighttpd's table.
    Lighttpd,
    /// Caddy: `./` before each name.
    Caddy,
    /// No pages: 404.
    Off,
}

const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const LOOSE: &AsciiSet = &STRICT
    .remove(b':')
    .remove(b'+')
    .remove(b'@')
    .remove(b'!')
    .remove(b',')
    .remove(b'=');

pub(crate) fn page(style: Listing, path: &str, names: &[Name]) -> String {
    let mut rows = String::new();
    for entry in names {
        let slash = if entry.is_dir { "/" } else { "" };
        let set = if matches!(style, Listing::Apache | Listing::Caddy) {
            LOOSE
        } else {
            STRICT
        };
        let href = percent_encode(&entry.name, set);
        let shown = escape(&String::from_utf8_lossy(&entry.name));
        let _ = match style {
            Listing::Nginx => writeln!(
                rows,
                "<a href=\"{href}{slash}\">{shown}{slash}</a>   13-Apr-2025 00:00   1"
            ),
            Listing::Apache => writeln!(
                rows,
                "<tr><td valign=\"top\"><img src=\"/icons/x.gif\" alt=\"[ ]\"></td><td><a href=\"{href}{slash}\">{shown}{slash}</a></td><td>1</td></tr>"
            ),
            Listing::Python => writeln!(rows, "<li><a href=\"{href}{slash}\">{shown}{slash}</a></li>"),
            Listing::Lighttpd => {
                writeln!(
                    rows,
                    "<tr class=\"d\"><td class=\"n\"><a href=\"{href}{slash}\">{shown}</a>{slash}</td></tr>"
                )
            }
            Listing::Caddy => writeln!(
                rows,
                "<a href=\"./{href}{slash}\"><span class=\"name\">{shown}</span></a>"
            ),
            Listing::Off => Ok(()),
        };
    }
    frame(style, path, &rows)
}

fn frame(style: Listing, path: &str, rows: &str) -> String {
    let title = format!("Index of {}", escape(path));
    let head = format!("<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1>");
    match style {
        Listing::Nginx => format!("{head}<hr><pre><a href=\"../\">../</a>\n{rows}</pre><hr></body></html>\n"),
        Listing::Apache => format!(
            "{head}<table><tr><th><a href=\"?C=N;O=D\">Name</a></th><th><a href=\"?C=M;O=A\">Last modified</a></th></tr>\n\
             <tr><td><a href=\"{}\">Parent Directory</a></td></tr>\n{rows}</table></body></html>\n",
            parent(path)
        ),
        Listing::Python => format!("{head}<hr>\n<ul>\n{rows}</ul>\n<hr>\n</body></html>\n"),
        Listing::Lighttpd => {
            format!(
                "{head}<table><tr class=\"d\"><td class=\"n\"><a href=\"../\">..</a>/</td></tr>\n{rows}</table></body></html>\n"
            )
        }
        Listing::Caddy | Listing::Off => format!("{head}<a href=\"..\">up</a>\n{rows}</body></html>\n"),
    }
}

fn parent(path: &str) -> &str {
    let inner = path.trim_end_matches('/');
    inner.rfind('/').map_or("/", |slash| &inner[..=slash])
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
