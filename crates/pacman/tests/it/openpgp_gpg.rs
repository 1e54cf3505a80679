//! Keys and signatures that GnuPG made: subkeys, terms, revocations, key boxes, trust.

use crate::{installed, skip};
use pacstore_pacman::build::SigningKey;
use pacstore_pacman::openpgp::{Keyring, KeyringFile, Verdict};
use std::path::Path;
use std::process::Command;

/// A GnuPG folder of a test's own.
struct Gpg {
    home: tempfile::TempDir,
}

impl Gpg {
    /// `None` (and one line) where there is no gpg.
    fn new() -> Option<Self> {
        if !installed("gpg") {
            skip("gpg is not installed (install: gnupg)");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        Some(Self { home })
    }

    fn run(&self, args: &[&str]) -> String {
        let output = Command::new("gpg")
            .args([
                "--batch",
                "--yes",
                "--no-permission-warning",
                "--no-auto-check-trustdb",
            ])
            .args(["--pinentry-mode", "loopback", "--passphrase", "", "--homedir"])
            .arg(self.home.path())
            .args(args)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "gpg {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// A primary key that only certifies; its fingerprint.
    fn key(&self, user: &str, args: &[&str], usage: &str, term: &str) -> String {
        let mut all = args.to_vec();
        all.extend(["--quick-gen-key", user, "ed25519", usage, term]);
        self.run(&all);
        let list = self.run(&["--with-colons", "--list-keys", &format!("={user}")]);
        let line = list.lines().find(|l| l.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    fn sign(&self, args: &[&str], bytes: &[u8]) -> Vec<u8> {
        let file = self.home.path().join("file");
        let signature = self.home.path().join("file.sig");
        std::fs::write(&file, bytes).unwrap();
        let (file, out) = (file.to_str().unwrap(), signature.to_str().unwrap());
        let mut all = args.to_vec();
        all.extend(["--output", out, "--detach-sign", file]);
        self.run(&all);
        std::fs::read(signature).unwrap()
    }

    /// The folder as it lies there.
    fn keyring(&self) -> Keyring {
        read_folder(self.home.path())
    }

    /// Only the keys, without any word of trust.
    fn exported(&self, args: &[&str]) -> Keyring {
        let out = self.home.path().join("exported");
        let mut all = vec!["--output", out.to_str().unwrap()];
        all.extend(args);
        all.push("--export");
        self.run(&all);
        let bytes = std::fs::read(out).unwrap();
        Keyring::read([(KeyringFile::Keys, "exported", &bytes[..])]).unwrap()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "all"])
            .status();
    }
}

fn read_folder(folder: &Path) -> Keyring {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Some(kind) = KeyringFile::of(&name) {
            files.push((kind, name, std::fs::read(entry.path()).unwrap()));
        }
    }
    Keyring::read(
        files
            .iter()
            .map(|(kind, name, bytes)| (*kind, &name[..], &bytes[..])),
    )
    .unwrap()
}

fn verify(ring: &Keyring, signature: &[u8], bytes: &[u8]) -> Verdict {
    ring.verify(signature, &mut &bytes[..], 1_900_000_000).unwrap()
}

#[test]
fn a_signing_subkey_signs_for_its_primary_key() {
    let Some(gpg) = Gpg::new() else { return };
    let primary = gpg.key("Sub Key <s@example.org>", &[], "cert", "never");
    gpg.run(&["--quick-add-key", &primary, "ed25519", "sign", "never"]);
    let signature = gpg.sign(&[], b"bytes");
    for (what, ring) in [
        ("the folder", gpg.keyring()),
        ("binary", gpg.exported(&[])),
        ("armoured", gpg.exported(&["--armor"])),
    ] {
        match verify(&ring, &signature, b"bytes") {
            Verdict::Good(signed) => assert_eq!(signed.key, primary, "{what}"),
            other => panic!("{what}: {other}"),
        }
        assert_eq!(
            verify(&ring, &signature, b"other"),
            Verdict::Bad { key: primary.clone() },
            "{what}"
        );
    }
    let armoured = gpg.sign(&["--armor"], b"bytes");
    assert!(verify(&gpg.keyring(), &armoured, b"bytes").is_good());
}

#[test]
fn a_key_counts_for_what_it_signed_within_its_term() {
    let Some(gpg) = Gpg::new() else { return };
    let at = |time: &str| format!("--faked-system-time={time}");
    let key = gpg.key(
        "Term <t@example.org>",
        &[&at("20200101T000000!")],
        "sign,cert",
        "1y",
    );
    let early = gpg.sign(&[&at("20200601T000000!")], b"bytes");
    let ring = gpg.exported(&[]);
    assert!(verify(&ring, &early, b"bytes").is_good());

    // Prolonged, and signed with in the second year: the old copy of the key does not know that.
    gpg.run(&[&at("20201201T000000!"), "--quick-set-expire", &key, "2y"]);
    let late = gpg.sign(&[&at("20210601T000000!")], b"bytes");
    let prolonged = gpg.exported(&[]);
    assert!(verify(&prolonged, &late, b"bytes").is_good());
    let verdict = verify(&ring, &late, b"bytes");
    assert!(matches!(verdict, Verdict::KeyExpired { .. }), "{verdict}");

    let term = gpg.sign(&[&at("20200601T000000!"), "--default-sig-expire", "1m"], b"bytes");
    let verdict = verify(&prolonged, &term, b"bytes");
    assert!(matches!(verdict, Verdict::SignatureExpired { .. }), "{verdict}");
}

#[test]
fn a_revoked_key_counts_for_nothing_and_a_revoked_subkey_neither() {
    let Some(gpg) = Gpg::new() else { return };
    let primary = gpg.key("Gone <g@example.org>", &[], "sign,cert", "never");
    let by_primary = gpg.sign(&[], b"bytes");
    let before = gpg.exported(&[]);
    assert!(verify(&before, &by_primary, b"bytes").is_good());

    let file = gpg.home.path().join(format!("openpgp-revocs.d/{primary}.rev"));
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace(":-----BEGIN", "-----BEGIN");
    std::fs::write(&file, text).unwrap();
    gpg.run(&["--import", file.to_str().unwrap()]);
    assert_eq!(
        verify(&gpg.exported(&[]), &by_primary, b"bytes"),
        Verdict::Revoked { key: primary }
    );
}

#[test]
fn a_subkey_without_a_back_signature_or_the_right_to_sign_is_no_signer() {
    let Some(gpg) = Gpg::new() else { return };
    let primary = gpg.key("Cert <c@example.org>", &[], "cert", "never");
    gpg.run(&["--quick-add-key", &primary, "ed25519", "auth", "never"]);
    let out = gpg.home.path().join("exported");
    gpg.run(&["--output", out.to_str().unwrap(), "--export"]);
    let bytes = std::fs::read(out).unwrap();
    let none = Keyring::read([(KeyringFile::Keys, "exported", &bytes[..])]);
    assert!(none.is_err(), "{none:?}");
}

#[test]
fn trust_goes_from_the_folders_own_key_over_certifications_and_ends_at_disabled_ones() {
    let Some(gpg) = Gpg::new() else { return };
    let master = gpg.key("Master <m@example.org>", &[], "sign,cert", "never");
    let packager = SigningKey::from_seed([9; 32], "Packager <p@example.org>", 1_700_000_000).unwrap();
    let file = gpg.home.path().join("packager");
    std::fs::write(&file, packager.public_key()).unwrap();
    gpg.run(&["--import", file.to_str().unwrap()]);
    let signature = packager.sign(&mut &b"bytes"[..], 1_700_000_100).unwrap();
    let print = packager.fingerprint();
    assert_eq!(
        verify(&gpg.keyring(), &signature, b"bytes"),
        Verdict::Untrusted { key: print.clone() }
    );

    gpg.run(&["--default-key", &master, "--quick-lsign-key", &print]);
    assert!(verify(&gpg.keyring(), &signature, b"bytes").is_good());

    // What `pacman-key --populate` does with the keys of a `-revoked` list.
    let commands = gpg.home.path().join("commands");
    std::fs::write(&commands, "disable\nquit\n").unwrap();
    gpg.run(&["--command-file", commands.to_str().unwrap(), "--edit-key", &print]);
    assert_eq!(
        verify(&gpg.keyring(), &signature, b"bytes"),
        Verdict::Revoked { key: print }
    );
}

#[test]
fn three_marginally_trusted_keys_make_a_fourth_valid_and_two_do_not() {
    let Some(gpg) = Gpg::new() else { return };
    let masters: Vec<String> = (0..3)
        .map(|i| gpg.key(&format!("M{i} <m{i}@example.org>"), &[], "sign,cert", "never"))
        .collect();
    let packager = SigningKey::from_seed([9; 32], "Packager <p@example.org>", 1_700_000_000).unwrap();
    let file = gpg.home.path().join("packager");
    std::fs::write(&file, packager.public_key()).unwrap();
    gpg.run(&["--import", file.to_str().unwrap()]);
    for master in &masters {
        gpg.run(&[
            "--default-key",
            master,
            "--quick-sign-key",
            &packager.fingerprint(),
        ]);
    }
    let out = gpg.home.path().join("exported");
    gpg.run(&["--output", out.to_str().unwrap(), "--export"]);
    let keys = std::fs::read(out).unwrap();
    let signature = packager.sign(&mut &b"bytes"[..], 1_700_000_100).unwrap();
    let with = |count: usize, level: u8| {
        let lines: Vec<String> = masters[..count].iter().map(|m| format!("{m}:{level}:")).collect();
        let list = lines.join("\n");
        let files = [
            (KeyringFile::Keys, "a.gpg", &keys[..]),
            (KeyringFile::Trusted, "a-trusted", list.as_bytes()),
        ];
        verify(&Keyring::read(files).unwrap(), &signature, b"bytes")
    };
    assert!(with(3, 4).is_good());
    assert!(matches!(with(2, 4), Verdict::Untrusted { .. }), "{}", with(2, 4));
    assert!(with(1, 5).is_good());
}
