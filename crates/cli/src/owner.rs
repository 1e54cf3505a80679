//! Root on the home of another user, such as the service's: what is made there must be that user's.
//!
//! - Invariant: nothing below a state directory is written by root, unless root owns it; else the daemon of that home
//!   could not read its own keys and files afterwards.
//! - Not here: where a home is (`crate::home`).

use std::ffi::CString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, User, getgrouplist, initgroups, setgid, setgroups, setuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Who a state directory belongs to, if this process is root and that is somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// Of `state`; nobody else where it is not there.
    pub(crate) fn of(state: &Path) -> Option<Self> {
        let meta = std::fs::metadata(state).ok()?;
        let owner = Self {
            uid: Uid::from_raw(meta.uid()),
            gid: Gid::from_raw(meta.gid()),
        };
        (Uid::effective().is_root() && !owner.uid.is_root()).then_some(owner)
    }

    /// Gives it what root made.
    pub(crate) fn give(self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// This process is the owner from now on, in all its threads and for good.
    pub(crate) fn become_it(self) -> anyhow::Result<()> {
        let becoming = || -> nix::Result<()> {
            match User::from_uid(self.uid)?.and_then(|user| CString::new(user.name).ok()) {
                Some(name) => initgroups(&name, self.gid)?,
                None => setgroups(&[self.gid])?,
            }
            setgid(self.gid)?;
            setuid(self.uid)
        };
        becoming().with_context(|| format!("cannot go on as user {}, whose home this is", self.uid))
    }

    /// Does `work` as the owner, in a thread of its own that ends with it; the process stays root.
    pub(crate) fn does<T: Send>(self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.become_it_here()
                    .with_context(|| format!("cannot act as user {}, whose home this is", self.uid))?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// This thread alone is the owner from now on. Groups go first: only root may change them.
    fn become_it_here(self) -> std::io::Result<()> {
        let name = User::from_uid(self.uid)?.and_then(|user| CString::new(user.name).ok());
        let groups = name.map_or_else(|| Ok(vec![self.gid]), |name| getgrouplist(&name, self.gid))?;
        let raw = |gid: &Gid| rustix::fs::Gid::from_raw(gid.as_raw());
        set_thread_groups(&groups.iter().map(raw).collect::<Vec<_>>())?;
        let gid = raw(&self.gid);
        set_thread_res_gid(gid, gid, gid)?;
        let uid = rustix::fs::Uid::from_raw(self.uid.as_raw());
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }
}
