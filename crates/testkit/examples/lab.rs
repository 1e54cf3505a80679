//! Parts of the outside world for scripts: a signed repository, a slow mirror, a thin line.
//!
//! `lab repo DIR KEYFILE NAME=BYTES...` writes a signed repository `lab` into DIR and its public key into KEYFILE.
//! `lab upstream DIR RATE` serves DIR over HTTP at RATE bytes a second (0 = unlimited).
//! `lab relay ADDR RATE` relays TCP to ADDR at RATE bytes a second each way.
//!
//! The servers print their address, then obey lines on stdin until it ends: `rate N`,
//! `log` (prints `PATH FIRST LAST+1` for each answer with a body, then `end`).

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};

use pacstore_testkit::{Repo, RepoSpec, ThrottledRelay, Upstream};

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
                _ => Err("say `rate N` or `log`".into()),
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
                _ => Err("say `rate N` or `log`".into()),
            })
        }
        _ => Err("lab repo DIR KEYFILE NAME=BYTES... | lab upstream DIR RATE | lab relay ADDR RATE".into()),
    }
}

fn limit(rate: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(Some(rate.parse()?).filter(|rate| *rate > 0))
}

fn repo(dir: &str, key: &str, packages: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut spec = RepoSpec::new("lab");
    for package in packages {
        let (name, size) = package.split_once('=').ok_or("write NAME=BYTES")?;
        spec = spec.package(name, size.parse()?);
    }
    let repo = Repo::create(dir, spec)?;
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
