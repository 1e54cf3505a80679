//! Builds HAMT shards and changes some entries of them, reading only the shards that change.
//!
//! - Invariant: below the root a shard exists exactly where two or more names share a path; so what a removal
//!   leaves alone moves up, and the shards are those of a build from nothing.
//! - Not here: whether a directory is a HAMT at all (`crate::edit`).
//! - Read first: `hamt.rs`.

use std::borrow::Cow;

use cid::Cid;

use crate::edit::{EditError, Output, fanout};
use crate::flat::finish;
use crate::hamt::{self, Fanout, Shard, ShardLink, bitfield};
use crate::node::{CidRef, link_len, write_data, write_link};
use crate::profile::Profile;
use crate::short::{ShortCid, ShortEntry};
use crate::source::{BlockSource, Entry, ReadError, require};
use crate::unixfs;

/// A change to one name.
pub(crate) struct Change<'c> {
    pub(crate) hash: u64,
    name: &'c [u8],
    entry: Option<&'c ShortEntry>,
}

impl<'c> Change<'c> {
    pub(crate) fn new(name: &'c [u8], entry: Option<&'c ShortEntry>) -> Self {
        Self {
            hash: hamt::hash(name),
            name,
            entry,
        }
    }
}

/// An entry with the hash that places it.
#[derive(Clone)]
pub(crate) struct Value<'c> {
    pub(crate) hash: u64,
    name: Cow<'c, [u8]>,
    entry: ShortEntry,
}

impl<'c> Value<'c> {
    pub(crate) fn new(name: Cow<'c, [u8]>, entry: ShortEntry) -> Self {
        Self {
            hash: hamt::hash(&name),
            name,
            entry,
        }
    }
}

/// What a subtree has become.
enum Outcome<'c> {
    Empty,
    /// One entry, which stands in the parent.
    One(Value<'c>),
    Shard(Entry),
}

/// What goes into one slot of a new shard.
enum Slot<'a, 'c> {
    Kept(ShardLink<'a>),
    Value(Value<'c>),
    Shard(Entry),
}

pub(crate) struct ShardEditor<'e, 's> {
    profile: &'e Profile,
    fanout: Fanout,
    source: &'e dyn BlockSource,
    out: &'e mut Output<'s>,
}

impl<'e, 's> ShardEditor<'e, 's> {
    pub(crate) fn new(profile: &'e Profile, source: &'e dyn BlockSource, out: &'e mut Output<'s>) -> Self {
        Self {
            profile,
            fanout: fanout(profile),
            source,
            out,
        }
    }

    /// Builds a whole HAMT over values sorted by hash.
    pub(crate) fn build_root(&mut self, values: &[Value<'_>]) -> Result<Entry, EditError> {
        let slots = self.build_slots(values, 0)?;
        self.encode(None, &slots)
    }

    /// Applies changes, sorted by hash, to a HAMT.
    pub(crate) fn edit_root(
        &mut self,
        cid: &Cid,
        shard: &Shard<'_>,
        changes: &[Change<'_>],
    ) -> Result<Entry, EditError> {
        let slots = self.edit_slots(cid, shard, 0, changes)?;
        self.encode(Some(cid), &slots)
    }

    fn build<'c>(&mut self, values: &[Value<'c>], depth: u32) -> Result<Outcome<'c>, EditError> {
        match values {
            [] => Ok(Outcome::Empty),
            [one] => Ok(Outcome::One(one.clone())),
            _ => {
                let slots = self.build_slots(values, depth)?;
                Ok(Outcome::Shard(self.encode(None, &slots)?))
            }
        }
    }

    fn build_slots<'c>(
        &mut self,
        values: &[Value<'c>],
        depth: u32,
    ) -> Result<Vec<(usize, Slot<'static, 'c>)>, EditError> {
        let fanout = self.fanout;
        let mut slots = Vec::new();
        for group in values.chunk_by(|a, b| fanout.slot(a.hash, depth) == fanout.slot(b.hash, depth)) {
            let slot = slot_at(fanout, group[0].hash, depth, &group[0].name)?;
            match self.build(group, depth + 1)? {
                Outcome::Empty => {}
                Outcome::One(value) => slots.push((slot, Slot::Value(value))),
                Outcome::Shard(entry) => slots.push((slot, Slot::Shard(entry))),
            }
        }
        Ok(slots)
    }

    fn edit_slots<'a, 'c>(
        &mut self,
        cid: &Cid,
        shard: &Shard<'a>,
        depth: u32,
        changes: &[Change<'c>],
    ) -> Result<Vec<(usize, Slot<'a, 'c>)>, EditError> {
        let fanout = self.fanout;
        let mut slots = Vec::with_capacity(shard.links.len() + changes.len());
        let mut kept = shard.links.iter().copied().peekable();
        for group in changes.chunk_by(|a, b| fanout.slot(a.hash, depth) == fanout.slot(b.hash, depth)) {
            let slot = slot_at(fanout, group[0].hash, depth, group[0].name)?;
            while let Some(link) = kept.next_if(|link| link.slot < slot) {
                slots.push((link.slot, Slot::Kept(link)));
            }
            let outcome = match kept.next_if(|link| link.slot == slot) {
                Some(link) if link.name.is_empty() => self.edit_below(cid, &link, depth + 1, group)?,
                old => self.edit_value(cid, old, depth + 1, group)?,
            };
            match outcome {
                Outcome::Empty => {}
                Outcome::One(value) => slots.push((slot, Slot::Value(value))),
                Outcome::Shard(entry) => slots.push((slot, Slot::Shard(entry))),
            }
        }
        slots.extend(kept.map(|link| (link.slot, Slot::Kept(link))));
        Ok(slots)
    }

    /// Changes in a slot that holds one entry or none.
    fn edit_value<'c>(
        &mut self,
        cid: &Cid,
        old: Option<ShardLink<'_>>,
        depth: u32,
        changes: &[Change<'c>],
    ) -> Result<Outcome<'c>, EditError> {
        let mut values: Vec<Value<'c>> = Vec::with_capacity(changes.len() + 1);
        if let Some(old) = old.filter(|old| changes.iter().all(|change| change.name != old.name)) {
            values.push(owned_value(cid, &old)?);
        }
        let set = changes.iter().filter_map(|change| {
            let value = |entry: &ShortEntry| Value {
                hash: change.hash,
                name: Cow::Borrowed(change.name),
                entry: entry.clone(),
            };
            change.entry.map(value)
        });
        values.extend(set);
        values.sort_unstable_by_key(|value| value.hash);
        self.build(&values, depth)
    }

    /// Changes in a slot that holds a sub-shard.
    fn edit_below<'c>(
        &mut self,
        parent: &Cid,
        link: &ShardLink<'_>,
        depth: u32,
        changes: &[Change<'c>],
    ) -> Result<Outcome<'c>, EditError> {
        let cid = link.link.parse_cid().map_err(|flaw| flaw.at(parent))?;
        if depth >= self.fanout.levels() {
            return Err(ReadError::TooDeep(cid).into());
        }
        let block = require(self.source, &cid)?;
        let shard = Shard::decode_below(&block, self.fanout).map_err(|flaw| flaw.at(&cid))?;
        let slots = self.edit_slots(&cid, &shard, depth, changes)?;
        if let [(_, only)] = slots.as_slice()
            && let Some(value) = only.to_value(&cid)?
        {
            return Ok(Outcome::One(value));
        }
        if slots.is_empty() {
            return Ok(Outcome::Empty);
        }
        Ok(Outcome::Shard(self.encode(Some(&cid), &slots)?))
    }

