//! What may stand as an rsync source: a daemon's URL, and nothing that rsync reads otherwise.
//!
//! - Invariant: no other transport (ssh `host:path`), no option, no local path passes.

use url::Url;

use super::RsyncError;

/// Checks that `source` is `rsync://host[:port]/module...`.
pub(crate) fn checked_source(source: &str) -> Result<(), RsyncError> {
    let refuse = || RsyncError::Source(source.chars().take(200).collect());
    let url = Url::parse(source).map_err(|_| refuse())?;
    let module = url.path().trim_start_matches('/');
    let climbs = source.split('/').any(|part| part == "..");
    let plain = source.starts_with("rsync://") && !source.chars().any(char::is_control);
    if !plain || url.host_str().is_none_or(str::is_empty) || module.is_empty() || climbs {
        return Err(refuse());
    }
    Ok(())
}

/// A checked source as its module, with a slash at the end, and the folder in it; `""` for the module itself.
pub(crate) fn split_module(source: &str) -> (&str, &str) {
    let after_host = source
        .find("://")
        .and_then(|scheme| Some(scheme + 3 + source.get(scheme + 3..)?.find('/')?));
    let cut = after_host.and_then(|host| Some(host + 1 + source.get(host + 1..)?.find('/')?));
    match cut.and_then(|cut| source.split_at_checked(cut + 1)) {
        Some((module, folder)) => (module, folder.trim_matches('/')),
        None => (source, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_daemon_urls_with_a_module_are_sources() {
        for ok in [
            "rsync://m.example/archlinux/",
            "rsync://[::1]:8730/mod/a b",
            "rsync://u@h/mod",
        ] {
            assert!(checked_source(ok).is_ok(), "{ok}");
        }
        for bad in [
            "host:path",
            "host::mod",
            "/etc",
            "-e sh",
            "rsync://",
            "rsync://h",
            "rsync://h/",
            "rsync://h/a/../b",
            "RSYNC://h/m",
            "http://h/m",
            "rsync://h/m\n",
        ] {
            assert!(checked_source(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_is_its_module_and_the_folder_in_it() {
        for (source, module, folder) in [
            ("rsync://h/mod", "rsync://h/mod", ""),
            ("rsync://h/mod/", "rsync://h/mod/", ""),
            ("rsync://u@h:1/mod/a/b c/", "rsync://u@h:1/mod/", "a/b c"),
            ("rsync://[::1]:8730/mod//a", "rsync://[::1]:8730/mod/", "a"),
        ] {
            assert_eq!(split_module(source), (module, folder), "{source}");
        }
    }
}
