//! HAMT shards: hash, slots, prefixes, and reading one shard.
//!
//! The murmur3 hash of a name, eight bits a level from the front, says in which slot of each shard its entry
//! stands. A value stands at the first level where its slot is its own; only collisions make sub-shards.
//!
//! - Invariant: in a parsed shard slots ascend, each at most once, and the bitfield says the same.
//! - Not here: walking (`crate::list`, `crate::resolve`) and changing (`crate::shard_edit`).
//! - Read first: <https://specs.ipfs.tech/unixfs/> "HAMTDirectory", boxo `ipld/unixfs/hamt/hamt.go`.

use crate::node::{RawLink, RawNode};
use crate::pb::Flaw;
use crate::unixfs::{DataType, UnixFs};

/// The hash that places a name: the first half of murmur3-x64-128.
pub(crate) fn hash(name: &[u8]) -> u64 {
    murmur3::murmur3_x64_128(&mut &*name, 0).expect("reading memory does not fail") as u64
}

/// How many slots a shard has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fanout {
    bits: u32,
}

impl Fanout {
    /// From a number of slots: a power of two from 8 to 1024.
    pub(crate) fn new(slots: u64) -> Option<Self> {
        (slots.is_power_of_two() && (8..=1024).contains(&slots)).then(|| Self {
            bits: slots.trailing_zeros(),
        })
    }

    pub(crate) fn slots(self) -> usize {
        1 << self.bits
    }

    /// The slot of a hash at a depth; `None` when the hash is used up.
    pub(crate) fn slot(self, hash: u64, depth: u32) -> Option<usize> {
        (depth < self.levels()).then(|| (hash << (depth * self.bits) >> (64 - self.bits)) as usize)
    }

    /// How many levels of shards a hash can tell apart.
    pub(crate) fn levels(self) -> u32 {
        64 / self.bits
    }

    /// The path of a child: the slots from the root, as the front bits of a hash.
    pub(crate) fn child_path(self, path: u64, depth: u32, slot: usize) -> u64 {
        path | (slot as u64) << (64 - (depth + 1) * self.bits)
    }

    /// Whether a hash begins with the path of a slot at this depth.
    pub(crate) fn is_on_path(self, hash: u64, depth: u32, path: u64) -> bool {
        (hash ^ path) >> (64 - (depth + 1) * self.bits) == 0
    }

    /// How many hexadecimal digits a prefix has.
    pub(crate) fn digits(self) -> usize {
        (self.bits as usize).div_ceil(4)
    }

    fn parse_prefix(self, name: &[u8]) -> Option<(usize, &[u8])> {
        let (prefix, rest) = name.split_at_checked(self.digits())?;
        let slot = prefix.iter().try_fold(0, |slot, &digit| {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return None,
            };
            Some(slot << 4 | usize::from(value))
        })?;
        (slot < self.slots()).then_some((slot, rest))
    }
}

/// The prefix of a slot as three digits, of which the last [`Fanout::digits`] are written.
pub(crate) fn prefix(slot: usize) -> [u8; 3] {
    let digit = |n: usize| b"0123456789ABCDEF"[n & 15];
    [digit(slot >> 8), digit(slot >> 4), digit(slot)]
}

/// One used slot of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardLink<'a> {
    pub(crate) slot: usize,
    /// Name of the entry; empty for a sub-shard.
    pub(crate) name: &'a [u8],
    pub(crate) link: RawLink<'a>,
}

/// A shard with its parts still in the block.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) links: Vec<ShardLink<'a>>,
    pub(crate) fanout: Fanout,
}

impl<'a> Shard<'a> {
    /// Reads a block that must be a shard.
    pub(crate) fn decode(block: &'a [u8]) -> Result<Self, Flaw> {
        let node = RawNode::decode(block)?;
        let unixfs = node.unixfs()?;
        if unixfs.kind != DataType::Shard {
            return Err(Flaw("sub-shard is no HAMT shard"));
        }
        Self::parse(&node, &unixfs)
    }

