//! The smallest HTTP client that can tell a whole answer from a broken one.
//!
//! - Not here: what pacman does (the acceptance script runs the real one).

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::home::DEADLINE;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// GETs `path` from `address`, on a connection of its own.
///
/// # Errors
/// If the connection breaks before the answer is whole, or nothing moves until the deadline.
pub(crate) fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = writeln!(request, "{name}: {value}\r");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in `{first}`")))?;
    let mut found = Vec::new();
    loop {
        let line = line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        found.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut response = Response {
        status,
        headers: found,
        body: Vec::new(),
    };
    if let Some(len) = response.header("content-length").and_then(|len| len.parse().ok()) {
        response.body.resize(len, 0);
        reader.read_exact(&mut response.body)?;
    } else if response.header("transfer-encoding").is_some() {
        response.body = chunks(&mut reader)?;
    }
    Ok(response)
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn chunks(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let len = usize::from_str_radix(&line(reader)?, 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + len, 0);
        reader.read_exact(&mut body[start..])?;
        line(reader)?;
        if len == 0 {
            return Ok(body);
        }
    }
}
