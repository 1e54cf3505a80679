//! Which names a machine asks for: those of its mirrors, and no other.
//!
//! A name server in the network writes down every question. A daemon with a private and a public repository, a mirror
//! that it follows and the DHT serves pacman; then the questions are read.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use pacstore_testkit::{Repo, RepoSpec, TestResult, require};

use crate::machine::{Machine, curl, gateway, until};
use crate::wire::{Wire, inside};

/// Answers each question with the address of the mirrors, and prints its name.
const SERVER: &str = r#"
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("203.0.113.53", 53))
print("ready", flush=True)
while True:
    q, who = s.recvfrom(2048)
    at, name = 12, []
    while q[at]:
        name.append(q[at + 1:at + 1 + q[at]].decode())
        at += 1 + q[at]
    kind = struct.unpack(">H", q[at + 1:at + 3])[0]
    print(".".join(name), flush=True)
    answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + bytes([203, 0, 113, 1]) if kind == 1 else b""
    s.sendto(q[:2] + b"\x81\x80\x00\x01" + struct.pack(">H", 1 if answer else 0) + bytes(4) + q[12:at + 5] + answer, who)
"#;

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/etc/resolv.conf` of a namespace; gone with the test.
struct ResolvConf(PathBuf);

impl ResolvConf {
    fn new(namespace: &str) -> std::io::Result<Self> {
        let folder = Path::new("/etc/netns").join(namespace);
        std::fs::create_dir_all(&folder)?;
        let this = Self(folder);
        std::fs::write(this.0.join("resolv.conf"), "nameserver 203.0.113.53\n")?;
        // Names of files and hosts of this machine play no part.
        std::fs::write(this.0.join("hosts"), "127.0.0.1 localhost\n")?;
        std::fs::write(this.0.join("nsswitch.conf"), "hosts: files dns\n")?;
        Ok(this)
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // Stays if others stand there.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

fn name_server(namespace: &str) -> (Program, Arc<Mutex<Vec<String>>>) {
    let mut command = inside(namespace, "python3");
    let mut child = command
        .args(["-c", SERVER])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            heard.lock().unwrap().push(line);
        }
    });
    until("the name server is ready", || {
        (!asked.lock().unwrap().is_empty()).then_some(())
    });
    asked.lock().unwrap().clear();
    (Program(child), asked)
}

fn web_server(namespace: &str, root: &Path) -> Program {
    let mut command = inside(namespace, "python3");
    command.args(["-m", "http.server", "80", "--bind", "203.0.113.1", "--directory"]);
    command.arg(root).stdout(Stdio::null()).stderr(Stdio::null());
    Program(command.spawn().unwrap())
}

#[test]
fn the_name_server_hears_the_names_of_mirrors_and_nothing_else() -> TestResult {
    if [require("curl"), require("python3")].iter().any(Option::is_none) {
        return Ok(());
    }
    let Some(mut wire) = Wire::new() else {
        return Ok(());
    };
    let outside = wire.machine("out", &["203.0.113.1/24", "203.0.113.53/24"]);
    let folder = tempfile::tempdir()?;
    let open = Repo::create(
        folder.path().join("open"),
        RepoSpec::new("core").package("a", 20_000),
    )?;
    let spec = RepoSpec::new("hushhouse")
        .package("b", 20_000)
        .package("large", 3_000_000);
    let hush = Repo::create(folder.path().join("hush"), spec)?;
    let _web = web_server(&outside, folder.path());
    let (_names, asked) = name_server(&outside);

    let namespace = wire.machine("one", &["203.0.113.2/24"]);
    let _conf = ResolvConf::new(&namespace)?;
    let mut machine = Machine::new(namespace);
    machine.configure(
        "[gateway]\nlisten = \"127.0.0.1:0\"\n\
         [swarm]\nbootstrap = []\nlisten = [\"/ip4/203.0.113.2/tcp/4001\"]\ndht = \"server\"\n\
         [share]\nannounce = true\n\
         [[mirror]]\nname = \"follow.example\"\nimporters = [\"k51qzi5uqu5dgixyyha6tdj6z8iw4ltp41cstc46ujo2yrc7i4wyy2vk00thlx\"]\n\
         [[repository]]\nname = \"core\"\nupstreams = \"http://open-mirror.example/open/\"\npublic = true\n\
         [[repository]]\nname = \"hushhouse\"\nupstreams = \"http://own-mirror.example/hush/\"\n",
    );
    let gateway = gateway(&machine.start());
    for repo in [&open, &hush] {
        let name = repo.name();
        let mut files = vec![format!("{name}.db"), format!("{name}.db.sig")];
        files.extend(repo.packages().iter().map(|package| package.file_name.clone()));
        for file in files {
            let url = format!("{gateway}/pacman/{name}/x86_64/{file}");
            let (status, body) = curl(&machine.namespace, &url, &[]);
            assert!(
                status == 200 && body == std::fs::read(repo.folder().join(&file))?,
                "{file}: {status}"
            );
        }
    }
    // A subdomain of localhost is this machine itself, and a file that is not there no reason to ask.
    curl(
        &machine.namespace,
        &format!("{gateway}/ipns/follow.example/x"),
        &[],
    );
    curl(
        &machine.namespace,
        &format!("{gateway}/pacman/hushhouse/x86_64/none-1-1-any.pkg.tar.zst"),
        &[],
    );
    machine.stop();
    let heard: BTreeSet<String> = asked.lock().unwrap().iter().cloned().collect();
    let wanted = ["open-mirror.example", "own-mirror.example"].map(String::from);
    assert_eq!(heard, BTreeSet::from(wanted));
    Ok(())
}
