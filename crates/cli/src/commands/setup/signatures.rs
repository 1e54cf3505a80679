//! Whose signatures count: pacman's own keyring, where `SigLevel` has pacman check them.
//!
//! - Invariant: never stricter than pacman: a repository whose packages or databases pacman takes without a trusted signature
//!   is left to pacman.
//! - Invariant: no keyring is named that the daemon could not read.
//! - Not here: checking (`pacstore-node`, `repository/good.rs`).

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pacstore_pacman::openpgp::KeyringFile;
use pacstore_pacman::{RepositorySettings, Settings};

/// pacman's keyring, where `GPGDir` does not say another.
const USUAL: &str = "/etc/pacman.d/gnupg";

/// What pacman checks of one kind of file.
#[derive(Clone, Copy, Debug)]
struct Level {
    checked: bool,
    trusted_only: bool,
}

impl Level {
    fn apply(&mut self, word: &str) {
        match word {
            "Never" => self.checked = false,
            "Optional" | "Required" => self.checked = true,
            "TrustedOnly" => self.trusted_only = true,
            "TrustAll" => self.trusted_only = false,
            _ => {}
        }
    }
}

/// pacman takes nothing of `repository` that is signed by a key it does not trust.
pub(crate) fn count(settings: &Settings, repository: &RepositorySettings) -> bool {
    // pacman's own default.
    let usual = Level {
        checked: true,
        trusted_only: true,
    };
    let (mut packages, mut databases) = (usual, usual);
    for word in settings.options.sig_level.iter().chain(&repository.sig_level) {
        if let Some(word) = word.strip_prefix("Package") {
            packages.apply(word);
        } else if let Some(word) = word.strip_prefix("Database") {
            databases.apply(word);
        } else {
            packages.apply(word);
            databases.apply(word);
        }
    }
    [packages, databases]
        .iter()
        .all(|level| level.checked && level.trusted_only)
}

/// Where pacman's keys are, if the daemon, which is another user, can read them.
pub(crate) fn keyring(settings: &Settings) -> Option<String> {
    let said = settings.options.gpg_dir.as_deref().unwrap_or(USUAL);
    let dir = said.trim_end_matches('/');
    let path = Path::new(dir);
    if !path.is_absolute() || !for_all(path, 0o005) {
        return None;
    }
    let mut entries = fs_err::read_dir(path).ok()?.take(1000).filter_map(Result::ok);
    let all = entries.all(|entry| {
        let part = KeyringFile::of(&entry.file_name().to_string_lossy()).is_some();
        !part || for_all(&entry.path(), 0o004)
    });
    (all && pacstore_import::read_keyring(path).is_ok()).then(|| dir.to_owned())
}

/// Everybody has these rights; whoever is not root runs the daemon as himself.
fn for_all(path: &Path, rights: u32) -> bool {
    let mode = fs_err::metadata(path).map(|meta| meta.permissions().mode());
    mode.is_ok_and(|mode| !rustix::process::geteuid().is_root() || mode & rights == rights)
}

#[cfg(test)]
mod tests {
    use pacstore_pacman::Conf;

    use super::*;

    fn counts(options: &str, repository: &str) -> bool {
        let text = format!("[options]\n{options}\n[core]\nServer = https://a.example\n{repository}\n");
        let settings = Settings::read(&Conf::parse(text.as_bytes()), &mut |_| Vec::new()).expect("settings");
        count(&settings, &settings.repositories[0])
    }

    #[test]
    fn signatures_count_where_pacman_demands_trusted_ones() {
        for (options, repository, expected) in [
            ("", "", true),
            ("SigLevel = Required DatabaseOptional", "", true),
            (
                "SigLevel = Required DatabaseOptional",
                "SigLevel = PackageRequired",
                true,
            ),
            ("SigLevel = Never", "SigLevel = Required TrustedOnly", true),
            ("SigLevel = Never", "", false),
            ("SigLevel = Required DatabaseNever", "", false),
            ("", "SigLevel = Optional TrustAll", false),
            ("", "SigLevel = PackageTrustAll", false),
            ("SigLevel = TrustAll", "SigLevel = PackageTrustedOnly", false),
        ] {
            assert_eq!(counts(options, repository), expected, "{options} / {repository}");
        }
    }

    #[test]
    fn a_keyring_is_named_if_all_may_read_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let gnupg = dir.path().join("gnupg");
        fs_err::create_dir(&gnupg).expect("a folder");
        let mode = |path: &Path, mode| {
            fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        mode(&gnupg, 0o755);
        let text = format!("[options]\nGPGDir = {}/\n", gnupg.display());
        let settings = Settings::read(&Conf::parse(text.as_bytes()), &mut |_| Vec::new()).expect("settings");
        assert_eq!(keyring(&settings), None, "no keys in it");
        let key = pacstore_pacman::build::SigningKey::from_seed([1; 32], "a <a@example.org>", 1_700_000_000);
        let file = gnupg.join("pubring.gpg");
        fs_err::write(&file, key.expect("a key").public_key()).expect("written");
        mode(&file, 0o644);
        assert_eq!(keyring(&settings).as_deref(), gnupg.to_str());
        mode(&file, 0o600);
        let own = !rustix::process::geteuid().is_root();
        assert_eq!(keyring(&settings).is_some(), own, "the daemon is another user");
    }
}
