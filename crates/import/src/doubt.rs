//! Signatures: what of a checked pass was signed by a key of the keyring, and what becomes of the rest.
//!
//! A repository whose files carry a signature that does not verify is held: the tree keeps its last state. That ends
//! when everything verifies, when a person accepts it, or after `hold`; then it is published, and the round says so.
//! Without a keyring only this is looked at: whether the signature beside a database can be of its bytes. While a mirror
//! is being updated it is not, for a moment, and pacman fails on such a pair.
//!
//! - Invariant: a signature that verified over the same bytes is never verified again.
//! - Invariant: what was found without a keyring never counts as verified by one.
//! - Invariant: what did not verify is looked at again with every other keyring, also what was published all the same.
//! - Invariant: a repository is held at most for `hold` without a break, also over restarts and clocks that are set (`crate::hold`).
//! - Not here: what a signature is worth (`pacstore_pacman::openpgp`), files without one (they are counted, no more).
//! - Read first: `docs/semantics.md`, "Signatures".

use std::collections::BTreeSet;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use pacstore_pacman::openpgp::{MAX_SIGNATURE, Verdict};
use pacstore_pacman::{DbFileName, Fit, Seal};
use pacstore_runtime::Pool;
use pacstore_store::Store;
use ring::digest::{SHA256, digest};

use crate::error::IntakeError;
use crate::facts::FileFacts;
use crate::hold::{Holds, Timer};
use crate::intake::Intakes;
use crate::keyring::ReadKeyring;
use crate::names;
use crate::repos;
use crate::spec::to_array;
use crate::state::Alarm;
use crate::taken::Taker;
use crate::trouble::Trouble;
use crate::work::{AllOpened, Checked, Work, facts};

/// Files verified in one go on one thread, at most.
const BATCH_FILES: usize = 64;
/// And their bytes.
const BATCH_BYTES: u64 = 64 << 20;
/// Batches at once.
const BATCHES: usize = 4;
/// Alarms of one kind that a round keeps.
const MAX_ALARMS: usize = 20;

/// A file's SHA-256, then its signature's.
pub(crate) type Pair = [u8; 64];

/// What is known of a file under its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// It verified.
    Good,
    /// It did not, with the keyring of this digest, and was published all the same.
    Accepted([u8; 32], String),
    /// It did not, with the keyring of this digest.
    Bad([u8; 32], String),
}

impl Known {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Good => vec![0],
            Self::Bad(keyring, why) => [&[2], &keyring[..], why.as_bytes()].concat(),
            Self::Accepted(keyring, why) => [&[3], &keyring[..], why.as_bytes()].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let with = |rest: &[u8]| {
            let (keyring, why) = rest.split_first_chunk::<32>()?;
            Some((*keyring, text(why)))
        };
        match bytes.split_first()? {
            (0, _) => Some(Self::Good),
            // As it was written first, without the keyring: it is looked at again.
            (1, why) => Some(Self::Accepted([0; 32], text(why))),
            (2, rest) => with(rest).map(|(keyring, why)| Self::Bad(keyring, why)),
            (3, rest) => with(rest).map(|(keyring, why)| Self::Accepted(keyring, why)),
            _ => None,
        }
    }
}

/// Where a signature's bytes are.
#[derive(Debug, Clone)]
enum Signature {
    File(FileFacts),
    Bytes(Box<[u8]>),
}

/// A file with a signature.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    repo: usize,
    path: String,
    file: FileFacts,
    signature: Signature,
    pair: Pair,
}

/// What is to be verified of a pass.
#[derive(Debug, Default)]
pub(crate) struct ToVerify {
    signed: Vec<Signed>,
    /// Packages without any signature, by number of the repository.
    bare: Vec<usize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// For each repository, what did not verify, if that holds it.
    pub(crate) held: Vec<Vec<Trouble>>,
    /// For each repository, until when it is held at most.
    pub(crate) until: Vec<u64>,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) warnings: Vec<String>,
}

