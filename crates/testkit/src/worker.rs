//! A thread with an async runtime of its own, for the servers of this crate.
//!
//! - Invariant: when a [`Worker`] is stopped or dropped, its thread has ended and all
//!   its sockets are closed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use pacstore_runtime::{CancellationToken, Tasks};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[derive(Debug)]
pub(crate) struct Worker {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Listens on `port` of 127.0.0.1 (0: any) and gives each connection to `serve`.
    pub(crate) fn listen<F>(
        name: &str,
        port: u16,
        mut serve: impl FnMut(TcpStream) -> F + Send + 'static,
    ) -> io::Result<(Self, SocketAddr)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            bind(port)?
        };
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(async {
                let tasks = Tasks::new();
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        let _ = stream.set_nodelay(true);
                        tasks.spawn("connection", serve(stream));
                    }
                }
            }));
        })?;
        Ok((
            Self {
                stop,
                thread: Some(thread),
            },
            address,
        ))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows in the test's output; here it only ends the wait.
            let _ = thread.join();
        }
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // The same port again at once, after a stop.
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(1024)
}
