//! Hand-overs of KEYs: what is taken in, where chains lead, what was seen moves along.

use std::time::{Duration, UNIX_EPOCH};

use pacstore_names::{HandOverError, HandOvers, IpnsName, Record, RecordData, Seen, SeenKey, SigningKey};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn data(sequence: u64) -> RecordData {
    RecordData {
        value: b"/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".to_vec(),
        sequence,
        validity: UNIX_EPOCH + Duration::from_secs(1_900_000_000 + sequence),
        ttl: Duration::from_mins(1),
        head: None,
    }
}

fn over(from: u8, to: u8) -> (IpnsName, Record) {
    let record = Record::hand_over(&key(from), data(5), key(to).name()).expect("a record");
    (key(from).name(), record)
}

fn add(all: &mut HandOvers, (from, record): (IpnsName, Record)) -> Result<bool, HandOverError> {
    all.add(from, record)
}

#[test]
fn a_record_names_its_successor_also_after_a_way_over_the_wire() {
    let (from, record) = over(1, 2);
    let read = Record::from_bytes(record.bytes()).unwrap();
    assert_eq!(read.successor(), Some(key(2).name()));
    read.verify_signature(&from).unwrap();
    let plain = Record::create(&key(1), data(5)).unwrap();
    assert_eq!(plain.successor(), None);
    assert_ne!(plain.bytes(), read.bytes());
}

/// What another reader sees: the fields of any record, one key more.
#[test]
fn a_hand_over_has_all_that_other_readers_look_for() {
    let (_, record) = over(1, 2);
    assert_eq!(
        record.value_cid(),
        Record::create(&key(1), data(5)).unwrap().value_cid()
    );
    assert_eq!(record.sequence(), 5);
}

#[test]
fn chains_lead_to_their_end() {
    let mut all = HandOvers::default();
    // The second one may come to be known first.
    assert!(add(&mut all, over(2, 3)).unwrap());
    assert!(add(&mut all, over(1, 2)).unwrap());
    assert!(!add(&mut all, over(1, 2)).unwrap(), "no news");
    let names: Vec<IpnsName> = (1..=4).map(|seed| key(seed).name()).collect();
    assert_eq!(all.heir(&names[0]), names[2]);
    assert_eq!(all.heir(&names[3]), names[3]);
    assert_eq!(all.heirs(&names), [names[2], names[3]]);
    assert!(all.is_over(&names[1]) && !all.is_over(&names[2]));
}

#[test]
fn the_first_one_stands_and_none_leads_back() {
    let mut all = HandOvers::default();
    assert!(add(&mut all, over(1, 2)).unwrap());
    assert!(matches!(
        add(&mut all, over(1, 3)),
        Err(HandOverError::Other { .. })
    ));
    assert!(matches!(add(&mut all, over(2, 1)), Err(HandOverError::Back(_))));
    assert!(matches!(add(&mut all, over(4, 4)), Err(HandOverError::Back(_))));
    let (_, record) = over(5, 6);
    assert!(matches!(
        all.add(key(6).name(), record),
        Err(HandOverError::Record(_))
    ));
    let plain = Record::create(&key(5), data(1)).unwrap();
    assert!(matches!(
        all.add(key(5).name(), plain),
        Err(HandOverError::None(_))
    ));
    assert_eq!(all.heir(&key(1).name()), key(2).name());
    assert_eq!(all.iter().count(), 1);
    assert!(add(&mut all, over(2, 3)).unwrap());
    assert!(matches!(add(&mut all, over(3, 1)), Err(HandOverError::Back(_))));
}

#[test]
fn what_was_seen_of_the_old_key_counts_for_the_new_one() {
    let (old, new) = (key(1).name(), key(2).name());
    let (_, record) = over(1, 2);
    let head = record.value_cid().unwrap();
    let mut seen = Seen::default();
    seen.keys.insert(old, SeenKey { sequence: 4, head });
    seen.hand_over(&old, &new, 5, head);
    assert_eq!(seen.keys.get(&new), Some(&SeenKey { sequence: 5, head }));
    assert!(!seen.keys.contains_key(&old));
    // What was seen of the new one is never made less.
    seen.keys.insert(new, SeenKey { sequence: 9, head });
    seen.hand_over(&old, &new, 5, head);
    assert_eq!(seen.keys[&new].sequence, 9);
}
