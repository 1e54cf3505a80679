//! Packages of repositories without importer under a keyring.

use pacstore_pacman::build::SigningKey;
use pacstore_store::Class;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::machine::{Machine, digest, folder};
use crate::nodes::TestNode;
use crate::solo::{LARGE, on_disk, solo};

/// When all of it happens: after the sample repository was made.
const TIME: u64 = 1_744_600_000;

/// A repository whose database is not signed, as Arch's, under a keyring with its own key.
struct House {
    dir: tempfile::TempDir,
    repo: Repo,
    mirror: Upstream,
    keys: std::path::PathBuf,
}

impl House {
    fn new(embed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = RepoSpec::new("core")
            .package("small", 30_000)
            .package("large", LARGE);
        let repo = Repo::create(
            dir.path(),
            RepoSpec {
                embed_signatures: embed,
                ..spec
            },
        )
        .unwrap();
        let house = Self {
            keys: dir.path().join("keys.gpg"),
            mirror: Upstream::folder(dir.path()).unwrap(),
            repo,
            dir,
        };
        house.trusts(house.repo.key());
        house.unsign("core.db");
        house
    }

    fn trusts(&self, key: &SigningKey) {
        fs_err::write(&self.keys, key.public_key()).unwrap();
    }

    fn unsign(&self, name: &str) {
        fs_err::remove_file(self.dir.path().join(format!("{name}.sig"))).unwrap();
    }

    /// The mirror has a signature of `key` beside `package`.
    fn sign(&self, package: &str, key: &SigningKey, time: u64) {
        let name = self.repo.file_name(package).unwrap();
        let bytes = on_disk(&self.repo, &name);
        let signature = key.sign(&mut &bytes[..], time).unwrap();
        fs_err::write(self.dir.path().join(format!("{name}.sig")), signature).unwrap();
    }

    async fn node(&self) -> TestNode {
        let mut plan = solo(&[&self.mirror]);
        plan.config.repositories[0].keyring = Some(self.keys.clone());
        let node = plan.start().await;
        node.pacman_bytes("core.db").await.unwrap();
        node
    }

    /// The package comes.
    async fn gives(&self, node: &TestNode, package: &str) -> TestResult {
        let name = self.repo.file_name(package)?;
        assert!(
            node.pacman_bytes(&name).await? == on_disk(&self.repo, &name),
            "{package}"
        );
        Ok(())
    }

    /// pacman is sent to the mirror for it, and the state says why.
    async fn leaves(&self, node: &TestNode, package: &str, why: &str) -> TestResult {
        let name = self.repo.file_name(package)?;
        assert_eq!(node.sent_to(&name).await, self.mirror.url(&name));
        let (_, error) = node.state().await;
        assert!(error.contains(&name) && error.contains(why), "{error}");
        // A receipt says no less, and nothing of time.
        let file = node.pacman_file(&name).await;
        let refused = node.node.give(&file, 0, file.len).await.map(drop).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains("does not come from here: ") && refused.contains(why),
            "{refused}"
        );
        Ok(())
    }
}

