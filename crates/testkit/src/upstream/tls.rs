//! The mirror over TLS, where client and server agree on HTTP/2.
//!
//! Its certificate is made when it starts and signs itself: whoever is to believe it is given it.
//!
//! - Invariant: HTTP/2 is the only protocol that is agreed on; a client that does not offer it gets no connection.
//! - Not here: what is answered (`super::serve`).

use std::io;
use std::sync::Arc;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use pacstore_runtime::Tasks;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::State;
use super::io::Flushing;
use super::serve::answer;

/// What a server over TLS needs.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    pub(crate) certificate: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// With a new key and a certificate for 127.0.0.1.
    pub(crate) fn new() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).map_err(io::Error::other)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = config
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate: made.cert.der().to_vec(),
        })
    }
}

/// One connection: many requests at once. It says that it goes away each time [`super::Upstream::go_away`] is called.
pub(crate) async fn connection(stream: TcpStream, tls: Tls, state: Arc<State>) {
    let mut leave = state.leave.subscribe();
    let Ok(stream) = tls.acceptor.accept(stream).await else {
        tracing::trace!("no TLS came about");
        return;
    };
    let flushes = watch::Sender::new(0);
    let io = Flushing::new(stream, flushes.clone());
    let service = {
        let state = Arc::clone(&state);
        service_fn(move |request| answer(request, Arc::clone(&state), flushes.clone()))
    };
    let served = http2::Builder::new(OnTasks(Tasks::new()))
        .timer(TokioTimer::new())
        .serve_connection(io, service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        _ = leave.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke");
    }
}

/// Each request of a connection is a task of it.
#[derive(Clone)]
struct OnTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for OnTasks {
    fn execute(&self, request: F) {
        self.0.spawn("request", request);
    }
}
