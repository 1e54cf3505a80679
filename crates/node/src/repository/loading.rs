//! A package that pacman loads from a mirror, because we sent it there: neighbours need not load it as well.
//!
//! pacman writes it to its cache as `NAME.part`. As long as that grows, it counts as brought by us, and neighbours wait
//! for it as for any other; once pacman gave it its name it is taken from there (`crate::machine`).
//!
//! - Invariant: what does not grow for [`STILL`], is not there, or is not taken from there because this machine does not use
//!   its repository, is brought by nobody.
//! - Not here: caches that cannot be read (pacman 7 with `DownloadUser` loads elsewhere): there each machine is alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::hold::Hold;
use super::package::PackageOf;
use super::whole::time_for;
use crate::node::Node;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// It stopped, or is not in a cache of ours.
const STILL: Duration = Duration::from_secs(4);

/// It is whole, and is read and checked.
const CHECKED: Duration = Duration::from_secs(20);

/// No longer than this.
const MOST: Duration = Duration::from_mins(2);

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Far {
    /// So many bytes are there.
    Part(u64),
    /// It has its name.
    Whole,
    Nowhere,
}

/// Keeps the claim of `hold` while pacman loads `package` into one of its caches.
pub(super) fn keep_claim(node: &Node, package: &Arc<PackageOf>, hold: &Arc<Hold>) {
    let caches = &node.inner.config.machine.cache_dirs;
    if caches.is_empty() || !hold.is_claimed() {
        return hold.claimed(None);
    }
    let (node, package, hold) = (node.clone(), Arc::clone(package), Arc::clone(hold));
    let stop = node.inner.tasks.stop();
    let tasks = node.inner.tasks.clone();
    tasks.spawn("repository/elsewhere", async move {
        let here = stop.run_until_cancelled(Box::pin(watch(&node, &package, &hold)));
        if here.await == Some(true) {
            hold.done();
        } else {
            hold.claimed(None);
        }
    });
}

/// Whether it came.
async fn watch(node: &Node, package: &Arc<PackageOf>, hold: &Hold) -> bool {
    let began = Instant::now();
    let (mut last, mut grew) = (Far::Nowhere, began);
    let mut first = None;
    let patience = |far| if far == Far::Whole { CHECKED } else { STILL };
    while grew.elapsed() < patience(last) && began.elapsed() < MOST {
        tokio::time::sleep(LOOK).await;
        if node
            .stored_package(package)
            .await
            .is_ok_and(|file| file.is_some())
        {
            return true;
        }
        let is_taken = node.inner.machine.need().of_sha256(&package.sha256).is_some();
        let far = if is_taken {
            far(node, package).await
        } else {
            Far::Nowhere
        };
        match far {
            Far::Whole => {
                node.inner.machine.look_now();
                hold.beats();
            }
            Far::Part(bytes) if far != last => {
                let (at, before) = *first.get_or_insert((Instant::now(), bytes));
                let rate = bytes.saturating_sub(before) as f64 / at.elapsed().as_secs_f64().max(1e-6);
                hold.moves(time_for(package.entry.len.saturating_sub(bytes), rate));
            }
            Far::Part(_) | Far::Nowhere => {}
        }
        if far != last {
            (last, grew) = (far, Instant::now());
        }
    }
    debug!(name = package.name, "pacman does not load it any more");
    false
}

async fn far(node: &Node, package: &Arc<PackageOf>) -> Far {
    let caches: Vec<PathBuf> = node.inner.config.machine.cache_dirs.clone();
    let (name, len) = (package.name.clone(), package.entry.len);
    let looked = node.disk(move || {
        let size = |name: &str| {
            caches
                .iter()
                .filter_map(|cache| Some(fs_err::metadata(cache.join(name)).ok()?.len()))
                .max()
        };
        Ok(match (size(&name), size(&format!("{name}.part"))) {
            (Some(there), _) if there == len => Far::Whole,
            (_, Some(part)) => Far::Part(part),
            _ => Far::Nowhere,
        })
    });
    looked.await.unwrap_or(Far::Nowhere)
}
