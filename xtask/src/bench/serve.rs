//! `bench serve`: the gateway under load, beside nginx with sendfile over the same files.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::client::{Connection, Load, load};
use super::corpus::Noise;
use super::lab::{self, Home, NAME};
use super::table::Table;
use super::{Args, median, say};

/// Name, length in bytes, connections, goal.
const FILES: [(&str, u64, usize, f64); 3] = [
    ("100KiB", 100 << 10, 16, 0.6),
    ("3MiB", 3 << 20, 16, 0.75),
    ("100MiB", 100 << 20, 4, 0.95),
];

/// How much longer than with nginx one request of a hundred may take.
const P99: f64 = 2.0;

/// Measures both in turn.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (bin, dir) = lab::prepare(args)?;
    let mut table = Table::default();
    warm(args, (&bin, dir.path()), &mut table)?;
    table.print();
    Ok(())
}

/// The rows of files that are here.
pub(super) fn warm(args: &Args, (bin, dir): (&Path, &Path), table: &mut Table) -> anyhow::Result<()> {
    let from = dir.join("mirror");
    fs::create_dir_all(&from)?;
    for (name, len, ..) in FILES {
        Noise::new(len).file(&from.join(name), len)?;
    }
    let home = Home::importer(
        bin,
        &dir.join("home"),
        &from,
        "files = \"all\"\nreplaced_by_rename = true",
    )?;
    home.import(&[0])?;
    let node = home.start()?;
    let nginx = Nginx::start(dir, &from)?;
    let wrk = find("wrk");
    say(&format!(
        "# {}; {} s a pass, {} passes in turn",
        if wrk.is_some() {
            "wrk with 2 threads"
        } else {
            "no wrk here: own client"
        },
        args.seconds,
        args.passes
    ));
    let time = Duration::from_secs(args.seconds);
    let measure = |host: &str, path: &str, connections: usize| match &wrk {
        Some(wrk) => with_wrk(wrk, host, path, connections, time),
        None => load(host, path, connections, time),
    };
    for (name, _, connections, goal) in FILES {
        let path = format!("/ipns/{NAME}/{name}");
        Connection::open(&node.gateway)?.get(&path)?;
        let (mut own, mut other) = (Vec::new(), Vec::new());
        let (mut cpu, mut answers) = (0.0, 0.0);
        for _ in 0..args.passes {
            if let Some(nginx) = &nginx {
                other.push(measure(&nginx.host, &format!("/{name}"), connections)?);
            }
            let before = node.cpu_seconds();
            let one = measure(&node.gateway, &path, connections)?;
            cpu += node.cpu_seconds() - before;
            answers += one.per_second * args.seconds as f64;
            own.push(one);
        }
        rows(table, name, goal, &own, &other);
        table.tell(
            "  processor time a request",
            &format!("{:.3} ms", cpu / answers * 1e3),
        );
    }
    table.limit("peak memory", node.peak_mb(), "MB", 96.0 * 1.048_576);
    Ok(())
}

fn rows(table: &mut Table, name: &str, goal: f64, own: &[Load], other: &[Load]) {
    let middle = |all: &[Load], of: fn(&Load) -> f64| median(all.iter().map(of).collect());
    let tell = format!(
        "p50 {:.2} ms, p99 {:.2} ms",
        middle(own, |l| l.p50_ms),
        middle(own, |l| l.p99_ms)
    );
    if other.is_empty() {
        table.tell(
            &format!("serve {name}, no nginx here"),
            &format!("{:.0} /s", middle(own, |l| l.per_second)),
        );
        table.tell("  times", &tell);
        return;
    }
    let of = |of: fn(&Load) -> f64| (middle(own, of), middle(other, of));
    let (mine, anchor) = of(|l| l.per_second);
    table.at_least(&format!("serve {name}"), mine, anchor, "/s", goal);
    let (mine, anchor) = of(|l| l.p99_ms);
    table.at_most("  p99", mine, anchor, "ms", P99);
    let (mine, anchor) = of(|l| l.p50_ms);
    table.tell("  p50", &format!("{mine:.2} ms, nginx {anchor:.2} ms"));
}

fn with_wrk(wrk: &Path, host: &str, path: &str, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let out = Command::new(wrk)
        .args(["-t2", "--latency", "--timeout", "30s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", time.as_secs()))
        .arg(format!("http://{host}{path}"))
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "wrk failed: {text}");
    ensure!(!text.contains("Non-2xx"), "not all answers were good: {text}");
    let word = |start: &str| {
        let mut lines = text.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix(start));
        line.map(|rest| rest.trim().to_owned())
            .with_context(|| format!("wrk does not tell {start}: {text}"))
    };
    Ok(Load {
        per_second: word("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(&word("50%")?)?,
        p99_ms: milliseconds(&word("99%")?)?,
    })
}

/// `wrk` writes `950.00us`, `1.20ms` or `1.05s`.
fn milliseconds(text: &str) -> anyhow::Result<f64> {
    let (number, factor) = match text {
        _ if text.ends_with("us") => (text.trim_end_matches("us"), 1e-3),
        _ if text.ends_with("ms") => (text.trim_end_matches("ms"), 1.0),
        _ => (text.trim_end_matches('s'), 1e3),
    };
    Ok(number
        .parse::<f64>()
        .with_context(|| format!("not a time: {text}"))?
        * factor)
}

pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The anchor.
pub(super) struct Nginx {
    child: Child,
    pub(super) host: String,
}

impl Nginx {
    /// Two workers with sendfile over `files`; nothing if nginx is not installed.
    pub(super) fn start(dir: &Path, files: &Path) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("nginx") else {
            return Ok(None);
        };
        let dir = dir.join("nginx");
        // Free now; taken again in a moment.
        let host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = nginx_config(&dir, files, &host, "")?;
        let child = Command::new(program)
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("err"))?)
            .spawn()?;
        let nginx = Self { child, host };
        let until = Instant::now() + Duration::from_secs(10);
        while Connection::open(&nginx.host).is_err() {
            ensure!(
                Instant::now() < until,
                "nginx does not start: {}",
                fs::read_to_string(dir.join("err"))?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(nginx))
    }
}

/// Writes the configuration of an nginx with its files in `dir` and gives its path; `more` goes into the server.
pub(super) fn nginx_config(dir: &Path, files: &Path, host: &str, more: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let config = format!(
        "daemon off; {user} worker_processes 2; pid {dir}/pid; error_log {dir}/log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;\n\
         uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;\n\
         server {{ listen {host}; root {files}; {more} }} }}\n",
        dir = dir.display(),
        files = files.display()
    );
    let path = dir.join("conf");
    fs::write(&path, config)?;
    Ok(path)
}

impl Drop for Nginx {
    fn drop(&mut self) {
        lab::end(&mut self.child);
    }
}
