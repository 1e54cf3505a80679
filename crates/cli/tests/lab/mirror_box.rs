//! `[lan] serve`: one box is the mirror of a house of machines without pacstore.

use pacstore_testkit::{TestResult, random, require};

use crate::machine::{Machine, curl};
use crate::wire::Wire;

const NAME: &str = "house.example";

#[test]
fn one_box_is_the_mirror_of_the_lan_and_nothing_to_strangers() -> TestResult {
    let (Some(_), Some(mut wire)) = (require("curl"), Wire::new()) else {
        return Ok(());
    };
    let mut mirror = Machine::new(wire.machine("box", &["10.77.0.1/24", "10.88.0.1/24", "fd77::1/64"]));
    let guest = wire.machine("guest", &["10.77.0.2/24", "fd77::2/64"]);
    let stranger = wire.machine("stranger", &["10.88.0.2/24", "fd77:0:0:0:1::2/64"]);
    let folder = tempfile::tempdir()?;
    let bytes = random(1, 3_000_000);
    std::fs::write(folder.path().join("file"), &bytes)?;
    let base = "[gateway]\nlisten = \"127.0.0.1:0\"\n[swarm]\nlisten = []\nbootstrap = []\nmdns = false\n\
         [lan]\nserve = true\nallow = [\"10.77.0.0/24\", \"fd77::2\"]\n";
    mirror.configure(base);
    mirror.run(&["key", "new", "k"]);
    let from = folder.path().display();
    mirror.configure(&format!(
        "{base}[[import]]\nmirror = \"{NAME}\"\nfrom = \"{from}\"\nkey = \"k\"\nfiles = \"all\"\nevery = \"manual\"\n"
    ));
    mirror.run(&["import", NAME, "--once"]);
    let ready = mirror.start();
    let port = ready.split(' ').nth(1).and_then(|word| word.rsplit(':').next());
    let port = port.expect("the ready line names the port");
    assert!(ready.contains("gateway=http://127.0.0.1:"), "{ready}");

    let path = format!("ipns/{NAME}/file");
    for (host, from) in [
        ("127.0.0.1", &mirror.namespace),
        ("[::1]", &mirror.namespace),
        // By the address that the others use, of a network that is not allowed here.
        ("10.88.0.1", &mirror.namespace),
        ("10.77.0.1", &guest),
        ("[fd77::1]", &guest),
    ] {
        let (status, got) = curl(from, &format!("http://{host}:{port}/{path}"), &[]);
        assert_eq!(status, 200, "{host} from {from}");
        assert!(got == bytes, "{host} from {from}");
    }
    for host in ["10.88.0.1", "[fd77::1]"] {
        let answer = curl(&stranger, &format!("http://{host}:{port}/{path}"), &[]);
        assert_eq!(answer, (0, Vec::new()), "a stranger gets no answer at {host}");
    }
    // The name of a foreign page leads nowhere, wherever it is asked from.
    let url = format!("http://10.77.0.1:{port}/{path}");
    let (status, _) = curl(&guest, &url, &["-H", "Host: evil.example"]);
    assert_eq!(status, 403);
    let (status, _) = curl(&guest, &url, &["-X", "POST"]);
    assert_eq!(status, 405, "nothing is changed over the LAN");
    Ok(())
}
