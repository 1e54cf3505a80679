//! CIDs and entries without the room that a [`Cid`] keeps for longer digests: a folder may have 100,000 of them.
//!
//! - Invariant: a [`ShortCid`] holds the bytes of a CID that was checked, so it can always be made one again.
//! - Not here: links as they stand in a node (`crate::node`).

use std::fmt;

use cid::Cid;

use crate::source::Entry;

/// The longest that is kept in place: CID version 1 over 32 bytes, of which blake2b-256 has the longest code.
const ROOM: usize = 38;

/// A CID in 40 bytes; one that is longer than any profile makes is kept apart.
#[derive(Clone, PartialEq, Eq)]
pub struct ShortCid(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Here { len: u8, bytes: [u8; ROOM] },
    Apart(Box<[u8]>),
}

impl ShortCid {
    /// The CID's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Kept::Here { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Kept::Apart(bytes) => bytes,
        }
    }

    /// The CID.
    pub fn to_cid(&self) -> Cid {
        Cid::try_from(self.as_bytes()).expect("it was made of a CID only")
    }
}

impl From<&Cid> for ShortCid {
    fn from(cid: &Cid) -> Self {
        let mut bytes = [0; ROOM];
        match cid.write_bytes(bytes.as_mut_slice()) {
            Ok(len) => Self(Kept::Here {
                len: u8::try_from(len).unwrap_or_default(),
                bytes,
            }),
            // There is no room for it.
            Err(_) => Self(Kept::Apart(cid.to_bytes().into())),
        }
    }
}

impl fmt::Debug for ShortCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_cid())
    }
}

/// An [`Entry`] in 48 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShortEntry {
    pub(crate) cid: ShortCid,
    pub(crate) tsize: u64,
}

impl From<Entry> for ShortEntry {
    fn from(entry: Entry) -> Self {
        Self {
            cid: ShortCid::from(&entry.cid),
            tsize: entry.tsize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{DAG_PB, HashKind, IDENTITY, RAW, cid_of};

    #[test]
    fn every_cid_comes_back_and_those_of_profiles_take_forty_bytes() {
        assert_eq!((size_of::<ShortCid>(), size_of::<ShortEntry>()), (40, 48));
        let own = [HashKind::Sha2_256, HashKind::Blake2b256].map(|kind| cid_of(DAG_PB, kind, b"x"));
        let old = Cid::new_v0(*own[0].hash()).unwrap();
        let inline = cid::multihash::Multihash::wrap(IDENTITY, &[7; 60]).unwrap();
        for (cid, here) in [
            (own[0], true),
            (own[1], true),
            (old, true),
            (Cid::new_v1(RAW, inline), false),
        ] {
            let short = ShortCid::from(&cid);
            assert_eq!(short.to_cid(), cid);
            assert_eq!(short.as_bytes(), cid.to_bytes());
            assert_eq!(matches!(short.0, Kept::Here { .. }), here, "{cid}");
        }
    }
}
