//! What the tests share: the vectors' place and random generator, and small builders.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use dag::{Cid, Entry, FileBuilder, FileDag, HashKind, Parameters, Profile};
use pacstore_dag as dag;

pub(crate) type Blocks = BTreeMap<Cid, Bytes>;

/// A file or folder of the shared vectors; `None`, said on stderr, where this checkout has none.
///
/// `PACSTORE_REQUIRE=all` turns that into a failure.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors")).join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var("PACSTORE_REQUIRE").as_deref() != Ok("all"),
        "{} is not there",
        path.display()
    );
    eprintln!("skipped: {} is not there", path.display());
    None
}

pub(crate) fn json(path: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(shared(path)?).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

/// The vectors' random bytes: the ChaCha20 keystream of RFC 8439 under SHA-256(seed), nonce and counter zero.
pub(crate) struct Prng {
    state: [u32; 16],
    block: [u8; 64],
    used: usize,
}

impl Prng {
    pub(crate) fn new(seed: &str) -> Self {
        let key = HashKind::Sha2_256.digest(seed.as_bytes());
        let mut state = [0; 16];
        state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
        for (word, bytes) in state[4..12].iter_mut().zip(key.chunks(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap());
        }
        Self {
            state,
            block: [0; 64],
            used: 64,
        }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            if self.used == 64 {
                self.next_block();
            }
            let n = (64 - self.used).min(out.len() - filled);
            out[filled..filled + n].copy_from_slice(&self.block[self.used..self.used + n]);
            self.used += n;
            filled += n;
        }
    }

    fn next_block(&mut self) {
        let mut words = self.state;
        let mut quarter = |at: [usize; 4]| {
            for (to, from, with, turn) in [(0, 1, 3, 16), (2, 3, 1, 12), (0, 1, 3, 8), (2, 3, 1, 7)] {
                words[at[to]] = words[at[to]].wrapping_add(words[at[from]]);
                words[at[with]] = (words[at[with]] ^ words[at[to]]).rotate_left(turn);
            }
        };
        for _ in 0..10 {
            for i in 0..4 {
                quarter([i, i + 4, i + 8, i + 12]);
            }
            for i in 0..4 {
                quarter([i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4]);
            }
        }
        for (i, word) in words.into_iter().enumerate() {
            let bytes = word.wrapping_add(self.state[i]).to_le_bytes();
            self.block[4 * i..4 * i + 4].copy_from_slice(&bytes);
        }
        self.state[12] += 1;
        self.used = 0;
    }
}

/// The first `len` bytes of [`Prng`], made by an optimised cipher: its stream from the second block on is
/// what an authenticated encryption of zeros under a zero nonce gives.
pub(crate) fn prng(len: usize, seed: &str) -> Vec<u8> {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let mut out = vec![0; len];
    let (first, rest) = out.split_at_mut(len.min(64));
    Prng::new(seed).fill(first);
    let key = HashKind::Sha2_256.digest(seed.as_bytes());
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let _tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), rest).unwrap();
    out
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

pub(crate) fn custom(change: impl FnOnce(&mut Parameters)) -> Profile {
    let mut parameters = *Profile::KUBO_CIDV1.parameters();
    change(&mut parameters);
    Profile::custom(parameters).unwrap()
}

pub(crate) fn file(profile: &Profile, data: &[u8]) -> FileDag {
    let mut builder = FileBuilder::new(profile);
    builder.push(data);
    builder.finish()
}

pub(crate) fn entry(file: &FileDag) -> Entry {
    Entry {
        cid: file.root,
        tsize: file.tsize,
    }
}

/// The file's DAG; its nodes go to `blocks`, raw leaves too.
pub(crate) fn store_dag(profile: &Profile, data: &[u8], blocks: &mut Blocks) -> FileDag {
    let file = file(profile, data);
    for node in &file.nodes {
        blocks.insert(node.cid, node.data.clone());
    }
    for leaf in file.leaves.iter().filter(|leaf| leaf.is_raw()) {
        let range = leaf.offset as usize..(leaf.offset + leaf.len) as usize;
        blocks.insert(leaf.cid, Bytes::copy_from_slice(&data[range]));
    }
    file
}

/// As [`store_dag`], for the file's entry only.
pub(crate) fn store_file(profile: &Profile, data: &[u8], blocks: &mut Blocks) -> Entry {
    entry(&store_dag(profile, data, blocks))
}

/// A directory built from nothing.
pub(crate) fn build(
    profile: &Profile,
    entries: impl IntoIterator<Item = (Vec<u8>, Entry)>,
) -> (Entry, Blocks) {
    let mut blocks = Blocks::new();
    let changes = entries.into_iter().map(|(name, entry)| (name, Some(entry)));
    let root = dag::edit_directory(profile, None, changes, &(), &mut blocks).unwrap();
    (root, blocks)
}
