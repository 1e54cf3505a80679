//! Files go into the store while others of the same transfer are still under way.
//!
//! A first import moves gigabytes. Read, hashed and synced after the last byte has come, they would make it longer by a
//! part of the whole; meanwhile they cost nothing but time that the line leaves.
//!
//! - Invariant: a file comes in as it would later: one that changes meanwhile is left to `crate::work`.
//! - Invariant: a failed intake ends the transfer; a transfer that ends early leaves what came in the store.
//! - Not here: the transfers (`crate::web`, `crate::module`), reading and hashing (`crate::intake`).
//! - Read first: `crate::intake`.

use futures::future::try_join;
use tokio::sync::mpsc;

use crate::error::{IntakeError, SourceError};
use crate::facts::FileFacts;
use crate::hash::Digests;
use crate::intake::{Intakes, Job};
use crate::progress::Progress;
use crate::round::{Failed, ours};
use crate::taken::Taken;
use crate::view::{Place, Stamp};

/// Files that go into the store at once, as [`crate::Limits::pile`] says of bytes.
const PILE_FILES: usize = 4096;
/// A pile is this part of what has been taken, so that what is left when the transfer ends is a small part of it, too; but
/// no fewer bytes than a sync is worth.
const PART: u64 = 8;
const LEAST: u64 = 16 << 20;
/// Files that wait while a pile goes in; a transfer that is further ahead waits, too.
const WAITING: usize = 4 * PILE_FILES;

/// A file that has come.
#[derive(Debug)]
pub(crate) struct Came {
    /// Its path in the upstream.
    pub(crate) path: Box<[u8]>,
    pub(crate) stamp: Stamp,
    pub(crate) place: Place,
}

/// What was taken, by upstream path.
pub(crate) type Early = Vec<(Box<[u8]>, FileFacts)>;

/// Runs a transfer that tells of each file that has come, and takes these files meanwhile.
pub(crate) async fn while_it_runs<F>(
    intakes: &Intakes,
    transfer: impl FnOnce(mpsc::Sender<Came>) -> F,
) -> Result<Early, Failed>
where
    F: Future<Output = Result<(), SourceError>>,
{
    let (send, receive) = mpsc::channel(WAITING);
    // The transfer has its own progress.
    let intakes = Intakes {
        progress: Progress::default(),
        ..intakes.clone()
    };
    let transfer = transfer(send);
    let (transferred, taken) = try_join(async { Ok(transfer.await) }, async {
        take(&intakes, receive).await.map_err(ours)
    })
    .await?;
    transferred?;
    Ok(taken)
}

/// Takes what comes, a pile at a time, until nothing more does.
async fn take(intakes: &Intakes, mut came: mpsc::Receiver<Came>) -> Result<Early, IntakeError> {
    let mut taken = Vec::new();
    let mut pile: Vec<Job> = Vec::new();
    let (mut bytes, mut before) = (0, 0);
    loop {
        let next = came.recv().await;
        let last = next.is_none();
        if let Some(Came { path, stamp, place }) = next {
            bytes += stamp.size();
            pile.push(Job {
                at: pile.len(),
                path,
                stamp,
                place,
                // Only what a database names comes this way.
                digests: Digests::Whole,
            });
        }
        let full = (before / PART).max(LEAST).min(intakes.pile);
        let enough = full <= bytes || PILE_FILES <= pile.len();
        if !pile.is_empty() && (last || enough) {
            let mut paths: Vec<Box<[u8]>> = pile.iter().map(|job| job.path.clone()).collect();
            (before, bytes) = (before + bytes, 0);
            for (at, outcome) in intakes.take(std::mem::take(&mut pile)).await? {
                if let (Taken::Facts(facts), Some(path)) = (outcome, paths.get_mut(at)) {
                    taken.push((std::mem::take(path), facts));
                }
            }
        }
        if last {
            return Ok(taken);
        }
    }
}
