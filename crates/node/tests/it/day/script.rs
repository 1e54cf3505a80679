//! What happens in a run: which upstreams there are, what is done to them, to the disk, to the clock and to the process.
//!
//! - Invariant: the same dice, the same script.
//! - Not here: how it is done (`super`, `super::site`).

use pacstore_import::Layout;

use super::site::{self, FAULTS, Fault};

pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 3600;
const YEAR: u64 = 365 * 24 * HOUR;

pub(super) static SITES: [site::Plan; 5] = [
    site::Plan {
        name: "arch.test",
        repos: &[
            ("core/os/x86_64", "core", "core"),
            ("extra/os/x86_64", "extra", "extra"),
        ],
        rsync: true,
        spare: false,
        layout: Layout::Archlinux,
        pool: true,
        stamp: "lastupdate",
        exclude: &[],
    },
    site::Plan {
        name: "endeavouros.test",
        repos: &[(
            "repo/endeavouros/x86_64",
            "repo/endeavouros/x86_64",
            "endeavouros",
        )],
        rsync: true,
        spare: true,
        layout: Layout::Plain,
        pool: false,
        stamp: "synctrace.txt",
        exclude: &[],
    },
    site::Plan {
        name: "manjaro.test",
        repos: &[
            ("stable/core/x86_64", "stable/core/x86_64", "core"),
            ("stable/extra/x86_64", "stable/extra/x86_64", "extra"),
        ],
        rsync: true,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "state",
        exclude: &["/testing"],
    },
    site::Plan {
        name: "alhp.test",
        repos: &[
            (
                "core-x86-64-v3/os/x86_64",
                "core-x86-64-v3/os/x86_64",
                "core-x86-64-v3",
            ),
            (
                "extra-x86-64-v3/os/x86_64",
                "extra-x86-64-v3/os/x86_64",
                "extra-x86-64-v3",
            ),
        ],
        rsync: false,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "lastupdate",
        exclude: &["/packages.html"],
    },
    site::Plan {
        name: "chaotic.test",
        repos: &[("x86_64", "x86_64", "chaotic-aur")],
        rsync: false,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "lastupdate",
        exclude: &["/index.html", "/pkgs.txt"],
    },
];

/// splitmix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A fault of one site and the seconds from which and to which it lasts.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) site: usize,
    pub(super) fault: Fault,
    pub(super) repository: usize,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What happens when, in seconds since the begin.
pub(super) struct Script {
    pub(super) ends: u64,
    pub(super) events: Vec<Event>,
    /// When the disk is full.
    pub(super) full: (u64, u64),
    /// When the clock is wrong, and by how much.
    pub(super) jumps: Vec<(u64, u64, i64)>,
    /// When the process is killed.
    pub(super) kills: Vec<u64>,
}

impl Script {
    /// A day; for each site every fault once, if the day is long enough. The last hours nothing goes wrong any more.
    pub(super) fn day(dice: &mut Dice) -> Self {
        let mut script = Self {
            ends: 24 * HOUR,
            events: Vec::new(),
            full: (13 * HOUR, 13 * HOUR + 45 * MINUTE),
            jumps: vec![
                (16 * HOUR, 16 * HOUR + 30 * MINUTE, YEAR.cast_signed()),
                (19 * HOUR, 19 * HOUR + 40 * MINUTE, -YEAR.cast_signed()),
            ],
            kills: vec![2 * HOUR, 9 * HOUR, 14 * HOUR + 30 * MINUTE, 20 * HOUR],
        };
        // The first site is torn for hours, and dead in the middle of that.
        script.events = vec![
            Event::new(0, Fault::Lost, 0, 4 * HOUR, 4 * HOUR),
            Event::new(0, Fault::Dead, 0, 6 * HOUR + 40 * MINUTE, 30 * MINUTE),
        ];
        let (full, calm) = (script.full, 21 * HOUR);
        for site in 0..SITES.len() {
            let first = dice.roll(FAULTS.len() as u64) as usize;
            let mut at = if site == 0 { 8 * HOUR + 1800 } else { HOUR } + dice.roll(HOUR);
            for number in 0..FAULTS.len() {
                let fault = FAULTS[(first + number) % FAULTS.len()];
                let lasts = MINUTE * [12, 25, 45, 70, 150][dice.roll(5) as usize];
                // The disk is full then: nothing else, or more would be told at once than is told in an hour.
                if at < full.1 + HOUR && full.0 - HOUR / 2 < at + lasts {
                    at = full.1 + HOUR + dice.roll(HOUR / 2);
                }
                if calm < at + lasts {
                    break;
                }
                let repository = dice.roll(2) as usize;
                script.events.push(Event::new(site, fault, repository, at, lasts));
                at += lasts + HOUR / 2 + dice.roll(HOUR);
            }
        }
        script
    }

    /// Some hours with each fault once.
    pub(super) fn hours() -> Self {
        let at = |site, fault, from, lasts| Event::new(site, fault, 1, from * MINUTE, lasts * MINUTE);
        Self {
            ends: 3 * HOUR,
            events: vec![
                at(0, Fault::Lost, 12, 25),
                at(1, Fault::Hung, 13, 40),
                at(2, Fault::Unpaired, 14, 30),
                at(3, Fault::Dead, 15, 22),
                at(4, Fault::Strange, 16, 12),
                at(2, Fault::Empty, 62, 25),
                at(3, Fault::Newer, 63, 20),
                at(4, Fault::Wiped, 64, 20),
                at(0, Fault::Hung, 66, 30),
            ],
            full: (55 * MINUTE, 60 * MINUTE),
            jumps: vec![(75 * MINUTE, 85 * MINUTE, YEAR.cast_signed())],
            kills: vec![30 * MINUTE, 95 * MINUTE],
        }
    }

    /// All but one hang for ever, over HTTP and rsync.
    pub(super) fn hung() -> Self {
        let hangs = |site| Event::new(site, Fault::Hung, 0, 15 * MINUTE, HOUR * 24);
        Self {
            ends: 2 * HOUR,
            events: vec![hangs(0), hangs(2), hangs(3), hangs(4)],
            full: (0, 0),
            jumps: Vec::new(),
            kills: Vec::new(),
        }
    }
}

impl Event {
    pub(super) fn new(site: usize, fault: Fault, repository: usize, from: u64, lasts: u64) -> Self {
        Self {
            site,
            fault,
            repository,
            from,
            to: from + lasts,
        }
    }
}