impl Work {
    /// The signed files of all repositories that are whole and not kept; without a keyring the databases alone.
    pub(crate) fn signed(&self, opened: &AllOpened, checked: &Checked, taken: &Taker) -> ToVerify {
        let keyring = self.plan.spec.keyring.is_some();
        let view = &*self.view;
        let mut out = ToVerify {
            signed: Vec::new(),
            bare: vec![0; self.look.repos.len()],
        };
        for (number, repo) in self.look.repos.iter().enumerate() {
            let whole = checked.troubles.get(number).is_some_and(Vec::is_empty);
            let Some(databases) = opened
                .databases
                .get(number)
                .and_then(Option::as_ref)
                .filter(|_| whole)
            else {
                continue;
            };
            let at = |name: &str| {
                let place = view.position(&repo.path(name))?;
                facts(view, taken, place).ok()
            };
            let mut add = |name: &str, file: &FileFacts, signature: Signature| {
                if let Some(pair) = pair(file, &signature) {
                    out.signed.push(Signed {
                        repo: number,
                        path: names::show(&repo.path(name)),
                        file: file.clone(),
                        signature,
                        pair,
                    });
                }
            };
            for (name, _) in repos::own_files(view, repo) {
                let signature = DbFileName::parse(&name).is_some_and(|parsed| parsed.signature);
                if let (false, Some(file), Some(sig)) = (signature, at(&name), at(&format!("{name}.sig"))) {
                    add(&name, &file, Signature::File(sig));
                }
            }
            let mut bare = 0;
            for desc in databases.main.entries.iter().filter(|_| keyring) {
                let Some(file) = at(&desc.filename) else { continue };
                let beside = at(&format!("{}.sig", desc.filename));
                if beside.is_none() && desc.pgpsig.is_none() {
                    bare += 1;
                }
                let same = |within: &[u8]| beside.as_ref().and_then(|b| b.sha256) == Some(sha256(within));
                if let Some(within) = desc.pgpsig.as_ref().filter(|within| !same(within)) {
                    add(&desc.filename, &file, Signature::Bytes(within.clone()));
                }
                if let Some(beside) = beside {
                    add(&desc.filename, &file, Signature::File(beside));
                }
            }
            if let Some(slot) = out.bare.get_mut(number) {
                *slot = bare;
            }
        }
        out
    }

    /// Verifies what is not known, and says which repositories are held.
    ///
    /// `accept`: whether a person wants them published as they are.
    pub(crate) async fn doubts(
        &self,
        (to_verify, keyring): (ToVerify, Option<Arc<ReadKeyring>>),
        intakes: &Intakes,
        (hold, accept, timer): (Duration, bool, &Timer),
    ) -> Result<Doubts, IntakeError> {
        let now = intakes
            .now
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let ToVerify { signed, bare } = to_verify;
        let digest = keyring.as_ref().map(|keyring| keyring.digest);
        let manifest = Arc::clone(&intakes.manifest);
        let look_up = move || -> Result<_, IntakeError> {
            let known = manifest.signatures(signed.iter().map(|s| &s.pair))?;
            let (old, new): (Vec<_>, Vec<_>) =
                signed.into_iter().zip(known).partition(|(_, known)| match known {
                    Some(Known::Bad(with, _)) => Some(*with) == digest,
                    Some(Known::Accepted(with, _)) => digest.is_none_or(|digest| *with == digest),
                    known => known.is_some(),
                });
            let holds = manifest.holds()?;
            Ok((old, new, holds))
        };
        let (old, new, holds) = intakes.tasks.blocking(Pool::Disk, look_up).await??;
        let before = |(signed, known): &(Signed, Option<Known>)| {
            matches!(known, Some(Known::Accepted(..))).then_some(signed.pair)
        };
        let accepted_before: BTreeSet<Pair> = new.iter().filter_map(before).collect();
        let fresh = new.into_iter().map(|(signed, _)| signed).collect();
        let mut fresh = verify_all(fresh, keyring.as_ref(), intakes, now).await?;
        for (signed, known) in &mut fresh {
            if let (Known::Bad(with, why), true) = (&*known, accepted_before.contains(&signed.pair)) {
                *known = Known::Accepted(*with, why.clone());
            }
        }
        let verified = fresh.iter().filter(|_| keyring.is_some());
        let notes: Vec<(Pair, Known)> = verified.map(|(s, k)| (s.pair, k.clone())).collect();
        let mut found = old;
        found.extend(fresh.into_iter().map(|(signed, known)| (signed, Some(known))));
        let passed = timer.passed();
        let mut over = holds.clone();
        over.pass(&passed, hold, now);
        let (doubts, accepted, next) = self.weigh(found, &bare, over, (hold, accept, now));
        let manifest = Arc::clone(&intakes.manifest);
        let most = self.view.files.len() as u64;
        let note = move || -> Result<(), IntakeError> {
            let next = (next != holds).then_some(next);
            Ok(manifest.note_signatures(&notes, &accepted, next.as_ref(), most)?)
        };
        intakes.tasks.blocking(Pool::Disk, note).await??;
        timer.written(&passed);
        Ok(doubts)
    }

