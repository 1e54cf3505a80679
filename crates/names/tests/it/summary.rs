//! The JSON that scripts rely on.

use std::time::Duration;

use pacstore_names::{FellBack, ImporterLine, RepoState, State, Summary, rfc3339};
use serde_json::json;

use crate::heads::{NOW, at, cid, head, key, sign};

const WARN: Duration = Duration::from_hours(6);

#[test]
fn the_summary_has_the_fields_that_scripts_rely_on() {
    let mut head = head();
    head.repositories[1].state = RepoState::Held;
    head.repositories[1].arch.clear();
    let current = sign(0, 12, &head);
    let silent = ImporterLine {
        key: key(1).name(),
        sequence: None,
        tree: None,
    };
    let importers = vec![ImporterLine::from(&current), silent];
    let summary = Summary::new(
        (&current.head, &current.head_cid, 12),
        FellBack::No,
        importers,
        at(NOW),
        WARN,
    );
    assert_eq!(
        serde_json::to_value(summary).expect("JSON"),
        json!({
            "name": "x86-64.archlinux.pkg.pacman.store",
            "tree": cid(1).to_string(),
            "head": current.head_cid.to_string(),
            "sequence": 12,
            "upstream_time": "2027-01-15T06:00:00Z",
            "checked": "2027-01-15T07:59:00Z",
            "age_s": 60,
            "state": "held",
            "importers": [
                { "key": key(0).name().to_string(), "sequence": 12, "tree": cid(1).to_string() },
                { "key": key(1).name().to_string(), "sequence": null, "tree": null },
            ],
            "repositories": [
                { "name": "core", "folder": "core/os/x86_64", "arch": "x86_64", "age_s": 60, "state": "current" },
                { "name": "extra", "folder": "extra/os/x86_64", "arch": null, "age_s": 60, "state": "held" },
            ],
        })
    );
}

#[test]
fn without_a_head_the_state_is_none() {
    let summary = Summary::none(&head().mirror, Vec::new());
    let json = serde_json::to_value(summary).expect("JSON");
    assert_eq!(
        (&json["state"], &json["tree"], &json["age_s"]),
        (&json!("none"), &json!(null), &json!(null))
    );
}

#[test]
fn a_head_that_fell_back_is_a_warning() {
    let current = sign(0, 12, &head());
    let state = |fell| {
        Summary::new(
            (&current.head, &current.head_cid, 1),
            fell,
            Vec::new(),
            at(NOW),
            WARN,
        )
        .state
    };
    assert_eq!(
        (state(FellBack::from(false)), state(FellBack::from(true))),
        (State::Current, State::Warn)
    );
}

#[test]
fn times_of_every_size_can_be_written() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    assert!(
        rfc3339(u64::MAX).starts_with("9999-12-30T"),
        "{}",
        rfc3339(u64::MAX)
    );
}
