//! Damages inputs, the same way in each run, and gives them to the targets.
//!
//! - Not here: choosing inputs by what code they reach; cargo-fuzz does that (`fuzz/README.md`).

use pacstore_fuzz_targets::{TARGETS, Target};

/// A small generator; that it is the same everywhere matters, not how good it is.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Bytes that lengths, varints and texts stumble over.
const ODD: [&[u8]; 10] = [
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    b"\n\n",
    b"../",
    b"%2f",
    b"-18446744073709551616",
];

/// One input with one to four damages.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        match random.below(7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => drop(input.splice(at..at, ODD[random.below(ODD.len())].iter().copied())),
            3 => drop(input.splice(at..end, ODD[random.below(ODD.len())].iter().copied())),
            4 => {
                let again = input[at..end].to_vec();
                drop(input.splice(at..at, again));
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                drop(input.splice(at.., other[from..].iter().copied()));
            }
            _ => {
                let bit = 1 << random.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= bit;
                }
            }
        }
    }
    input
}

/// Targets that check signatures, which takes a millisecond each; they get a tenth of the inputs.
const SLOW: [&str; 2] = ["signature", "keyring"];

/// How many inputs a target gets; `PACSTORE_FUZZ` makes it more.
fn times(target: &Target) -> usize {
    let asked = std::env::var("PACSTORE_FUZZ").ok();
    let times = asked.and_then(|n| n.parse().ok()).unwrap_or(3_000);
    if SLOW.contains(&target.name) {
        times / 10
    } else {
        times
    }
}

fn run(target: &Target, first: u64) {
    let seeds = (target.seeds)();
    let mut random = Random(first);
    for n in 0..times(target) {
        let input = damaged(&seeds, &mut random);
        let result = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(
            result.is_ok(),
            "{}, input {n}: put these bytes into fuzz/corpus/{}: {:02x?}",
            target.name,
            target.name,
            input
        );
    }
}

#[test]
fn damaged_inputs_break_no_promise_of_any_parser() {
    for target in TARGETS {
        run(target, 0x9e37_79b9_7f4a_7c15);
    }
}

#[test]
fn a_parser_that_panics_is_caught_with_its_input() {
    let bad = Target {
        name: "bad",
        run: |bytes| assert!(bytes.len() < 3, "too long for this parser"),
        seeds: || vec![vec![1, 2, 3]],
    };
    let caught = std::panic::catch_unwind(|| run(&bad, 1)).expect_err("it panics at once");
    let words = caught.downcast_ref::<String>().expect("words");
    assert!(words.starts_with("bad, input "), "{words}");
}
