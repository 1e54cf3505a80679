//! What `dist/` ships: a unit that is closed, a package that has all of it, examples that are right.

use std::path::Path;
use std::process::Command;

use pacstore_testkit::{TestResult, require};

use crate::home::{Home, PACSTORE, run};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The most exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "20";

#[test]
fn the_unit_is_closed_as_systemd_measures_it() -> TestResult {
    let Some(analyze) = require("systemd-analyze") else {
        return Ok(());
    };
    let unit = Path::new(ROOT).join("dist/pacstore.service");
    let ran = Command::new(analyze)
        .args([
            "security",
            "--offline=true",
            "--no-pager",
            "--threshold",
            EXPOSURE,
        ])
        .arg(&unit)
        .env("SYSTEMD_LOG_LEVEL", "err")
        .output()?;
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        said.contains("Overall exposure level"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        ran.status.success(),
        "{}",
        said.lines().last().unwrap_or_default()
    );
    Ok(())
}

/// Every word of the units is one that systemd knows.
#[test]
fn the_units_are_understood_by_systemd() -> TestResult {
    let Some(analyze) = require("systemd-analyze") else {
        return Ok(());
    };
    let unit = std::fs::read_to_string(Path::new(ROOT).join("dist/pacstore.service"))?;
    // The program has to be there.
    let unit = unit.replace("/usr/bin/pacstore", PACSTORE);
    let socket = std::fs::read_to_string(Path::new(ROOT).join("dist/pacstore.socket"))?;
    let folder = tempfile::tempdir()?;
    let said = |unit: &str, socket: &str| -> std::io::Result<String> {
        let paths = ["service", "socket"].map(|kind| folder.path().join(format!("pacstore.{kind}")));
        std::fs::write(&paths[0], unit)?;
        std::fs::write(&paths[1], socket)?;
        let ran = Command::new(&analyze)
            .args(["verify", "--man=no"])
            .args(&paths)
            .output()?;
        let failed = if ran.status.success() { "" } else { "failed: " };
        Ok(format!("{failed}{}", String::from_utf8_lossy(&ran.stderr)))
    };
    let about = |text: String| -> Vec<String> {
        let ours = text.lines().filter(|line| line.contains("pacstore"));
        ours.map(str::to_owned).collect()
    };
    assert_eq!(about(said(&unit, &socket)?), Vec::<String>::new());
    let wrong = about(said(&unit.replace("ProtectClock=", "ProtectClok="), &socket)?);
    assert!(wrong.iter().any(|line| line.contains("ProtectClok")), "{wrong:?}");
    let wrong = about(said(&unit, &socket.replace("Backlog=", "Backlg="))?);
    assert!(wrong.iter().any(|line| line.contains("Backlg")), "{wrong:?}");
    Ok(())
}

/// The real systemctl enables the service in a system that is mounted, without a running systemd.
#[test]
fn setup_of_a_mounted_system_enables_the_service_there_and_undo_disables_it() -> TestResult {
    if require("systemctl").is_none() {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let at = |path: &str| root.path().join(path);
    for folder in ["etc", "usr/lib/systemd/system"] {
        std::fs::create_dir_all(at(folder))?;
    }
    std::fs::write(
        at("etc/pacman.conf"),
        "[options]\nArchitecture = x86_64\n[core]\nServer = https://a.example/$repo/os/$arch\n",
    )?;
    let setup = |more: &[&str]| {
        let mut command = Command::new(PACSTORE);
        command.env_remove("PACSTORE_HOME").args(["setup", "--root"]);
        command.arg(root.path()).args(more);
        run(command).done().err
    };
    let wanted = at("etc/systemd/system/multi-user.target.wants/pacstore.service");
    assert!(
        setup(&[]).contains("no pacstore.service below"),
        "it is not installed there"
    );
    std::fs::copy(
        Path::new(ROOT).join("dist/pacstore.service"),
        at("usr/lib/systemd/system/pacstore.service"),
    )?;
    setup(&["--no-service"]);
    setup(&["--dry-run"]);
    assert!(wanted.symlink_metadata().is_err(), "left alone");
    for _ in 0..2 {
        setup(&[]);
        assert!(wanted.symlink_metadata()?.is_symlink());
    }
    setup(&["--undo"]);
    assert!(wanted.symlink_metadata().is_err());
    Ok(())
}

/// What the daemon asks of the unit: told when ready, restarted when silent, stopped in time.
#[test]
fn the_unit_fits_the_daemon() -> TestResult {
    let unit = std::fs::read_to_string(Path::new(ROOT).join("dist/pacstore.service"))?;
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/pacstore daemon",
        "Restart=always",
        "StateDirectory=pacstore",
        "RuntimeDirectory=pacstore",
        "WatchdogSec=2min",
        "FileDescriptorStoreMax=8",
    ] {
        assert!(unit.lines().any(|known| known == line), "{line}");
    }
    // mDNS and the interfaces need netlink, pressure needs more of /proc than processes.
    assert!(unit.contains("AF_NETLINK") && unit.contains("ProcSubset=all"));
    Ok(())
}

