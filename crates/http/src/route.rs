//! What a request asks for, by its Host and path.
//!
//! - Invariant: a path that could mean anything but one file of one mirror (`..`, an
//!   encoded slash, NUL, too long) is refused before anything looks at it.

use pacstore_names::{PathError, parse_request_path};

use crate::host::Host;

/// A place that can be asked for. Segments are raw bytes, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The page that says what this is.
    Home,
    /// `/ipns/NAME/PATH` or a subdomain.
    Ipns {
        name: String,
        path: Vec<Vec<u8>>,
        slash: bool,
    },
    /// `/ipfs/CID/PATH` or a subdomain.
    Ipfs {
        cid: String,
        path: Vec<Vec<u8>>,
        slash: bool,
    },
    /// `/pacman/REPO/ARCH/FILE`.
    Pacman {
        repo: String,
        arch: String,
        file: Vec<u8>,
    },
    /// Nothing of ours.
    Unknown,
}

/// Reads `path` (still percent-encoded, without query) of a request to `host`.
pub(crate) fn route(host: &Host, path: &str) -> Result<Route, PathError> {
    let parsed = parse_request_path(path)?;
    let slash = parsed.trailing_slash;
    let segments = parsed.segments;
    match host {
        Host::Ipns(name) => {
            return Ok(Route::Ipns {
                name: name.clone(),
                path: segments,
                slash,
            });
        }
        Host::Ipfs(cid) => {
            return Ok(Route::Ipfs {
                cid: cid.clone(),
                path: segments,
                slash,
            });
        }
        Host::Plain | Host::Foreign => {}
    }
    let text = |segment: &Vec<u8>| String::from_utf8(segment.clone()).ok();
    Ok(match &segments[..] {
        [] => Route::Home,
        [space, name, rest @ ..] if space == b"ipns" || space == b"ipfs" => match text(name) {
            Some(name) if space == b"ipns" => Route::Ipns {
                name,
                path: rest.to_vec(),
                slash,
            },
            Some(cid) => Route::Ipfs {
                cid,
                path: rest.to_vec(),
                slash,
            },
            None => Route::Unknown,
        },
        [space, repo, arch, file] if space == b"pacman" => match (text(repo), text(arch)) {
            (Some(repo), Some(arch)) => Route::Pacman {
                repo,
                arch,
                file: file.clone(),
            },
            _ => Route::Unknown,
        },
        _ => Route::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str) -> Route {
        route(&Host::Plain, path).expect("a path")
    }

    #[test]
    fn reads_the_three_forms() {
        let ipns = Route::Ipns {
            name: "a.b".into(),
            path: vec![b"core".to_vec(), b"x y".to_vec()],
            slash: false,
        };
        assert_eq!(plain("/ipns/a.b/core/x%20y"), ipns);
        assert_eq!(
            plain("/ipns/a.b/"),
            Route::Ipns {
                name: "a.b".into(),
                path: vec![],
                slash: true
            }
        );
        let pacman = Route::Pacman {
            repo: "extra".into(),
            arch: "x86_64".into(),
            file: b"extra.db".to_vec(),
        };
        assert_eq!(plain("/pacman/extra/x86_64/extra.db"), pacman);
        assert_eq!(plain("/pacman/extra/x86_64/os/extra.db"), Route::Unknown);
        assert_eq!(plain("/"), Route::Home);
        let sub = route(&Host::Ipns("a.b".into()), "/core/core.db").expect("a path");
        assert_eq!(
            sub,
            Route::Ipns {
                name: "a.b".into(),
                path: vec![b"core".to_vec(), b"core.db".to_vec()],
                slash: false
            }
        );
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for bad in [
            "/ipns/a/../b",
            "/ipns/a/%2e%2e/b",
            "/ipns/a/b%2fc",
            "/ipns/a/%00",
            "/ipns/../../etc/passwd",
        ] {
            assert!(route(&Host::Plain, bad).is_err(), "{bad}");
        }
        assert!(route(&Host::Plain, &format!("/ipns/a/{}", "x".repeat(100_000))).is_err());
    }
}