fn stranger(born: u64) -> SigningKey {
    SigningKey::from_seed([7; 32], "Stranger <stranger@example.org>", born).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_a_stranger_signed_is_the_mirrors_to_give_until_its_key_is_trusted() -> TestResult {
    let house = House::new(false);
    let stranger = stranger(TIME - 10);
    for package in ["small", "large"] {
        house.sign(package, &stranger, TIME);
    }
    let node = house.node().await;
    for package in ["small", "large"] {
        house.leaves(&node, package, "not in the keyring").await?;
        // On disk by now, and still not given.
        node.idle().await;
        house.leaves(&node, package, "not in the keyring").await?;
    }
    house.trusts(&stranger);
    for package in ["small", "large"] {
        house.gives(&node, package).await?;
    }
    assert_eq!(node.state().await.1, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_known_keys_and_those_without_signature_are_given() -> TestResult {
    for embed in [false, true] {
        let house = House::new(embed);
        if !embed {
            house.unsign(&house.repo.file_name("large")?);
        }
        let node = house.node().await;
        for package in ["small", "large"] {
            house.gives(&node, package).await?;
        }
        assert_eq!(node.state().await, ("current".to_owned(), String::new()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_from_outside_of_its_keys_term_is_not_good() -> TestResult {
    let house = House::new(false);
    let later = stranger(TIME);
    house.sign("small", &later, TIME - 3600);
    house.trusts(&later);
    let node = house.node().await;
    house.leaves(&node, "small", "was valid until").await
}

/// The signature that was kept is of a key that is not trusted any more; the mirror has a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_was_only_signed_anew_is_given_by_its_new_signature() -> TestResult {
    let mut house = House::new(false);
    let node = house.node().await;
    for package in ["small", "large"] {
        house.gives(&node, package).await?;
    }
    let new = stranger(TIME - 10);
    for package in ["small", "large"] {
        house.sign(package, &new, TIME);
    }
    house.trusts(&new);
    house.leaves(&node, "small", "not in the keyring").await?;
    // With the next database signatures are asked for anew.
    house.repo.update(&[])?;
    house.unsign("core.db");
    for package in ["small", "large"] {
        house.sign(package, &new, TIME);
    }
    node.rested().await;
    node.pacman_bytes("core.db").await?;
    house.mirror.clear_log();
    for package in ["small", "large"] {
        house.gives(&node, package).await?;
        assert_eq!(
            house.mirror.requests(&house.repo.file_name(package)?).len(),
            0,
            "it is here"
        );
    }
    Ok(())
}

/// Also what was fetched ahead: it is not ready, and it is not fetched again and again.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_signature_is_not_good_counts_as_missing_until_its_key_is_trusted() -> TestResult {
    let mut house = House::new(false);
    let machine = Machine::new("");
    for package in ["small", "large"] {
        machine.has(&folder(&house.repo, package));
    }
    house.repo.update(&["small", "large"])?;
    house.unsign("core.db");
    let stranger = stranger(TIME - 10);
    for package in ["small", "large"] {
        house.sign(package, &stranger, TIME);
    }
    let mut plan = machine.under(solo(&[&house.mirror]));
    plan.config.repositories[0].keyring = Some(house.keys.clone());
    let mut node = plan.start().await;
    let asked = |house: &House| -> Vec<usize> {
        let names = ["small", "large"].map(|package| house.repo.file_name(package).unwrap());
        names
            .iter()
            .map(|name| house.mirror.requests(name).len())
            .collect()
    };
    let class = |node: &TestNode, package| node.node.store().class_of_sha256(&digest(&house.repo, package));
    for round in 0..3 {
        let status = node.node.prefetch().await?;
        assert_eq!((status.ready, status.missing), (0, 2), "{round}: {status:?}");
        let waiting = status.waiting.unwrap_or_default();
        assert!(waiting.contains("not in the keyring"), "{waiting}");
        node.idle().await;
        node.node.look_at_machine().await?;
        for package in ["small", "large"] {
            assert_eq!(class(&node, package)?, Some(Class::Spare), "{package} goes first");
        }
        assert_eq!(
            asked(&house),
            [1, 1],
            "round {round}: it is here, though not given"
        );
        let error = node.state().await.1;
        assert!(
            error.contains("is not given") && error.contains("1 other"),
            "{error}"
        );
        node = node.stop().await.start().await;
        let status = node.node.prefetch_status().await;
        assert_eq!(status.ready, 0, "not before anybody looked either: {status:?}");
    }
    house.trusts(&stranger);
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (2, 0), "{status:?}");
    assert_eq!(node.state().await.1, "");
    assert_eq!(asked(&house), [1, 1]);
    node.node.look_at_machine().await?;
    assert_eq!(class(&node, "large")?, Some(Class::Needed));
    // What is evicted is no longer remembered.
    fs_err::write(&house.keys, house.repo.key().public_key())?;
    let status = node.node.prefetch().await?;
    assert_eq!(
        (status.ready, status.missing),
        (2, 0),
        "it was good when it came: {status:?}"
    );
    house.leaves(&node, "large", "not in the keyring").await?;
    assert_eq!(node.node.prefetch_status().await.missing, 1);
    for _ in 0..2 {
        node.node.gc(Some(0)).await?;
    }
    assert_eq!(node.state().await.1, "");
    Ok(())
}
