//! Mirror names, labels, DNSLink texts and request paths.

use pacstore_names::{
    Cid, DnslinkError, LinkTarget, MAX_PATH, MAX_SEGMENT, MAX_SEGMENTS, MirrorName, MirrorNameError,
    PathError, parse_dnslink, parse_request_path,
};
use proptest::prelude::*;

use crate::heads::{cid, key};

fn name(text: &str) -> Result<MirrorName, MirrorNameError> {
    text.parse()
}

#[test]
fn names_are_lower_case_dns_names() {
    assert_eq!(
        name("X86-64.ArchLinux.example").map(String::from).as_deref(),
        Ok("x86-64.archlinux.example")
    );
    assert!(name("demo").is_ok());
    assert_eq!(name(""), Err(MirrorNameError::Length(0)));
    assert_eq!(name(&"a.".repeat(200)), Err(MirrorNameError::Length(400)));
    assert_eq!(name("a..b"), Err(MirrorNameError::LabelLength(0)));
    assert_eq!(name("example.org."), Err(MirrorNameError::LabelLength(0)));
    assert_eq!(name(&"a".repeat(64)), Err(MirrorNameError::LabelLength(64)));
    assert_eq!(name("-a.b"), Err(MirrorNameError::Dash));
    assert_eq!(name("a/b"), Err(MirrorNameError::Character('/')));
    assert_eq!(name("ä.example"), Err(MirrorNameError::Character('ä')));
    assert_eq!(name("a\0b"), Err(MirrorNameError::Character('\0')));
    assert_eq!(name(".."), Err(MirrorNameError::LabelLength(0)));
}

#[test]
fn a_key_or_a_cid_is_no_name() {
    for text in [
        key(1).name().to_string(),
        key(1).name().peer_id(),
        cid(1).to_string(),
    ] {
        assert_eq!(name(&text), Err(MirrorNameError::LooksLikeCid), "{text}");
    }
}

#[test]
fn labels_double_dashes_and_turn_dots_into_dashes() {
    let arch = name("x86-64.archlinux.pkg.pacman.store").expect("a name");
    let label = "x86--64-archlinux-pkg-pacman-store";
    assert_eq!(arch.label().as_deref(), Some(label));
    assert_eq!(MirrorName::from_label(label), Ok(arch.clone()));
    assert_eq!(
        MirrorName::of_host(label),
        [arch.clone(), name(label).expect("a name")]
    );
    assert_eq!(MirrorName::of_host(arch.as_str()), [arch]);
    assert_eq!(MirrorName::of_host("demo"), [name("demo").expect("a name")]);
    assert_eq!(
        MirrorName::from_label("a.b"),
        Err(MirrorNameError::Character('.'))
    );
    assert_eq!(MirrorName::from_label("a---b"), Err(MirrorNameError::Dash));
    assert_eq!(
        name(&["abcdefgh"; 8].join(".")).expect("a name").label(),
        None,
        "71 characters"
    );
}

#[test]
fn a_dnslink_is_exactly_one_valid_text() {
    let parse = |texts: &[&str]| parse_dnslink(texts.iter().copied());
    let (tree, importer) = (cid(1), key(1).name());
    let ipfs = format!("dnslink=/ipfs/{tree}/a/b");
    let ipns = format!("dnslink=/ipns/{importer}");
    assert_eq!(
        parse(&["spf", &ipfs]),
        Ok(LinkTarget::Ipfs(tree, "a/b".to_owned()))
    );
    assert_eq!(parse(&[&ipns]), Ok(LinkTarget::Key(importer, String::new())));
    let domain = LinkTarget::Domain(name("example.org").expect("a name"), String::new());
    assert_eq!(parse(&["dnslink=/ipns/example.org"]), Ok(domain));
    assert_eq!(parse(&[&ipfs, &ipns]), Err(DnslinkError::Several));
    for none in [
        "dnslink=/ipfs/no-cid",
        "dnslink=ipfs/x",
        "dnslink=",
        "dnslink=/http/x",
        "/ipns/example.org",
        "",
    ] {
        assert_eq!(parse(&[none]), Err(DnslinkError::None), "{none}");
    }
}

