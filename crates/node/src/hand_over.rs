//! Handing a mirror over to a new key: the old one's last record names it, whoever follows goes along.
//!
//! `rotate` does it in steps, each durable before the next: the new key beside the old one, the
//! old key's last record, then the new key takes the old one's place on disk (from there on it is done),
//! then the mirror's memory, a head by the new key, and only then others are told. What a stop leaves
//! undone after the exchange, [`settle`] does at the next start; what it leaves before, the next
//! `rotate` goes on with, and nobody ever saw it.
//!
//! - Invariant: a record that hands over is told to nobody while its key signs here.
//! - Invariant: the new key goes on counting where the old one stopped.
//! - Invariant: a key that was handed over signs nothing more, here or on a copy of this machine.
//! - Not here: which hand-over counts (`pacstore_names::HandOvers`), the files (`crate::keys`).
//! - Read first: `docs/decisions/0015-a-key-is-handed-over-by-its-last-record.md`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pacstore_names::{Head, IpnsName, MirrorName, Record, RecordData, Signed};
use pacstore_runtime::Pool;
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::error::StoreError;
use crate::importer::Importing;
use crate::keys::{KeyError, Keys};
use crate::mirror::Mirror;
use crate::node::{Node, StartError};
use crate::publish::{OWN, PublishError, TTL, next_sequence, put_out, saw_sequence};

/// How long the last record of a key is valid: who was away for years still learns of the new one.
const VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);

/// How long a rotation waits for a round under way.
const TURN: Duration = Duration::from_mins(1);

/// What became of a rotation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rotated {
    /// The key's label.
    pub label: String,
    /// The mirror that it signs.
    pub mirror: String,
    /// The KEY until now.
    pub old: String,
    /// The KEY from now on.
    pub key: String,
}

/// Why a key was not rotated. Unless it says otherwise the old one signs on.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// No import signs with it.
    #[error("no [[import]] signs with a key `{0}`")]
    Unused(String),
    /// Nobody can follow from a KEY that published nothing.
    #[error("nothing was published with key `{0}` yet")]
    Nothing(String),
    /// The KEY was handed over already, perhaps on another machine.
    #[error("{key} was handed over to {to} before")]
    Over {
        /// The KEY of the label.
        key: IpnsName,
        /// Whom it was handed over to.
        to: IpnsName,
    },
    /// A round is under way.
    #[error("a round of {0} is under way, and did not end within a minute")]
    Busy(MirrorName),
    /// A key file.
    #[error("cannot exchange the keys")]
    Key(#[from] KeyError),
    /// The store.
    #[error("cannot keep what belongs to the new key")]
    Store(#[from] StoreError),
    /// The old key's last record.
    #[error("cannot sign the hand-over")]
    Record(#[from] pacstore_names::RecordError),
    /// The keys are exchanged, the first head of the new one is not there yet.
    #[error("the new key is in place; its first head comes with the next start or round")]
    Head(#[source] PublishError),
    /// A test said so.
    #[error("stopped before `{0}`")]
    Stopped(&'static str, #[source] io::Error),
    /// The node is stopping.
    #[error("stopping")]
    Stopping,
}

impl RotateError {
    /// One sentence on what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unused(_) => Some(
                "`pacstore key list` has the labels; a key that signs nothing has nobody to hand over: make another with `pacstore key new`"
                    .to_owned(),
            ),
            Self::Nothing(_) => Some(
                "publish first (`pacstore import NAME --once`), or make another key with `pacstore key new`"
                    .to_owned(),
            ),
            Self::Over { .. } => Some("put the new key's file in its place".to_owned()),
            Self::Busy(_) => Some("try again when `pacstore status` shows no round".to_owned()),
            Self::Key(error) => error.hint(),
            Self::Store(error) => error.hint().map(str::to_owned),
            Self::Head(error) => error.hint(),
            Self::Record(_) | Self::Stopped(..) | Self::Stopping => None,
        }
    }
}

impl Node {
    /// Replaces the key `label` by a new one that everybody who follows the old one goes along with.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn rotate(&self, label: &str) -> Result<Rotated, RotateError> {
        let imports = &self.inner.imports;
        let import = imports.iter().find(|import| import.config.key == label);
        let unused = || RotateError::Unused(label.to_owned());
        let import = Arc::clone(import.ok_or_else(unused)?);
        let mirror = self.mirror(import.name().as_str()).ok_or_else(unused)?;
        let busy = |_| RotateError::Busy(import.name().clone());
        let _no_round = tokio::time::timeout(TURN, import.turn()).await.map_err(busy)?;
        let (node, import_, mirror_) = (self.clone(), Arc::clone(&import), Arc::clone(&mirror));
        let work = move || rotate(&node, &import_, &mirror_);
        let rotated = self.inner.tasks.blocking(Pool::Disk, work).await;
        let rotated = rotated.map_err(|_| RotateError::Stopping)??;
        // Told aside: the DHT may take its time.
        let (node, import, mirror) = (self.clone(), Arc::clone(&import), Arc::clone(&mirror));
        self.inner.tasks.spawn("hand over", async move {
            node.tell(&import, &mirror).await;
            tell(&node, &import, &mirror).await;
        });
        Ok(rotated)
    }
}

