//! OpenPGP packets out of foreign bytes: armoured or not, in a key box or bare.
//!
//! Each packet is cut out by its own length before it is read, so that one that cannot be read costs
//! itself and not what follows it.
//!
//! - Invariant: needs no more than a small multiple of the input in time and memory.
//! - Not here: what the packets mean (`super::cert`, `super::check`).

use std::io::Read as _;

use pgp::armor::{Dearmor, DearmorOptions};
use pgp::packet::{Packet, PacketHeader};
use pgp::types::{PacketLength, Tag};

/// Armoured blocks in one file.
const MAX_BLOCKS: usize = 10_000;

/// Why bytes hold no packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Armour,
    Box,
    Cut,
}

impl Broken {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Armour => "the armour is broken",
            Self::Box => "the key box is broken",
            Self::Cut => "it ends within a packet",
        }
    }
}

/// The packets of `bytes` that can be read, of the wanted kinds, at most `most`.
pub(super) fn read(bytes: &[u8], wanted: &[Tag], most: usize) -> Result<Vec<Packet>, Broken> {
    let plain;
    let mut rest = if is_armoured(bytes) {
        plain = dearmour(bytes)?;
        plain.as_slice()
    } else {
        bytes
    };
    let mut packets = Vec::new();
    while !rest.is_empty() && packets.len() < most {
        let header = PacketHeader::try_from_reader(&mut rest).map_err(|_| Broken::Cut)?;
        let PacketLength::Fixed(len) = header.packet_length() else {
            return Err(Broken::Cut); // only data packets may come in pieces
        };
        let (body, after) = rest.split_at_checked(len as usize).ok_or(Broken::Cut)?;
        rest = after;
        if wanted.contains(&header.tag()) {
            packets.extend(Packet::from_reader(header, body));
        }
    }
    Ok(packets)
}

/// Binary packets have the highest bit set; anything else is text with, it is hoped, armour in it.
fn is_armoured(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| b & 0x80 == 0)
}

/// What stands in the armour; several blocks one after the other, as keyring packages have them, are one.
fn dearmour(bytes: &[u8]) -> Result<Vec<u8>, Broken> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    let mut begins: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(BEGIN)))
        .take(MAX_BLOCKS)
        .collect();
    begins.push(bytes.len());
    let mut plain = Vec::new();
    for (begin, end) in begins.iter().zip(begins.iter().skip(1)) {
        let block = bytes.get(*begin..*end).unwrap_or_default();
        let options = DearmorOptions::new().set_limit(block.len());
        Dearmor::with_options(block, options)
            .take(block.len() as u64)
            .read_to_end(&mut plain)
            .map_err(|_| Broken::Armour)?;
    }
    if plain.is_empty() {
        return Err(Broken::Armour);
    }
    Ok(plain)
}

/// Whether this is GnuPG's key box (`pubring.kbx`).
pub(super) fn is_key_box(bytes: &[u8]) -> bool {
    bytes.get(8..12) == Some(b"KBXf") && bytes.get(4) == Some(&1)
}

/// The OpenPGP key blocks of a key box, in its order.
///
/// Source: GnuPG `kbx/keybox-blob.c`: a blob is its length (u32), its type (2 is OpenPGP), version, flags
/// (u16), then where its key block begins (u32) and how long that is (u32).
pub(super) fn key_blocks(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Broken> {
    const OPENPGP: u8 = 2;
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let len = number(bytes, 0).filter(|len| *len >= 6).ok_or(Broken::Box)?;
        let (blob, after) = bytes.split_at_checked(len).ok_or(Broken::Box)?;
        bytes = after;
        if blob.get(4) == Some(&OPENPGP) {
            let block = number(blob, 8).zip(number(blob, 12)).and_then(|(at, len)| {
                let end = at.checked_add(len)?;
                blob.get(at..end)
            });
            blocks.push(block.ok_or(Broken::Box)?);
        }
    }
    Ok(blocks)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*four)).ok()
}
