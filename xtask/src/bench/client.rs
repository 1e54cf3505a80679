//! A small HTTP client that only counts: keep-alive GETs of files whose length is told.
//!
//! - Invariant: an answer that ends short is an error.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long one answer may stall.
const STALL: Duration = Duration::from_mins(1);

/// One connection that stays open.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn open(host: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL))?;
        Ok(Self {
            host: host.to_owned(),
            stream: BufReader::with_capacity(64 << 10, stream),
            buffer: vec![0; 256 << 10],
        })
    }

    /// Gets a file and throws it away; its length in bytes.
    pub(super) fn get(&mut self, path: &str) -> anyhow::Result<u64> {
        let answer = self.ask(path, "")?;
        if answer.status != 200 {
            bail!("{path}: status {}", answer.status);
        }
        Ok(answer.length)
    }

    /// Asks for a path with these further header lines, and throws the body away.
    pub(super) fn ask(&mut self, path: &str, more: &str) -> anyhow::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", self.host);
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status: u16 = status.with_context(|| format!("{path}: no status"))?;
        let (mut length, mut last_modified) = (None, None);
        loop {
            line.clear();
            ensure!(
                self.stream.read_line(&mut line)? > 0,
                "{path}: the header ends early"
            );
            if line.trim().is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<u64>()?);
            } else if name.eq_ignore_ascii_case("last-modified") {
                last_modified = Some(value.trim().to_owned());
            }
        }
        // A 304 has no body, whatever length it tells.
        let length = match status {
            304 => 0,
            _ => length.with_context(|| format!("{path}: no length"))?,
        };
        let mut rest = length;
        while rest > 0 {
            let most = rest.min(self.buffer.len() as u64) as usize;
            let read = self.stream.read(&mut self.buffer[..most])?;
            ensure!(read > 0, "{path}: ends {rest} bytes early");
            rest -= read as u64;
        }
        Ok(Answer {
            status,
            length,
            last_modified,
            took: begun.elapsed(),
        })
    }
}

/// What came for one request.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) length: u64,
    pub(super) last_modified: Option<String>,
    /// From the request to its last byte.
    pub(super) took: Duration,
}

/// Gets all `paths` over `connections` connections at once: bytes.
pub(super) fn get_all(host: &str, paths: Vec<String>, connections: usize) -> anyhow::Result<u64> {
    let paths = Mutex::new(VecDeque::from(paths));
    std::thread::scope(|scope| {
        let work = || {
            let mut connection = Connection::open(host)?;
            let mut bytes = 0;
            loop {
                let path = paths.lock().expect("no thread panicked").pop_front();
                match path {
                    Some(path) => bytes += connection.get(&path)?,
                    None => return Ok(bytes),
                }
            }
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    })
}

/// How a server did under load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Asks for one file over and over for `time`.
pub(super) fn load(host: &str, path: &str, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let start = Instant::now();
    let work = || {
        let mut connection = Connection::open(host)?;
        let mut times = Vec::new();
        while start.elapsed() < time {
            let asked = Instant::now();
            connection.get(path)?;
            times.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    let times: anyhow::Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let took = start.elapsed().as_secs_f64();
    let mut times = times?.concat();
    times.sort_by(f64::total_cmp);
    let at = |part: usize| {
        times
            .get((times.len() * part / 100).min(times.len().saturating_sub(1)))
            .copied()
    };
    Ok(Load {
        per_second: times.len() as f64 / took,
        p50_ms: at(50).unwrap_or(f64::NAN),
        p99_ms: at(99).unwrap_or(f64::NAN),
    })
}