fn rotate(node: &Node, import: &Importing, mirror: &Mirror) -> Result<Rotated, RotateError> {
    let _one = import.replicas.signing();
    let label = &import.config.key;
    let (keys, old) = (Keys::new(&node.inner.config.state_dir), import.key());
    let from = old.name();
    let to = mirror.heir(&from);
    if to != from {
        return Err(RotateError::Over { key: from, to });
    }
    let last = mirror.signed().into_iter().find(|signed| signed.key == from);
    let last = last.ok_or_else(|| RotateError::Nothing(label.clone()))?;
    before(node, "rotate/new key")?;
    let new = keys.prepare(label)?;
    before(node, "rotate/sequence")?;
    let sequence = next_sequence(node, &from)?;
    saw_sequence(node, &from, sequence)?;
    saw_sequence(node, &new.name(), sequence)?;
    before(node, "rotate/record")?;
    let data = RecordData {
        value: last.record.value().to_vec(),
        sequence,
        validity: node.inner.clock.now() + VALIDITY,
        ttl: TTL,
        head: Some(last.head_cid),
    };
    let record = Record::hand_over(&old, data, new.name())?;
    keys.keep_hand_over(&from, &record)?;
    before(node, "rotate/old key")?;
    keys.retire(label, &from)?;
    before(node, "rotate/exchange")?;
    keys.exchange(label)?;
    let rotated = Rotated {
        label: label.clone(),
        mirror: import.name().to_string(),
        old: from.to_string(),
        key: new.name().to_string(),
    };
    info!(mirror = %import.name(), old = %from, new = %new.name(), "the key was handed over");
    import.set_key(new);
    before(node, "rotate/memory")?;
    mirror.hand_over(from, &record)?;
    remember_signer(node, import)?;
    before(node, "rotate/head")?;
    first_head(node, import, mirror, Some(last)).map_err(RotateError::Head)?;
    Ok(rotated)
}

/// The crash seam of the store stands for that of the key files, too.
fn before(node: &Node, step: &'static str) -> Result<(), RotateError> {
    match &node.inner.config.tuning.steps {
        Some(steps) => steps.before(step).map_err(|e| RotateError::Stopped(step, e)),
        None => Ok(()),
    }
}

/// Does what belongs to keys at a start: hand-overs that led to ours are known and finished, and a key that
/// is another than the last time without one is refused. Blocking.
///
/// # Errors
/// [`StartError::OtherKey`]; [`StartError::Store`] or [`StartError::Key`] if it cannot be known.
pub(crate) fn settle(node: &Node) -> Result<(), StartError> {
    let imports = &node.inner.imports;
    let kept = Keys::new(&node.inner.config.state_dir).hand_overs()?;
    // Of a rotation that stopped before the exchange.
    let signs = |key: &IpnsName| imports.iter().any(|import| import.key().name() == *key);
    for import in imports {
        let Some(mirror) = node.mirror(import.name().as_str()) else {
            continue;
        };
        let own = import.key().name();
        let mut chain = mirror.hand_overs();
        for (from, record) in kept.iter().filter(|(from, _)| !signs(from)) {
            if let Err(error) = chain.add(*from, record.clone()) {
                debug!(%from, %error, "a hand-over on disk is of no use");
            }
        }
        for (from, record) in chain.iter().filter(|(from, _)| chain.heir(from) == own) {
            mirror.hand_over(*from, record)?;
            saw_sequence(node, &own, record.sequence())?;
        }
        check_signer(node, import, &mirror)?;
        if let Err(error) = first_head(node, import, &mirror, last_of_old(import, &mirror)) {
            warn!(mirror = %import.name(), error = &error as &dyn std::error::Error, "the new key's first head waits for the next round");
        }
    }
    Ok(())
}