#[test]
fn a_path_is_decoded_once_into_its_names() {
    let parse = |raw: &str| {
        let path = parse_request_path(raw).expect("a path");
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        (names, path.trailing_slash)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(parse("/"), (names(&[]), true));
    assert_eq!(parse("/core/core.db"), (names(&["core", "core.db"]), false));
    assert_eq!(parse("/core/"), (names(&["core"]), true));
    assert_eq!(
        parse("/gtk%2b%2B+/a%20b%3Fc"),
        (names(&["gtk+++", "a b?c"]), false)
    );
    assert_eq!(parse("/%252e%252e/x"), (names(&["%2e%2e", "x"]), false));
    assert_eq!(parse("/.../..a/.b"), (names(&["...", "..a", ".b"]), false));
    assert_eq!(
        parse_request_path("/%ff%80").expect("a path").segments,
        [[0xff, 0x80]]
    );
    assert_eq!(parse_request_path("/%ff").expect("a path").as_slices(), [[0xff]]);
}

#[test]
fn every_trick_with_a_path_is_refused() {
    let long = "/".to_owned() + &"a".repeat(MAX_SEGMENT + 1);
    let deep = "/a".repeat(MAX_SEGMENTS + 1);
    let endless = "/".to_owned() + &"%41".repeat(MAX_PATH / 3 + 1);
    for (raw, why) in [
        ("", PathError::NotAbsolute),
        ("core", PathError::NotAbsolute),
        ("//", PathError::EmptySegment),
        ("/a//b", PathError::EmptySegment),
        ("/a//", PathError::EmptySegment),
        ("/..", PathError::DotSegment),
        ("/a/../b", PathError::DotSegment),
        ("/a/./b", PathError::DotSegment),
        ("/a/%2e%2e/b", PathError::DotSegment),
        ("/a/.%2E/b", PathError::DotSegment),
        ("/a/%2e/", PathError::DotSegment),
        ("/a%2fb", PathError::EncodedSlash),
        ("/..%2F..%2Fetc", PathError::EncodedSlash),
        ("/a%00b", PathError::Nul),
        ("/a\0b", PathError::Nul),
        ("/a%", PathError::BadEscape),
        ("/a%2", PathError::BadEscape),
        ("/a%zz", PathError::BadEscape),
        ("/%+1", PathError::BadEscape),
        ("/a?b", PathError::Unencoded(b'?')),
        ("/a b", PathError::Unencoded(b' ')),
        ("/a\r\nb", PathError::Unencoded(b'\r')),
        (&long, PathError::LongSegment(256)),
        (&deep, PathError::TooDeep),
        (&endless, PathError::TooLong(endless.len())),
    ] {
        assert_eq!(parse_request_path(raw), Err(why), "{raw:?}");
    }
}

fn dns_name() -> impl Strategy<Value = String> {
    let label = "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?";
    prop::collection::vec(label, 1..6).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn a_name_survives_its_label(text in dns_name()) {
        let name: MirrorName = text.parse().expect("a name");
        if let Some(label) = name.label() {
            prop_assert!(label.len() <= 63 && !label.contains('.'));
            prop_assert_eq!(MirrorName::from_label(&label), Ok(name));
        }
    }

    #[test]
    fn any_text_is_a_safe_name_or_refused(text in any::<String>()) {
        if let Ok(name) = text.parse::<MirrorName>() {
            prop_assert_eq!(name.as_str(), text.to_ascii_lowercase());
            prop_assert!(!name.as_str().contains('/'));
            prop_assert!(name.as_str().parse::<Cid>().is_err());
        }
        for name in MirrorName::of_host(&text) {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
        drop(parse_dnslink([format!("dnslink={text}").as_str(), &text]));
    }

    #[test]
    fn no_path_leaves_the_tree(raw in "[/.%a-f0-9A-F\\\\\u{0}é?#+ -]{0,40}") {
        if let Ok(path) = parse_request_path(&raw) {
            for name in &path.segments {
                prop_assert!(!name.is_empty() && name.len() <= MAX_SEGMENT);
                prop_assert!(name != b"." && name != b"..");
                prop_assert!(!name.contains(&b'/') && !name.contains(&0));
            }
        }
    }

    #[test]
    fn any_names_survive_encoding(names in prop::collection::vec(prop::collection::vec(1_u8.., 1..20), 0..5)) {
        prop_assume!(names.iter().all(|name| !name.contains(&b'/') && name != b"." && name != b".."));
        let encode = |name: &Vec<u8>| {
            let escapes: Vec<_> = name.iter().map(|byte| format!("%{byte:02x}")).collect();
            escapes.concat()
        };
        let raw = "/".to_owned() + &names.iter().map(encode).collect::<Vec<_>>().join("/");
        prop_assert_eq!(parse_request_path(&raw).expect("a path").segments, names);
    }
}
