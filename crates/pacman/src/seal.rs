//! What a detached OpenPGP signature tells without any key: when it was made, and of which bytes it cannot be.
//!
//! A signature carries the first two bytes of the digest that was signed. So a database and a signature that were
//! read while a mirror was being updated are told apart from a pair even where no keyring is configured.
//!
//! - Invariant: [`Fit::Other`] is certain; [`Fit::Fits`] is wrong once in 65,536 times and says nothing of who signed.
//! - Not here: checking a signature with a key.
//! - Read first: RFC 9580, section 5.2.

use pgp::composed::{Deserializable as _, DetachedSignature};
use pgp::packet::{Signature, SignatureType};
use std::io::{self, Read};

/// The longest `.sig` that is read, in bytes; gpg's have 96 to 1,200.
pub const MAX_SIGNATURE: usize = 64 << 10;

/// Signatures of one file that are looked at.
const MAX_SIGNATURES: usize = 8;

/// Whether a signature can be of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It can.
    Fits,
    /// It is of other bytes.
    Other,
    /// It is of a kind that does not tell (or that this program does not know).
    Unknown,
}

/// A detached signature that was read.
#[derive(Clone, Debug)]
pub struct Seal {
    signatures: Vec<Signature>,
}

impl Seal {
    /// Reads the content of a `.sig`. `None` if it is no binary OpenPGP signature (a web page, for example).
    pub fn read(sig: &[u8]) -> Option<Self> {
        if sig.len() > MAX_SIGNATURE {
            return None;
        }
        let all = DetachedSignature::from_bytes_many(sig).ok()?;
        let signatures: Vec<Signature> = all
            .take(MAX_SIGNATURES)
            .map_while(Result::ok)
            .map(|detached| detached.signature)
            .collect();
        (!signatures.is_empty()).then_some(Self { signatures })
    }

    /// The content of a `.sig` is only the beginning of a signature, by the length that it gives. Nothing at all is, too.
    ///
    /// Source: RFC 9580, section 4.2.
    pub fn is_cut(sig: &[u8]) -> bool {
        let number = |at: std::ops::Range<usize>| {
            let octets = sig.get(at)?.iter();
            Some(octets.fold(0, |number, octet| number << 8 | u64::from(*octet)))
        };
        let (start, len) = match sig.first() {
            None => return true,
            Some(0x88) => (2, number(1..2)),
            Some(0x89) => (3, number(1..3)),
            Some(0x8a) => (5, number(1..5)),
            Some(0xc2) => match sig.get(1) {
                Some(192..=223) => (3, number(1..3).map(|len| len - (192 << 8) + 192)),
                Some(255) => (6, number(2..6)),
                _ => (2, number(1..2)),
            },
            Some(_) => return false,
        };
        len.is_none_or(|len| (sig.len() as u64) < start + len)
    }

    /// When the newest of it says that it was made, in seconds since 1970.
    pub fn made(&self) -> Option<u64> {
        let times = self.signatures.iter().filter_map(Signature::created);
        times.map(|time| u64::from(time.as_secs())).max()
    }

    /// Whether it can be of what `open` opens, which is read to its end once for each signature; mostly there is one.
    ///
    /// # Errors
    /// If that cannot be opened.
    pub fn fit<R: Read>(&self, open: impl Fn() -> io::Result<R>) -> io::Result<Fit> {
        let mut answer = Fit::Other;
        for signature in &self.signatures {
            match fits(signature, open()?) {
                Some(true) => return Ok(Fit::Fits),
                Some(false) => {}
                None => answer = Fit::Unknown,
            }
        }
        Ok(answer)
    }
}

/// The check of rPGP's `Signature::verify` up to where it needs a key.
fn fits(signature: &Signature, data: impl Read) -> Option<bool> {
    let (config, wanted) = (signature.config()?, signature.signed_hash_value()?);
    if config.typ() != SignatureType::Binary {
        return None;
    }
    let mut hasher = config.hash_alg.new_hasher().ok()?;
    config.hash_data_to_sign(&mut hasher, data).ok()?;
    let len = config.hash_signature_data(&mut hasher).ok()?;
    hasher.update(&config.trailer(len).ok()?);
    Some(hasher.finalize().get(..2)? == wanted)
}