/// The KEY that signed a mirror here the last time.
#[derive(Debug, Serialize, Deserialize)]
struct Signer {
    label: String,
    key: IpnsName,
}

fn signer_key(import: &Importing) -> String {
    format!("signer/{}", import.name())
}

/// Refuses another key under the label of the one that signed last, unless that was handed over to it.
/// Another label is another decision, and the owner's to make.
fn check_signer(node: &Node, import: &Importing, mirror: &Mirror) -> Result<(), StartError> {
    let name = signer_key(import);
    let stored = node.inner.store.state_get(&name).map_err(StoreError::from)?;
    let known: Option<Signer> = match stored {
        Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|_| StoreError::State(name))?),
        None => None,
    };
    let own = import.key().name();
    if let Some(known) = known.filter(|known| known.key != own) {
        if known.label == import.config.key && mirror.heir(&known.key) != own {
            return Err(StartError::OtherKey {
                mirror: import.name().clone(),
                label: known.label,
                before: known.key,
                now: own,
            });
        }
        warn!(mirror = %import.name(), before = %known.key, now = %own, "this mirror is signed with another key than before");
    }
    Ok(remember_signer(node, import)?)
}

fn remember_signer(node: &Node, import: &Importing) -> Result<(), StoreError> {
    let signer = Signer {
        label: import.config.key.clone(),
        key: import.key().name(),
    };
    let bytes = serde_json::to_vec(&signer).unwrap_or_default();
    let (store, name) = (&node.inner.store, signer_key(import));
    if store.state_get(&name)?.as_deref() != Some(&bytes[..]) {
        store.state_put(&[(&name, Some(&bytes))])?;
    }
    Ok(())
}

/// What a key published last that was handed over to ours, if ours published nothing yet.
fn last_of_old(import: &Importing, mirror: &Mirror) -> Option<Signed> {
    let (own, signed) = (import.key().name(), mirror.signed());
    if signed.iter().any(|one| one.key == own) {
        return None;
    }
    let ours = signed
        .into_iter()
        .filter(|one| mirror.is_over(&one.key) && mirror.heir(&one.key) == own);
    ours.max_by_key(|one| one.record.sequence())
}

/// After a hand-over: `last`, what the old key published last, signed by the new one.
fn first_head(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    last: Option<Signed>,
) -> Result<(), PublishError> {
    let own = import.key().name();
    if let Some(last) = last {
        let head = Head {
            sequence: next_sequence(node, &own)?,
            ..last.head
        };
        put_out(node, import, mirror, &head)?;
    }
    // The old key's tree is the new one's; it was held under the old name.
    let all = mirror.hand_overs();
    for (from, _) in all.iter().filter(|(from, _)| all.heir(from) == own) {
        let label = format!("{OWN}{from}");
        node.inner.store.release(&label).map_err(StoreError::from)?;
    }
    Ok(())
}

/// Who asks for a KEY that was handed over gets the record that says so.
pub(crate) fn keep(net: &pacstore_net::Net, mirror: &Mirror) {
    let public = mirror.current().is_none_or(|head| mirror.is_public(&head.head)) && mirror.config.public;
    for (from, record) in mirror.hand_overs().iter() {
        let kept = if public {
            net.set_record(from, record.bytes())
        } else {
            net.set_private_record(from, record.bytes())
        };
        if let Err(error) = kept {
            debug!(%from, error = &error as &dyn std::error::Error, "the network does not keep a hand-over");
        }
    }
}

/// Tells the network of the hand-overs that led to the key of `import`.
pub(crate) async fn tell(node: &Node, import: &Importing, mirror: &Mirror) {
    let Some(net) = &node.inner.net else { return };
    keep(net, mirror);
    if !import.config.public {
        return;
    }
    let own = import.key().name();
    let all = mirror.hand_overs();
    for (from, record) in all.iter().filter(|(from, _)| all.heir(from) == own) {
        if let Err(error) = net.publish_record(from, record.bytes()).await {
            debug!(
                %from,
                error = &error as &dyn std::error::Error,
                "the DHT did not take a hand-over; connected peers get it from us"
            );
        }
    }
}
