//! Reading a tree through a gateway, over a few plain HTTP/1.1 connections.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::process::Given;
use crate::tree::{Item, Listing, of_bytes};

/// No byte for this long is a failure.
const STALL: Duration = Duration::from_secs(40);

/// Connections over which a tree is read.
const CONNECTIONS: usize = 8;

/// A connection to a gateway.
#[derive(Debug)]
struct Gateway {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Gateway {
    /// Connects to the gateway at `address`.
    fn connect(address: SocketAddr) -> Given<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            address,
            stream: BufReader::new(stream),
        })
    }

    /// The body of a GET of `path` (segments of any bytes), which must be answered by 200.
    fn get(&mut self, path: &[u8]) -> Given<Vec<u8>> {
        let (encoded, address) = (encode(path), self.address);
        let request = format!("GET {encoded} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut len = 0;
        loop {
            let mut header = String::new();
            self.stream.read_line(&mut header)?;
            let header = header.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                len = value.trim().parse()?;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        if !status.starts_with("HTTP/1.1 200 ") {
            let said = String::from_utf8_lossy(&body);
            return Err(format!("GET {encoded}: {}: {said}", status.trim_end()).into());
        }
        Ok(body)
    }

    /// One entry of a tree below `root`: a file's bytes, or a folder's page.
    fn item(&mut self, root: &str, path: &[u8], wanted: &Listing) -> Given<Item> {
        let mut whole = format!("{root}/").into_bytes();
        whole.extend_from_slice(path);
        if wanted.get(path) != Some(&Item::Folder) {
            return Ok(of_bytes(&self.get(&whole)?));
        }
        if !path.is_empty() {
            whole.push(b'/');
        }
        assert_page(&self.get(&whole)?, path, wanted);
        Ok(Item::Folder)
    }
}

/// Everything of `wanted`, as the gateway at `address` has it below `root` (such as `/ipfs/CID`):
/// each file's bytes, each folder's page, which must name all that is in it.
pub(crate) fn get_all(address: SocketAddr, root: &str, wanted: &Listing) -> Given<Listing> {
    let paths: Vec<&Vec<u8>> = wanted.keys().collect();
    thread::scope(|scope| {
        let part = |paths: Vec<&Vec<u8>>| -> Given<Listing> {
            let mut gateway = Gateway::connect(address)?;
            let one = |path: &Vec<u8>| Ok((path.clone(), gateway.item(root, path, wanted)?));
            paths.into_iter().map(one).collect()
        };
        let parts: Vec<_> = (0..CONNECTIONS)
            .map(|first| paths.iter().copied().skip(first).step_by(CONNECTIONS).collect())
            .map(|paths| scope.spawn(move || part(paths)))
            .collect();
        let mut all = Listing::new();
        for part in parts {
            all.append(&mut part.join().expect("no page lacks an entry")?);
        }
        Ok(all)
    })
}

/// The page of the folder `path` has a link for each of its entries.
fn assert_page(page: &[u8], path: &[u8], wanted: &Listing) {
    let page = String::from_utf8_lossy(page);
    let links: BTreeSet<Vec<u8>> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|link| decode(link.trim_start_matches("./").trim_end_matches('/')))
        .collect();
    let below = wanted.keys().filter_map(|key| {
        let name = match path {
            [] => &key[..],
            _ => key.strip_prefix(path)?.strip_prefix(b"/")?,
        };
        (!name.is_empty() && !name.contains(&b'/')).then_some(name)
    });
    let missing: Vec<String> = below.filter(|name| !links.contains(*name)).map(encode).collect();
    assert!(
        missing.is_empty(),
        "{} entries have no link on the page of `{}`, the first is {}; its links: {links:.400?}",
        missing.len(),
        String::from_utf8_lossy(path),
        missing[0],
    );
}

/// A link's percent-encoded bytes.
fn decode(link: &str) -> Vec<u8> {
    let mut rest = link.replace("&amp;", "&").into_bytes().into_iter();
    let mut out = Vec::new();
    while let Some(byte) = rest.next() {
        let digits = (byte == b'%').then(|| rest.as_slice().get(..2)).flatten();
        let decoded = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        if decoded.is_some() {
            rest.nth(1);
        }
        out.push(decoded.unwrap_or(byte));
    }
    out
}

/// Percent-encodes all that is neither unreserved nor a slash.
fn encode(path: &[u8]) -> String {
    path.iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(*byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
