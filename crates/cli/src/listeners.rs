//! The gateway's sockets, in the care of the service manager while no daemon has them.
//!
//! A socket that the manager keeps open (systemd's file descriptor store) outlives a daemon that is killed or restarted: what
//! pacman asks meanwhile waits for the next daemon, where a refused connection would cost it the whole update if
//! it came between a package and its signature. A socket unit hands its sockets over in the same way.
//!
//! - Invariant: a socket is taken for an address that the configuration names, and for no other.
//! - Invariant: after a failed start no socket of ours is kept, so that pacman is refused at once.
//! - Read first: `sd_listen_fds(3)`, `sd_notify(3)` (`FDSTORE=1`), docs/decisions/0020.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use pacstore_http::listen_everywhere;
use rustix::net::sockopt::{ipv6_v6only, socket_acceptconn};
use sd_notify::NotifyState;
use tokio::net::TcpListener;

/// What the manager knows our own sockets by. Those of a socket unit have its name.
const OURS: &str = "gateway";

/// A socket that was handed over.
#[derive(Debug)]
struct Kept {
    listener: std::net::TcpListener,
    address: SocketAddr,
    name: String,
}

/// All sockets that were handed over to this process.
#[derive(Debug, Default)]
pub(crate) struct HandedOver(Vec<Kept>);

impl HandedOver {
    /// What the service manager kept for us. To be called once, before anything else is opened.
    pub(crate) fn take() -> Self {
        let handed = match sd_notify::listen_fds_with_names() {
            Ok(handed) => handed,
            Err(error) => {
                tracing::warn!(%error, "what the service manager hands over cannot be taken");
                return Self::default();
            }
        };
        let kept = handed.filter_map(|(fd, name)| {
            let kept = Kept::of(own(fd), name);
            if kept.is_none() {
                tracing::warn!(
                    fd,
                    "the service manager handed over what is no listening TCP socket"
                );
            }
            kept
        });
        Self(kept.collect())
    }

    /// Sockets at `address`, or with `everywhere` at its port of every interface: those that were handed over, else new
    /// ones. Those that were handed over for another address are closed.
    pub(crate) async fn bind(self, address: SocketAddr, everywhere: bool) -> io::Result<Vec<TcpListener>> {
        let (used, left): (Vec<Kept>, Vec<Kept>) = self
            .0
            .into_iter()
            .partition(|kept| kept.is_at(address, everywhere));
        for kept in left.into_iter().filter(|kept| kept.name != OURS) {
            tracing::warn!(
                "{} listens on {}, where nobody answers: gateway.listen is {address}; change one of them \
                 (a socket for [::] needs BindIPv6Only=ipv6-only)",
                kept.name,
                kept.address
            );
        }
        let mut listeners = Vec::new();
        let mut ours = Vec::new();
        for kept in used {
            kept.listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(kept.listener)?;
            if kept.name == OURS {
                ours.push(listeners.len());
            }
            listeners.push(listener);
        }
        if listeners.is_empty() {
            listeners = if everywhere {
                listen_everywhere(address.port())?
            } else {
                vec![TcpListener::bind(address).await?]
            };
            ours = (0..listeners.len()).collect();
        }
        let ours = ours.iter().filter_map(|at| listeners.get(*at));
        keep(&ours.map(AsFd::as_fd).collect::<Vec<_>>());
        Ok(listeners)
    }
}

impl Kept {
    fn of(socket: OwnedFd, name: String) -> Option<Self> {
        let listens = socket_acceptconn(&socket).is_ok_and(|listens| listens);
        let listener = std::net::TcpListener::from(socket);
        // Of another family it has no address of this kind.
        let address = listener.local_addr().ok()?;
        listens.then_some(Self {
            listener,
            address,
            name,
        })
    }

    fn is_at(&self, address: SocketAddr, everywhere: bool) -> bool {
        let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let is_there = if everywhere {
            unspecified.contains(&self.address.ip()) && self.address.port() == address.port()
        } else {
            self.address == address
        };
        // One for both families would show addresses in two forms.
        is_there && (self.address.is_ipv4() || ipv6_v6only(&self.listener).is_ok_and(|only| only))
    }
}

/// Gives sockets into the manager's care, and only these: those that it kept before may be of an older configuration.
fn keep(sockets: &[BorrowedFd<'_>]) {
    let_go();
    if sockets.is_empty() {
        return;
    }
    let states = [NotifyState::FdStore, NotifyState::FdName(OURS)];
    if let Err(error) = sd_notify::notify_with_fds(&states, sockets) {
        tracing::debug!(%error, "the service manager cannot be given the gateway's sockets");
    }
}

/// The manager closes what it keeps for us.
pub(crate) fn let_go() {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(OURS)]) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[expect(
    unsafe_code,
    reason = "std has no other way to take a descriptor over by its number"
)]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: it is open (a flag of it was just set), and the manager opened it for this process (LISTEN_PID). Nothing of
    // this process has it: whoever calls this opened nothing before.
    unsafe { OwnedFd::from_raw_fd(number) }
}