    /// Which repositories are held, what is accepted now, and what is held after that; `next` is what was before.
    fn weigh(
        &self,
        found: Vec<(Signed, Option<Known>)>,
        bare: &[usize],
        mut next: Holds,
        (hold, accept, now): (Duration, bool, u64),
    ) -> (Doubts, Vec<(Pair, Known)>, Holds) {
        let count = self.look.repos.len();
        let mut doubts = Doubts {
            held: vec![Vec::new(); count],
            until: vec![0; count],
            ..Doubts::default()
        };
        let mut bad: Vec<Vec<(Pair, Trouble, Known)>> = (0..count).map(|_| Vec::new()).collect();
        let mut looked_at = vec![false; count];
        for (signed, known) in found {
            if let Some(slot) = looked_at.get_mut(signed.repo) {
                *slot = true;
            }
            let trouble = |why: &String| Trouble::Signature {
                path: signed.path.clone(),
                why: why.clone(),
            };
            match known {
                Some(Known::Accepted(_, why)) => doubts.alarm(trouble(&why)),
                Some(Known::Bad(with, why)) => {
                    if let Some(slot) = bad.get_mut(signed.repo) {
                        slot.push((signed.pair, trouble(&why), Known::Accepted(with, why)));
                    }
                }
                Some(Known::Good) | None => {}
            }
        }
        let mut accepted = Vec::new();
        for (number, (repo, bad)) in self.look.repos.iter().zip(bad).enumerate() {
            let shown = repo.shown();
            if bad.is_empty() {
                if looked_at.get(number) == Some(&true) {
                    next.free(&shown);
                }
                continue;
            }
            let left = next.left(&shown, hold);
            if accept || left.is_zero() {
                next.free(&shown);
                for (pair, trouble, as_accepted) in bad {
                    doubts.alarm(trouble);
                    accepted.push((pair, as_accepted));
                }
                continue;
            }
            next.hold(shown, now);
            if let (Some(held), Some(slot)) = (doubts.held.get_mut(number), doubts.until.get_mut(number)) {
                *held = bad.into_iter().map(|(_, trouble, _)| trouble).collect();
                *slot = now.saturating_add(left.as_secs_f64().ceil() as u64);
            }
        }
        next.retain(|shown| self.look.repos.iter().any(|repo| repo.shown() == shown));
        for (repo, bare) in self.look.repos.iter().zip(bare).filter(|(_, bare)| 0 < **bare) {
            doubts
                .warnings
                .push(format!("{}: {bare} packages without a signature", repo.shown()));
        }
        (doubts, accepted, next)
    }
}

