//! How large a directory would be as a flat one, which decides whether it is a HAMT.
//!
//! - Invariant: the sum over all entries is the same, whether they stand in a list or in shards.
//! - Not here: acting on it (`crate::edit`).
//! - Read first: IPIP-499, boxo `ipld/unixfs/io/directory.go` (`SizeEstimationMode`).

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use cid::Cid;

use crate::hamt::Fanout;
use crate::limits::{MAX_DIRECTORY_LINKS, MAX_FILE_NODE_BYTES};
use crate::node::{RawLink, for_each_link, link_len};
use crate::profile::{Profile, SizeEstimate};
use crate::source::{BlockSource, Missing, ReadError, load, require};

/// The estimate of a directory without entries.
pub(crate) const fn of_empty(by: SizeEstimate) -> u64 {
    match by {
        SizeEstimate::LinksBytes => 0,
        SizeEstimate::BlockBytes => 4,
    }
}

/// What one entry adds to the estimate.
pub(crate) fn of_link(by: SizeEstimate, name_len: usize, cid_len: usize, tsize: u64) -> u64 {
    match by {
        SizeEstimate::LinksBytes => (name_len + cid_len) as u64,
        SizeEstimate::BlockBytes => link_len(cid_len, name_len, tsize) as u64,
    }
}

/// Whether the directory that this HAMT holds is large enough to be one. Its root was just written: it is a shard of `fanout`.
///
/// Reads level by level, and only until that is known: with the usual threshold about 3,500 entries. Most of
/// the cost of a small edit lies here, so links are looked at in place and sub-shards parsed when they are read.
pub(crate) fn is_over_threshold(
    profile: &Profile,
    (root, fanout): (&Cid, Fanout),
    source: &dyn BlockSource,
) -> Result<bool, ReadError> {
    let threshold = profile.parameters().threshold;
    let mut tally = Tally {
        by: threshold.estimate,
        digits: fanout.digits(),
        size: of_empty(threshold.estimate),
        links: 0,
        held: 0,
        blocks: Vec::new(),
        unread: VecDeque::new(),
    };
    tally.add(root, require(source, root)?)?;
    if tally.links == 0 {
        return Ok(false); // an empty directory is flat under any threshold
    }
    while !threshold.is_over(tally.size) {
        let Some(cid) = tally.unread.pop_front() else {
            return Ok(false);
        };
        let cid = tally.parse(&cid, root)?;
        let Some(block) = load(source, &cid)? else {
            return Err(tally.missing(&cid, source)?);
        };
        tally.add(&cid, block)?;
    }
    Ok(true)
}

struct Tally {
    by: SizeEstimate,
    digits: usize,
    size: u64,
    links: usize,
    held: usize,
    blocks: Vec<Bytes>,
    unread: VecDeque<Place>,
}

/// Where the CID of a sub-shard stands.
struct Place {
    block: usize,
    bytes: Range<usize>,
}

impl Tally {
    /// Counts the entries of one shard and notes its sub-shards.
    fn add(&mut self, cid: &Cid, block: Bytes) -> Result<(), ReadError> {
        let number = self.blocks.len();
        let start = block.as_ptr().addr();
        for_each_link(&block, |link| {
            self.links += 1;
            if link.name.len() > self.digits {
                self.size += of_link(self.by, link.name.len() - self.digits, link.cid.len(), link.tsize);
            } else {
                let offset = link.cid.as_ptr().addr() - start;
                self.unread.push_back(Place {
                    block: number,
                    bytes: offset..offset + link.cid.len(),
                });
            }
        })
        .map_err(|flaw| flaw.at(cid))?;
        self.held += block.len();
        if self.links > MAX_DIRECTORY_LINKS || self.held > MAX_FILE_NODE_BYTES {
            return Err(ReadError::TooLarge {
                cid: *cid,
                what: "directory of too many links or bytes",
            });
        }
        self.blocks.push(block);
        Ok(())
    }

    fn parse(&self, place: &Place, root: &Cid) -> Result<Cid, ReadError> {
        let cid = &self.blocks[place.block][place.bytes.clone()];
        RawLink {
            cid,
            name: b"",
            tsize: 0,
        }
        .parse_cid()
        .map_err(|flaw| flaw.at(root))
    }

    /// Names this and every other unread shard that is not here.
    fn missing(&self, first: &Cid, source: &dyn BlockSource) -> Result<ReadError, ReadError> {
        let mut missing = Missing::default();
        let mut full = missing.add(first);
        for place in &self.unread {
            let cid = self.parse(place, first)?;
            full = full || (load(source, &cid)?.is_none() && missing.add(&cid));
            if full {
                break;
            }
        }
        Ok(missing.check().err().unwrap_or(ReadError::Missing(vec![*first])))
    }
}
