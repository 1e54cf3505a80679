//! Whose certificates count: Mozilla's authorities and those of this machine, and none is ever left unchecked.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pacstore_testkit::{TestResult, require};

use crate::home::{Home, run};

/// `openssl` in `folder`; what it makes lies there.
fn openssl(program: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// A web server over TLS that gives the files of a folder; ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mirror_with_a_certificate_of_the_machines_own_authority_is_read_and_no_other() -> TestResult {
    let Some(program) = require("openssl") else {
        return Ok(());
    };
    let place = tempfile::tempdir()?;
    let folder = place.path();
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n")?;
    std::fs::write(folder.join("file"), b"of a mirror")?;
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=house",
        "req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=localhost",
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -out cert -days 2 -extfile names",
        "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -days 2 -subj /CN=other",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        run(openssl(&program, folder, &arguments)).done();
    }
    std::fs::write(
        folder.join("damaged.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )?;
    let arguments = [
        "s_server",
        "-WWW",
        "-accept",
        "127.0.0.1:0",
        "-cert",
        "cert",
        "-key",
        "key",
    ];
    let mut server = openssl(&program, folder, &arguments);
    let mut server = Server(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let lines = BufReader::new(server.0.stdout.take().ok_or("stdout")?).lines();
    let mut accepts = lines.map_while(Result::ok).filter_map(|line| {
        let (_, address) = line.split_once("ACCEPT ")?;
        Some(address.rsplit_once(':')?.1.trim().to_owned())
    });
    let port = accepts.next().ok_or("a port")?;

    let home = Home::empty();
    let target = folder.join("got");
    let get = |host: &str, authorities: &str| {
        let url = format!("https://{host}:{port}/file");
        let mut command = home.command(["get", &url, "-o", target.to_str().unwrap()]);
        command
            .env("SSL_CERT_FILE", folder.join(authorities))
            .env_remove("SSL_CERT_DIR");
        run(command)
    };
    for untrusted in ["other.pem", "damaged.pem", "nothing.pem"] {
        get("127.0.0.1", untrusted).fails_with(&["certificate", "trust anchor"]);
        assert!(!target.exists(), "{untrusted}");
    }
    get("localhost", "ca.pem").fails_with(&["certificate", "take the mirror's own name"]);
    assert!(!target.exists());
    get("127.0.0.1", "ca.pem").done();
    assert_eq!(std::fs::read(&target)?, b"of a mirror");
    Ok(())
}
