//! Targets of crate `bitswap`: messages of peers.

use bytes::Bytes;
use pacstore_bitswap::wire::{Builder, Entry, Fields, WantKind};
use pacstore_dag::{Cid, HashKind, raw_cid};

/// A message body: fields come out until the end or the first error, each took bytes.
pub(crate) fn bitswap(bytes: &[u8]) {
    let mut fields = 0usize;
    let mut failed = false;
    for field in Fields::new(Bytes::copy_from_slice(bytes)) {
        assert!(!failed, "a field after an error");
        failed = field.is_err();
        fields += 1;
    }
    // A wantlist gives one word of its own beside its entries.
    assert!(
        fields <= 2 * bytes.len() + 1,
        "{fields} fields of {} bytes",
        bytes.len()
    );
}

/// Wants, presences, blocks.
pub(crate) fn bitswap_seeds() -> Vec<Vec<u8>> {
    let cids: Vec<Cid> = (0..4u8).map(|i| raw_cid(HashKind::Sha2_256, &[i])).collect();
    let entries: Vec<Entry> = cids
        .iter()
        .zip([WantKind::Block, WantKind::Have].into_iter().cycle())
        .map(|(cid, kind)| Entry {
            cid: *cid,
            priority: 1,
            cancel: kind == WantKind::Have,
            kind,
            send_dont_have: kind == WantKind::Block,
        })
        .collect();
    let mut wants = Builder::new(Vec::new());
    wants.wantlist(entries.iter(), true);
    let mut answer = Builder::new(Vec::new());
    answer.presence(&cids[0], true);
    answer.presence(&cids[1], false);
    let mut took = answer.block(&cids[2], 1, |out| {
        out.push(2);
        true
    });
    took &= answer.old_block(2, |out| {
        out.extend_from_slice(b"ab");
        true
    });
    assert!(took, "both blocks are as long as was said");
    [wants, answer]
        .map(|message| {
            let (message, start) = message.finish();
            // The length stands before the body.
            let mut body = &message[start..];
            while let [first, rest @ ..] = body {
                body = rest;
                if *first < 0x80 {
                    break;
                }
            }
            body.to_vec()
        })
        .into()
}
