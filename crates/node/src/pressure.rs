//! How much this machine suffers, by the kernel's own word, and what we do less of then.
//!
//! Linux says for how much of the last ten seconds work stood still for want of disk, memory
//! or processor (`/proc/pressure`). While any of it is too much, the hashing pool has a quarter
//! of its threads; while disk or memory is, scheduled rounds wait (for [`LONGEST`] at most). A
//! busy processor alone delays nothing: the scheduler shares it well.
//!
//! - Invariant: eased at the upper threshold, restored below the lower one only after
//!   [`CALM`], so that it does not flutter.
//! - Invariant: without `/proc/pressure` nothing is ever eased.
//! - Not here: the weight of the whole process against others (`dist/pacstore.service`).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_runtime::{Pool, Tasks};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use crate::node::Node;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// How long it must have been calm before all goes on as before.
pub(crate) const CALM: Duration = Duration::from_secs(10);

/// How long a scheduled round waits at most.
const LONGEST: Duration = Duration::from_mins(5);

/// Per cent of the last ten seconds, from which on it is too much, and below which it is calm.
struct Threshold {
    file: &'static str,
    /// `full`: all work stood still. `some`: at least one did.
    line: &'static str,
    high: f64,
    low: f64,
}

const THRESHOLDS: [Threshold; 3] = [
    Threshold {
        file: "io",
        line: "full",
        high: 30.0,
        low: 10.0,
    },
    Threshold {
        file: "memory",
        line: "full",
        high: 10.0,
        low: 3.0,
    },
    Threshold {
        file: "cpu",
        line: "some",
        high: 80.0,
        low: 50.0,
    },
];

/// Per cent of the last ten seconds in which work stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Whether hashing has fewer threads because of it.
    pub eased: bool,
    /// Whether scheduled rounds wait because of it.
    pub waits: bool,
    /// All work, for disk.
    pub io: f64,
    /// All work, for memory.
    pub memory: f64,
    /// Some work, for a processor.
    pub cpu: f64,
}

/// What is known of it, and who waits for its end.
#[derive(Debug)]
pub(crate) struct Gauge {
    now: watch::Sender<Pressure>,
    /// For disk and memory, and for the processor.
    state: Mutex<[Hysteresis; 2]>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            now: watch::Sender::new(Pressure::default()),
            state: Mutex::default(),
        }
    }
}

impl Gauge {
    /// How it is now.
    pub(crate) fn get(&self) -> Pressure {
        *self.now.borrow()
    }

    /// Waits until it is calm, for [`LONGEST`] at most.
    pub(crate) async fn calm(&self) {
        let mut watch = self.now.subscribe();
        let calm = watch.wait_for(|pressure| !pressure.waits);
        // After that time the round is due all the same.
        drop(tokio::time::timeout(LONGEST, calm).await);
    }

    fn update(&self, levels: [f64; 3]) -> Pressure {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let [io, memory, cpu] = levels;
        let now = Instant::now();
        let waits = state[0].next([io, memory, 0.0], now);
        let eased = state[1].next([0.0, 0.0, cpu], now) || waits;
        let pressure = Pressure {
            eased,
            waits,
            io,
            memory,
            cpu,
        };
        self.now.send_replace(pressure);
        pressure
    }
}

/// On above the upper thresholds, off once all was below the lower ones for [`CALM`].
#[derive(Debug, Default)]
struct Hysteresis {
    eased: bool,
    calm_since: Option<Instant>,
}

impl Hysteresis {
    fn next(&mut self, levels: [f64; 3], now: Instant) -> bool {
        let pairs = || levels.iter().zip(&THRESHOLDS);
        if pairs().any(|(level, threshold)| threshold.high <= *level) {
            self.eased = true;
        }
        if !self.eased {
            return false;
        }
        if pairs().any(|(level, threshold)| threshold.low < *level) {
            self.calm_since = None;
            return true;
        }
        let since = *self.calm_since.get_or_insert(now);
        if CALM <= now.saturating_duration_since(since) {
            *self = Self::default();
        }
        self.eased
    }
}

/// `avg10` of the line that begins with `kind`; 0 where there is none.
fn avg10(text: &str, kind: &str) -> f64 {
    text.lines()
        .find_map(|line| line.strip_prefix(kind)?.trim_start().strip_prefix("avg10="))
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse::<f64>().ok())
        .filter(|number| number.is_finite())
        .unwrap_or(0.0)
}

fn read(folder: &Path) -> [f64; 3] {
    THRESHOLDS.map(|threshold| {
        let text = fs_err::read_to_string(folder.join(threshold.file)).unwrap_or_default();
        avg10(&text, threshold.line)
    })
}

/// The worker: looks, and gives the hashing pool more or less room.
pub(crate) async fn run(node: Node, folder: PathBuf) {
    let tasks: Tasks = node.inner.tasks.clone();
    let all = tasks.room(Pool::Hash);
    let stop = tasks.stop();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = false;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let folder = folder.clone();
        let Ok(levels) = tasks.blocking(Pool::Disk, move || read(&folder)).await else {
            continue;
        };
        let pressure = node.inner.pressure.update(levels);
        // Again and again: room that is taken while all threads work is taken bit by bit.
        tasks.set_room(Pool::Hash, if pressure.eased { all.div_ceil(4) } else { all });
        if pressure.eased != before {
            before = pressure.eased;
            info!(
                eased = pressure.eased,
                io = pressure.io,
                memory = pressure.memory,
                cpu = pressure.cpu,
                "pressure of this machine"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "some avg10=12.50 avg60=3.00 avg300=0.10 total=1\nfull avg10=7.25 avg60=0.00 avg300=0.00 total=2\n";
        assert!((avg10(text, "some") - 12.5).abs() < 1e-9);
        assert!((avg10(text, "full") - 7.25).abs() < 1e-9);
        for odd in [
            "",
            "full avg60=1",
            "full avg10=",
            "full avg10=inf",
            "full avg10=x total=1",
        ] {
            assert!(avg10(odd, "full").abs() < 1e-9, "{odd}");
        }
    }

    #[test]
    fn it_eases_at_once_and_goes_on_only_after_a_calm_while() {
        let mut state = Hysteresis::default();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!state.next([29.0, 0.0, 79.0], at(0)), "below all thresholds");
        assert!(state.next([31.0, 0.0, 0.0], at(2)));
        assert!(state.next([15.0, 0.0, 0.0], at(4)), "between the thresholds");
        assert!(state.next([1.0, 0.0, 0.0], at(6)));
        assert!(state.next([1.0, 0.0, 0.0], at(14)), "calm for eight seconds");
        assert!(state.next([12.0, 0.0, 0.0], at(15)), "not calm any more");
        assert!(state.next([1.0, 0.0, 0.0], at(16)));
        assert!(!state.next([1.0, 0.0, 0.0], at(26)), "calm for ten seconds");
        assert!(
            !state.next([15.0, 0.0, 0.0], at(28)),
            "between the thresholds, from below"
        );
        assert!(state.next([0.0, 11.0, 0.0], at(30)), "memory counts too");
    }
}
