//! Real nodes on loopback addresses, over real stores, real mirrors and real repositories.
//!
//! Nothing here leaves the machine. Each wait has a deadline and is for an event, never for time.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod caches;
mod cap;
mod clocks;
mod day;
mod fetching;
mod follow;
mod foreign;
mod full;
mod hand_over;
mod heads;
mod held;
mod liars;
mod lookup;
mod machine;
mod moment;
mod nodes;
mod private;
mod publish;
mod ranking;
mod receipts;
mod recorder;
mod replicas;
mod secrets;
mod service;
mod serving;
mod share;
mod signed;
mod solo;
mod solo_asking;
mod solo_elsewhere;
mod solo_packages;
mod solo_private;
mod strays;
mod work;
