//! Bytes that look random and are the same for the same seed, on every machine.

use std::io::Read;

use bytes::Bytes;
use pacstore_pacman::build::Random;

/// `len` bytes of the stream `seed`; no compressor makes them smaller.
pub fn random(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    fill(seed, &mut out);
    out.into()
}

/// Fills `out` with the stream `seed` from its beginning.
pub fn fill(seed: u64, out: &mut [u8]) {
    Random::new(seed).read_exact(out).expect("the stream has no end");
}
