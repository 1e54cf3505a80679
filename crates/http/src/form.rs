//! In which form an answer is wanted: as it is, or as a block or a CAR of blocks, which gateways of IPFS can be asked for.
//!
//! A file that is one raw block is that block. Every other form is refused: to get a file where a block was asked for is
//! of no use to anybody, and who checks it takes us for a liar.
//!
//! - Not here: what the path leads to (`crate::gateway`).
//! - Read first: specs.ipfs.tech, "Path Gateway", `format`, and "Trustless Gateway".

use http::header::{self, HeaderMap};
use pacstore_dag::RAW;
use pacstore_node::FileAnswer;

/// The media type of a block.
pub(crate) const RAW_BLOCK: &str = "application/vnd.ipld.raw";

/// What media types of blocks, CARs, records begin with.
const OF_IPFS: [&str; 2] = ["application/vnd.ipld.", "application/vnd.ipfs."];

/// A form that a request may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A file or a page.
    Plain,
    /// The block of the CID that the path leads to.
    Raw,
    /// Any other.
    Other,
}

impl Form {
    /// Reads it out of a query, which counts more, or of what is accepted, where that is nothing that we could give.
    pub(crate) fn of(query: Option<&str>, headers: &HeaderMap) -> Self {
        let pairs = query.unwrap_or_default().split('&');
        let mut formats = pairs.filter_map(|pair| pair.strip_prefix("format="));
        match formats.next() {
            Some("raw") => return Self::Raw,
            None | Some("") => {}
            Some(_) => return Self::Other,
        }
        let lines = headers.get_all(header::ACCEPT).iter();
        let mut form = Self::Plain;
        for accepted in lines.flat_map(|line| line.to_str().unwrap_or_default().split(',')) {
            let media = accepted.split(';').next().unwrap_or_default().trim();
            let media = media.to_ascii_lowercase();
            match media.as_str() {
                "" => {}
                RAW_BLOCK => form = Self::Raw,
                other if OF_IPFS.iter().any(|start| other.starts_with(start)) => {
                    if form == Self::Plain {
                        form = Self::Other;
                    }
                }
                _ => return Self::Plain,
            }
        }
        form
    }

    /// Whether `file` can be given in it.
    pub(crate) fn fits(self, file: &FileAnswer) -> bool {
        match self {
            Self::Plain => true,
            Self::Raw => file.root.codec() == RAW && file.len <= pacstore_dag::MAX_BLOCK as u64,
            Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, accept: &[&str]) -> Form {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(header::ACCEPT, line.parse().expect("a header"));
        }
        Form::of(Some(query).filter(|query| !query.is_empty()), &headers)
    }

    #[test]
    fn pacman_and_browsers_want_what_there_is() {
        assert_eq!(Form::of(None, &HeaderMap::new()), Form::Plain);
        for accept in ["*/*", "text/html,application/xml;q=0.9,*/*;q=0.8", ""] {
            assert_eq!(read("", &[accept]), Form::Plain, "{accept}");
        }
        for query in ["a=b", "format=", "xformat=raw", "filename=format"] {
            assert_eq!(read(query, &[]), Form::Plain, "{query}");
        }
    }

    #[test]
    fn blocks_and_what_else_gateways_are_asked_for_is_told_apart() {
        assert_eq!(read("format=raw", &["*/*"]), Form::Raw);
        assert_eq!(read("a=b&format=car&dag-scope=all", &[]), Form::Other);
        assert_eq!(read("format=ipns-record", &[]), Form::Other);
        assert_eq!(read("", &["application/vnd.ipld.raw"]), Form::Raw);
        assert_eq!(
            read("", &["Application/vnd.ipld.car; version=1; order=dfs"]),
            Form::Other
        );
        let either = ["application/vnd.ipld.car", "application/vnd.ipld.raw;q=0.5"];
        assert_eq!(read("", &either), Form::Raw);
        assert_eq!(read("", &["application/vnd.ipld.raw, */*"]), Form::Plain);
    }
}
