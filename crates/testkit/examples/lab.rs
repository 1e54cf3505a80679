//! Parts of the outside world for scripts: a signed repository, a slow mirror, a thin line.
//!
//! `lab repo DIR KEYFILE NAME=BYTES... +NAME...` writes a signed repository `lab` into DIR and its public key into
//! KEYFILE; packages with `+` are in their second release. The same words give the same bytes.
//! `lab upstream DIR RATE` serves DIR over HTTP at RATE bytes a second (0 = unlimited).
//! `lab relay ADDR RATE` relays TCP to ADDR at RATE bytes a second each way.
//!
//! The servers print their address, then obey lines on stdin until it ends: `rate N`,
//! `log` (prints `PATH FIRST LAST+1` for each answer with a body, then `end`; a relay `down BYTES`), `heal`,
//! of an upstream `refuse PATTERN` (503) and `stall PATTERN` (no answer), of a relay `cut N` (it dies after N more
//! bytes) and `stop` (it is dead).

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};

use pacstore_testkit::{Fault, Repo, RepoSpec, ThrottledRelay, Upstream};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["repo", dir, key, ref packages @ ..] => repo(dir, key, packages),
        ["upstream", dir, rate] => {
            let upstream = Upstream::folder(dir)?;
            upstream.limit(limit(rate)?);
            obey(&upstream.url("/"), |line| match line {
                ["rate", rate] => {
                    upstream.limit(limit(rate)?);
                    Ok(())
                }
                ["log"] => {
                    let mut out = io::stdout().lock();
                    for request in upstream.log() {
                        let bytes = request.bytes();
                        writeln!(out, "{} {} {}", request.path, bytes.start, bytes.end)?;
                    }
                    writeln!(out, "end")?;
                    Ok(out.flush()?)
                }
                ["refuse", pattern] => {
                    upstream.fault(pattern, Fault::Status(503));
                    Ok(())
                }
                ["stall", pattern] => {
                    upstream.fault(pattern, Fault::NoAnswer);
                    Ok(())
                }
                ["heal"] => {
                    upstream.heal();
                    Ok(())
                }
                _ => Err("say `rate N`, `log`, `refuse PATTERN`, `stall PATTERN` or `heal`".into()),
            })
        }
        ["relay", target, rate] => {
            let relay = ThrottledRelay::start(target.parse()?, limit(rate)?)?;
            obey(&relay.address().to_string(), |line| match line {
                ["rate", rate] => {
                    relay.set_rate(limit(rate)?);
                    Ok(())
                }
                ["log"] => {
                    let mut out = io::stdout().lock();
                    writeln!(out, "down {}\nend", relay.down())?;
                    Ok(out.flush()?)
                }
                ["cut", bytes] => {
                    relay.cut_after(bytes.parse()?);
                    Ok(())
                }
                ["stop"] => {
                    relay.cut_after(0);
                    relay.cut();
                    Ok(())
                }
                ["heal"] => {
                    relay.heal();
                    Ok(())
                }
                _ => Err("say `rate N`, `log`, `cut N`, `stop` or `heal`".into()),
            })
        }
        _ => Err(
            "lab repo DIR KEYFILE NAME=BYTES... +NAME... | lab upstream DIR RATE | lab relay ADDR RATE"
                .into(),
        ),
    }
}

fn limit(rate: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(Some(rate.parse()?).filter(|rate| *rate > 0))
}

fn repo(dir: &str, key: &str, packages: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut spec = RepoSpec::new("lab");
    let (newer, first): (Vec<&str>, Vec<&str>) = packages.iter().partition(|word| word.starts_with('+'));
    for package in first {
        let (name, size) = package.split_once('=').ok_or("write NAME=BYTES")?;
        spec = spec.package(name, size.parse()?);
    }
    let mut repo = Repo::create(dir, spec)?;
    let newer: Vec<&str> = newer.iter().map(|word| &word[1..]).collect();
    if !newer.is_empty() {
        repo.update(&newer)?;
    }
    std::fs::write(key, repo.key().public_key())?;
    Ok(())
}

fn obey(
    address: &str,
    mut order: impl FnMut(&[&str]) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()?;
    drop(out);
    for line in io::stdin().lock().lines() {
        let line = line?;
        order(&line.split_whitespace().collect::<Vec<_>>())?;
    }
    Ok(())
}
