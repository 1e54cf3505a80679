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

/// A server with this certificate, and its port.
fn serve(
    program: &Path,
    folder: &Path,
    certificate: &str,
) -> Result<(Server, String), Box<dyn std::error::Error + Send + Sync>> {
    let arguments = [
        "s_server",
        "-WWW",
        "-accept",
        "127.0.0.1:0",
        "-cert",
        certificate,
        "-key",
        "key",
    ];
    let mut server = openssl(program, folder, &arguments);
    let mut server = Server(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let lines = BufReader::new(server.0.stdout.take().ok_or("stdout")?).lines();
    let mut accepts = lines.map_while(Result::ok).filter_map(|line| {
        let (_, address) = line.split_once("ACCEPT ")?;
        Some(address.rsplit_once(':')?.1.trim().to_owned())
    });
    let port = accepts.next().ok_or("a port")?;
    Ok((server, port))
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
    let (_server, port) = serve(&program, folder, "cert")?;

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

/// The other reason is a clock that is wrong.
#[test]
fn a_certificate_that_is_over_is_called_that() -> TestResult {
    let Some(program) = require("openssl") else {
        return Ok(());
    };
    let place = tempfile::tempdir()?;
    let folder = place.path();
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n")?;
    std::fs::write(folder.join("index"), "")?;
    let authority = [
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nrand_serial=yes\nnew_certs_dir=.\n",
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n",
    ];
    std::fs::write(folder.join("ca.cnf"), authority.concat())?;
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=house",
        "req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=localhost",
        "ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in request -out cert -extfile names \
         -startdate 20200101000000Z -enddate 20200102000000Z",
    ] {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        run(openssl(&program, folder, &arguments)).done();
    }
    let (_server, port) = serve(&program, folder, "cert")?;
    let target = folder.join("got");
    let url = format!("https://127.0.0.1:{port}/file");
    let home = Home::empty();
    let mut get = home.command(["get", &url, "-o", target.to_str().unwrap()]);
    get.env("SSL_CERT_FILE", folder.join("ca.pem"))
        .env_remove("SSL_CERT_DIR");
    run(get).fails_with(&["certificate", "hint: its certificate is over"]);
    assert!(!target.exists());
    Ok(())
}