    /// As [`Self::decode`], for a shard below one of this fanout: it has the same, and holds something.
    pub(crate) fn decode_below(block: &'a [u8], fanout: Fanout) -> Result<Self, Flaw> {
        let shard = Self::decode(block)?;
        if shard.fanout != fanout {
            return Err(Flaw("sub-shard of another fanout"));
        }
        if shard.links.is_empty() {
            return Err(Flaw("empty sub-shard"));
        }
        Ok(shard)
    }

    /// Checks a node whose UnixFS type is known to be shard.
    pub(crate) fn parse(node: &RawNode<'a>, unixfs: &UnixFs<'_>) -> Result<Self, Flaw> {
        let fanout =
            Fanout::new(unixfs.shard_fanout()?).ok_or(Flaw("fanout is no power of two from 8 to 1024"))?;
        let bits: usize = unixfs.data.iter().map(|byte| byte.count_ones() as usize).sum();
        if bits != node.links.len() {
            return Err(Flaw("bitfield does not match the links"));
        }
        let mut links: Vec<ShardLink<'a>> = Vec::with_capacity(node.links.len());
        for link in &node.links {
            let (slot, name) = fanout
                .parse_prefix(link.name)
                .ok_or(Flaw("link without a slot prefix"))?;
            if links.last().is_some_and(|last| last.slot >= slot) {
                return Err(Flaw("slots repeated or out of order"));
            }
            if !is_set(unixfs.data, slot) {
                return Err(Flaw("bitfield does not match the links"));
            }
            links.push(ShardLink {
                slot,
                name,
                link: *link,
            });
        }
        Ok(Self { links, fanout })
    }

    /// The used slot of this number.
    pub(crate) fn find(&self, slot: usize) -> Option<&ShardLink<'a>> {
        self.links
            .binary_search_by_key(&slot, |link| link.slot)
            .ok()
            .map(|i| &self.links[i])
    }
}

/// Whether a big-endian bitfield of any length has this bit.
fn is_set(bitfield: &[u8], bit: usize) -> bool {
    bitfield
        .len()
        .checked_sub(1 + bit / 8)
        .is_some_and(|i| bitfield[i] >> (bit % 8) & 1 == 1)
}

/// The bitfield over ascending slots: big-endian, leading zero bytes left out.
pub(crate) fn bitfield(slots: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut little = Vec::new();
    for slot in slots {
        if little.len() <= slot / 8 {
            little.resize(slot / 8 + 1, 0u8);
        }
        little[slot / 8] |= 1 << (slot % 8);
    }
    little.reverse();
    little
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_in_kubo() {
        assert_eq!(hash(b"a"), 0x8555_5565_f659_7889);
        assert_eq!(hash(b"core.db"), 0xb507_5c6c_5d0e_cd6f);
    }

    #[test]
    fn slots_are_taken_from_the_front() {
        let fanout = Fanout::new(256).unwrap();
        assert_eq!(fanout.slot(0x8555_5565_f659_7889, 0), Some(0x85));
        assert_eq!(fanout.slot(0x8555_5565_f659_7889, 7), Some(0x89));
        assert_eq!(fanout.slot(0x8555_5565_f659_7889, 8), None);
        let path = fanout.child_path(fanout.child_path(0, 0, 0x85), 1, 0x55);
        assert!(fanout.is_on_path(0x8555_5565_f659_7889, 1, path));
        assert!(!fanout.is_on_path(0x8556_5565_f659_7889, 1, path));
        assert_eq!(Fanout::new(1024).unwrap().levels(), 6);
        assert_eq!(Fanout::new(1024).unwrap().digits(), 3);
        assert_eq!(Fanout::new(8).unwrap().digits(), 1);
        assert_eq!(Fanout::new(12), None);
    }
}