impl Doubts {
    fn alarm(&mut self, trouble: Trouble) {
        if self.alarms.len() < MAX_ALARMS {
            self.alarms.push(Alarm::Unverified(trouble));
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    to_array(digest(&SHA256, bytes).as_ref())
}

/// Nothing if the file was hashed without its SHA-256, which no file of a repository is.
fn pair(file: &FileFacts, signature: &Signature) -> Option<Pair> {
    let of_signature = match signature {
        Signature::File(facts) => facts.sha256?,
        Signature::Bytes(bytes) => sha256(bytes),
    };
    let mut pair = [0; 64];
    let (a, b) = pair.split_at_mut(32);
    a.copy_from_slice(&file.sha256?);
    b.copy_from_slice(&of_signature);
    Some(pair)
}

async fn verify_all(
    signed: Vec<Signed>,
    keyring: Option<&Arc<ReadKeyring>>,
    intakes: &Intakes,
    now: u64,
) -> Result<Vec<(Signed, Known)>, IntakeError> {
    let mut batches: Vec<Vec<Signed>> = Vec::new();
    let mut bytes = 0;
    for one in signed {
        let len = one.file.len;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_FILES && bytes + len <= BATCH_BYTES => {
                bytes += len;
                batch.push(one);
            }
            _ => {
                bytes = len;
                batches.push(vec![one]);
            }
        }
    }
    let run = |batch: Vec<Signed>| {
        let (store, keyring) = (intakes.store.clone(), keyring.cloned());
        let tasks = intakes.tasks.clone();
        async move {
            let verify = move || -> Result<Vec<(Signed, Known)>, IntakeError> {
                let each = batch.into_iter().map(|signed| {
                    let known = verify(&store, &signed, keyring.as_deref(), now)?;
                    Ok((signed, known))
                });
                each.collect()
            };
            tasks.blocking(Pool::Hash, verify).await?
        }
    };
    let done: Vec<Vec<(Signed, Known)>> = futures::stream::iter(batches)
        .map(run)
        .buffer_unordered(BATCHES)
        .try_collect()
        .await?;
    Ok(done.into_iter().flatten().collect())
}

fn verify(
    store: &Store,
    signed: &Signed,
    keyring: Option<&ReadKeyring>,
    now: u64,
) -> Result<Known, IntakeError> {
    let read_error = |e| IntakeError::Read(signed.path.clone(), e);
    let signature = match &signed.signature {
        Signature::Bytes(bytes) => Some(bytes.to_vec()),
        Signature::File(facts) => match store.open_file(&facts.root())? {
            Some(open) => {
                let mut bytes = Vec::new();
                open.file
                    .take(MAX_SIGNATURE as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(read_error)?;
                Some(bytes)
            }
            None => None,
        },
    };
    let open = store.open_file(&signed.file.root())?;
    let why = match (keyring, signature, open) {
        (Some(keyring), Some(signature), Some(mut open)) => {
            let verdict = keyring.keys.verify(&signature, &mut open.file, now);
            match verdict.map_err(read_error)? {
                Verdict::Good(_) => None,
                other => Some(other.to_string()),
            }
        }
        (Some(_), None, _) => Some("its signature is not in the store any more".to_owned()),
        (Some(_), _, None) => Some("it is not in the store any more".to_owned()),
        (None, Some(signature), Some(open)) => {
            let start = || (&open.file).rewind().map(|()| &open.file);
            match Seal::read(&signature) {
                Some(seal) if seal.fit(start).map_err(read_error)? == Fit::Other => {
                    Some("the signature beside it is of other bytes".to_owned())
                }
                None if Seal::is_cut(&signature) => {
                    Some("the signature beside it came without its end".to_owned())
                }
                // Something that is no signature at all is pacman's to judge.
                Some(_) | None => None,
            }
        }
        // Whoever builds the tree finds what is lost.
        (None, ..) => None,
    };
    let digest = keyring.map_or([0; 32], |keyring| keyring.digest);
    Ok(why.map_or(Known::Good, |why| Known::Bad(digest, why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_back_as_it_was_written() {
        for known in [
            Known::Good,
            Known::Accepted([8; 32], "why".into()),
            Known::Bad([7; 32], "signed by nobody".into()),
        ] {
            assert_eq!(Known::decode(&known.encode()), Some(known));
        }
        let old = Known::decode(b"\x01why");
        assert_eq!(old, Some(Known::Accepted([0; 32], "why".into())));
        for bad in [&b""[..], b"\x02short", b"\x03short", b"\x09"] {
            assert_eq!(Known::decode(bad), None);
        }
    }
}
