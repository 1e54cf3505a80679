//! A gateway for a test, and a client that hides nothing: requests as text, answers as bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pacstore_http::{Gateway, Limits, serve_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::nodes::TestNode;

/// A node with its gateway.
pub(crate) struct Served {
    pub(crate) node: TestNode,
    pub(crate) address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body has as many bytes as its header said.
    pub(crate) fn is_whole(&self) -> bool {
        self.header("content-length").parse() == Ok(self.body.len())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) async fn serve(node: TestNode) -> Served {
    serve_within(node, Limits::default()).await
}

pub(crate) async fn serve_within(node: TestNode, limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = Gateway::new(node.node.clone(), vec!["localhost".to_owned()]);
    let tasks = node.node.tasks().clone();
    node.node
        .tasks()
        .spawn("gateway", serve_with(listener, gateway, tasks, limits));
    Served { node, address }
}

impl Served {
    /// `GET` with more header lines, each `Name: value`.
    pub(crate) async fn get(&self, path: &str, headers: &[&str]) -> Reply {
        self.ask("GET", path, headers).await
    }

    /// Any request; a `Host` of ours is added where none is given.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|line| line.starts_with("Host:")) {
            text = format!("{text}Host: {}\r\n", self.address);
        }
        for line in headers {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // A broken connection is what some tests look for: what came is kept.
        let read = async { while stream.read_buf(&mut all).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(Duration::from_mins(1), read)
            .await
            .expect("an answer within a minute");
        parse(&all)
    }
}

fn parse(all: &[u8]) -> Reply {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a header");
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Reply {
        status,
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: all[end + 4..].to_vec(),
    }
}