    /// Writes one shard.
    fn encode(&mut self, old: Option<&Cid>, slots: &[(usize, Slot<'_, '_>)]) -> Result<Entry, EditError> {
        let digits = self.fanout.digits();
        let links = slots.iter().map(|(_, slot)| {
            let (cid, name, tsize) = slot.parts();
            link_len(cid.len(), digits + name.len(), tsize)
        });
        let data_len = self.fanout.slots() / 8 + 16;
        let mut node = Vec::with_capacity(links.sum::<usize>() + data_len);
        let mut below = 0u64;
        for (number, slot) in slots {
            let (cid, name, tsize) = slot.parts();
            let prefix = hamt::prefix(*number);
            write_link(&mut node, cid, &prefix[3 - digits..], name, tsize);
            below = below.saturating_add(tsize);
        }
        let bits = bitfield(slots.iter().map(|(number, _)| *number));
        write_data(&mut node, &unixfs::encode_shard(&bits, self.fanout.slots()));
        let (entry, block) = finish(self.profile, node, below);
        self.out.put_unless(old, block)?;
        Ok(entry)
    }
}

impl<'c> Slot<'_, 'c> {
    /// The entry in it, `None` for a sub-shard.
    fn to_value(&self, shard: &Cid) -> Result<Option<Value<'c>>, ReadError> {
        match self {
            Self::Value(value) => Ok(Some(value.clone())),
            Self::Kept(link) if !link.name.is_empty() => owned_value(shard, link).map(Some),
            Self::Kept(_) | Self::Shard(_) => Ok(None),
        }
    }

    fn parts(&self) -> (CidRef<'_>, &[u8], u64) {
        match self {
            Self::Kept(link) => (CidRef::Bytes(link.link.cid), link.name, link.link.tsize),
            Self::Value(value) => (
                CidRef::Bytes(value.entry.cid.as_bytes()),
                &value.name,
                value.entry.tsize,
            ),
            Self::Shard(entry) => (CidRef::Cid(&entry.cid), b"", entry.tsize),
        }
    }
}

fn slot_at(fanout: Fanout, hash: u64, depth: u32, name: &[u8]) -> Result<usize, EditError> {
    fanout
        .slot(hash, depth)
        .ok_or_else(|| EditError::HashCollision { name: name.to_vec() })
}

fn owned_value(shard: &Cid, link: &ShardLink<'_>) -> Result<Value<'static>, ReadError> {
    let cid = link.link.parse_cid().map_err(|flaw| flaw.at(shard))?;
    Ok(Value::new(
        Cow::Owned(link.name.to_vec()),
        ShortEntry {
            cid: ShortCid::from(&cid),
            tsize: link.link.tsize,
        },
    ))
}