/// The socket unit has the address that the daemon expects where nothing else is configured.
#[test]
fn the_socket_unit_is_for_the_default_address() -> TestResult {
    let unit = std::fs::read_to_string(Path::new(ROOT).join("dist/pacstore.socket"))?;
    let reference = Home::empty().run(["config", "reference"]).done().out;
    let stream = unit.lines().find_map(|line| line.strip_prefix("ListenStream="));
    let listen = format!("# listen = \"{}\" ", stream.expect("an address"));
    assert!(
        reference.lines().any(|line| line.starts_with(&listen)),
        "no `{listen}`"
    );
    Ok(())
}

#[test]
fn the_example_of_an_importer_is_right_but_for_its_key() -> TestResult {
    let text = std::fs::read_to_string(Path::new(ROOT).join("dist/importer.toml"))?;
    let home = Home::with(&text);
    home.run(["key", "new", "mirror"]).done();
    home.run(["config", "check"]).done();
    Ok(())
}

/// Runs a part of PKGBUILD in a shell of its own, as makepkg would.
fn pkgbuild(script: &str, home: &Path) -> std::io::Result<std::process::Output> {
    let source = home.join("src");
    std::fs::create_dir_all(&source)?;
    let tree = source.join("pacstore");
    if !tree.exists() {
        std::os::unix::fs::symlink(std::fs::canonicalize(ROOT)?, tree)?;
    }
    Command::new("bash")
        .arg("-euc")
        .arg(format!("CARCH=x86_64; . \"$0\"; cd \"$srcdir\"; {script}"))
        .arg(Path::new(ROOT).join("dist/PKGBUILD"))
        .env("srcdir", &source)
        .env("pkgdir", home.join("pkg"))
        .env("PACSTORE_PROGRAM", PACSTORE)
        .output()
}

#[test]
fn the_package_has_program_units_completions_manuals_and_documents() -> TestResult {
    if require("bash").is_none() {
        return Ok(());
    }
    let home = tempfile::tempdir()?;
    let ran = pkgbuild("package", home.path())?;
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for file in [
        "usr/bin/pacstore",
        "etc/pacstore/pacstore.toml",
        "usr/lib/systemd/system/pacstore.service",
        "usr/lib/systemd/system/pacstore.socket",
        "usr/lib/sysusers.d/pacstore.conf",
        "usr/lib/tmpfiles.d/pacstore.conf",
        "usr/share/bash-completion/completions/pacstore",
        "usr/share/zsh/site-functions/_pacstore",
        "usr/share/fish/vendor_completions.d/pacstore.fish",
        "usr/share/man/man1/pacstore.1",
        "usr/share/man/man1/pacstore-alert.1",
        "usr/share/man/man1/pacstore-heads.1",
        "usr/share/doc/pacstore/importer.md",
        "usr/share/doc/pacstore/importer.toml",
        "usr/share/licenses/pacstore/LICENSE",
    ] {
        let path = home.path().join("pkg").join(file);
        assert!(
            std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 10),
            "{file}"
        );
    }
    // It is of this version.
    let version = pkgbuild("echo \"$pkgver ${license[0]}\"", home.path())?;
    let version = String::from_utf8(version.stdout)?;
    assert_eq!(
        version.trim(),
        concat!(env!("CARGO_PKG_VERSION"), " GPL-3.0-or-later")
    );
    Ok(())
}

#[test]
fn makepkg_reads_the_package_description() -> TestResult {
    let (Some(makepkg), Some(setpriv)) = (require("makepkg"), require("setpriv")) else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    std::fs::copy(
        Path::new(ROOT).join("dist/PKGBUILD"),
        folder.path().join("PKGBUILD"),
    )?;
    let mut command = if rustix::process::geteuid().is_root() {
        // makepkg does not run as root.
        let mut command = Command::new(setpriv);
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(makepkg);
        command
    } else {
        Command::new(makepkg)
    };
    let ran = command
        .arg("--printsrcinfo")
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .output()?;
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        said.contains("pkgname = pacstore") && said.contains("backup = etc/pacstore/pacstore.toml"),
        "{said}"
    );
    Ok(())
}
