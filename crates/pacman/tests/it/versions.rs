//! The order of versions, against pacman's own program and Arch's own crate.

use crate::{installed, skip};
use pacstore_pacman::build::Random;
use pacstore_pacman::{Version, VersionError, vercmp};
use proptest::prelude::*;
use std::cmp::Ordering::{self, Equal, Greater, Less};
use std::io::Read;
use std::process::Command;
use std::str::FromStr;

/// Pairs whose order was read off `vercmp` of pacman 6.0.2.
const KNOWN: [(&str, &str, Ordering); 34] = [
    ("1.5.0", "1.5.0", Equal),
    ("1.5.1", "1.5.0", Greater),
    ("1.5.1", "1.5", Greater),
    ("1.5.0-1", "1.5.0-2", Less),
    ("1.5.0-1", "1.5.1-1", Less),
    ("1.5-1", "1.5", Equal),
    ("1.5-1", "1.6", Less),
    ("1.1-1", "1.1-1.1", Less),
    ("1.0rc1", "1.0", Less),
    ("1.0rc", "1.0.0", Less),
    ("1.0b", "1.0beta", Less),
    ("1.0beta", "1.0p", Less),
    ("1.0p", "1.0pre", Less),
    ("1.0pre", "1.0rc", Less),
    ("1.0.", "1.0.a", Greater),
    ("1.0", "1.0.a", Less),
    ("1.0a", "1.0.a", Less),
    ("1..0", "1.0", Greater),
    ("1..0", "1.2", Greater),
    ("1.", "1", Greater),
    ("1", "1...", Less),
    ("0:1.0", "1.0", Equal),
    (":1.0", "0:1.0", Equal),
    ("1:1.0", "2.0", Greater),
    ("1:1.0-1", "0:9.9-9", Greater),
    ("01", "1", Equal),
    ("1.00-01", "1.0-1", Equal),
    ("1.a", "1.1", Less),
    ("1a", "1.a", Less),
    ("1_0", "1.0", Equal),
    ("99999999999999999999999", "100000000000000000000000", Less),
    ("", "1", Less),
    ("", "a", Greater),
    ("1.0-1-1", "1.0-1", Greater),
];

#[test]
fn the_order_is_the_one_of_vercmp() {
    for (a, b, order) in KNOWN {
        assert_eq!(vercmp(a, b), order, "{a} {b}");
        assert_eq!(vercmp(b, a), order.reverse(), "{b} {a}");
    }
}

#[test]
fn where_only_one_has_a_release_the_order_of_versions_is_still_total() {
    let version = |text| Version::new(text).unwrap();
    assert!(version("1.0") < version("1.0-1"));
    assert!(version("1.0-1") < version("1.0-2"));
    assert!(version("1.0-2") < version("1.1"));
    assert_eq!(version("1.00-1"), version("1.0-1"));
}

#[test]
fn a_version_is_visible_ascii() {
    assert_eq!(Version::new(""), Err(VersionError::Empty));
    assert_eq!(Version::new("1 0"), Err(VersionError::Byte(b' ')));
    assert_eq!(Version::new("1/0"), Err(VersionError::Byte(b'/')));
    assert_eq!(Version::new("1\n"), Err(VersionError::Byte(b'\n')));
    assert_eq!(Version::new("1ä"), Err(VersionError::Byte(0xc3)));
    assert_eq!(Version::new(&"1".repeat(256)), Err(VersionError::TooLong));
    assert_eq!(Version::from_str("1:2-3").unwrap().to_string(), "1:2-3");
}

/// Random texts of the characters that matter to the comparison.
fn odd_texts(count: usize) -> Vec<String> {
    const CHARACTERS: &[u8] = b"0012a.b-:_~.";
    let mut random = Random::new(42);
    let mut byte = || {
        let mut one = [0];
        random.read_exact(&mut one).unwrap();
        usize::from(one[0])
    };
    let mut text = || {
        (0..=byte() % 7)
            .map(|_| char::from(CHARACTERS[byte() % CHARACTERS.len()]))
            .collect()
    };
    (0..count).map(|_| text()).collect()
}

#[test]
fn the_program_vercmp_agrees() {
    if !installed("vercmp") {
        return skip("vercmp is not installed");
    }
    let odd = odd_texts(1200);
    let pairs = odd.chunks_exact(2).map(|pair| (&*pair[0], &*pair[1]));
    let known = KNOWN.iter().map(|&(a, b, _)| (a, b));
    for (a, b) in known.chain(pairs) {
        // A text that begins with `-` would be an option.
        if a.starts_with('-') || b.starts_with('-') {
            continue;
        }
        let output = Command::new("vercmp").args([a, b]).output().unwrap();
        let answer: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(vercmp(a, b), answer.cmp(&0), "{a} {b}");
    }
}

#[test]
fn arch_s_own_crate_agrees_where_it_reads_the_version() {
    let odd = odd_texts(4000);
    let mut compared = 0;
    for pair in odd.chunks_exact(2) {
        let read = |text: &str| alpm_types::Version::from_str(text).ok();
        let (Some(a), Some(b)) = (read(&pair[0]), read(&pair[1])) else {
            continue;
        };
        // It differs from pacman where a part begins with a separator, and takes `0:1` for newer than `1`.
        let plain = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !pair
            .iter()
            .all(|text| !text.contains(':') && text.split('-').all(plain))
        {
            continue;
        }
        assert_eq!(vercmp(&pair[0], &pair[1]), a.cmp(&b), "{} {}", pair[0], pair[1]);
        compared += 1;
    }
    assert!(compared > 50, "only {compared} pairs were compared");
}

proptest! {
    #[test]
    fn swapping_turns_the_order_round(a in "[0-9a-c.:_-]{0,8}", b in "[0-9a-c.:_-]{0,8}") {
        prop_assert_eq!(vercmp(&a, &b), vercmp(&b, &a).reverse());
    }

    #[test]
    fn any_text_can_be_compared(a in ".{0,20}", b in ".{0,20}") {
        vercmp(&a, &b);
    }

    #[test]
    fn a_version_that_makepkg_lets_pass_is_ordered_as_pacman_does(
        a in "([0-2]:)?[0-2ab]([.+_]{0,2}[0-2ab]){0,5}-[0-2](\\.[0-2])?",
        b in "([0-2]:)?[0-2ab]([.+_]{0,2}[0-2ab]){0,5}-[0-2](\\.[0-2])?",
    ) {
        let (a, b) = (Version::new(&a).unwrap(), Version::new(&b).unwrap());
        prop_assert_eq!(a.cmp(&b), a.vercmp(&b));
    }

    #[test]
    fn sorting_versions_works(texts in prop::collection::vec("[0-2ab.:~-]{1,5}", 0..60)) {
        let mut versions: Vec<Version> = texts.iter().map(|t| Version::new(t).unwrap()).collect();
        versions.sort();
        for (i, a) in versions.iter().enumerate() {
            for b in &versions[i..] {
                prop_assert!(a <= b, "{} {}", a, b);
            }
        }
    }
}
