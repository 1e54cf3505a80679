//! `[pacman]`, `[prefetch]` and `store.scrub`: what the node looks at and does for the machine that it stands on.
//!
//! - Invariant: paths are absolute, hours are hours.
//! - Not here: what is done with it (`pacstore-node`, `machine`).

use std::path::PathBuf;

use pacstore_node::config::{MachineConfig, PrefetchConfig};

use super::build::absolute;
use super::file::File;
use super::values::{hours, rate, span};
use super::{ConfigError, Lines};

pub(super) fn build(file: &File, lines: &Lines) -> Result<MachineConfig, ConfigError> {
    let path = |key: &str, text: &str| -> Result<PathBuf, ConfigError> {
        absolute(text).ok_or_else(|| lines.bad(key, "write an absolute path"))
    };
    let conf = &file.pacman.config;
    let pacman_conf = (!conf.is_empty())
        .then(|| path("pacman.config", conf))
        .transpose()?;
    let caches = file.pacman.cache.clone().into_vec();
    let caches: Result<_, _> = caches.iter().map(|text| path("pacman.cache", text)).collect();
    let scrub = span(&file.store.scrub).map_err(|e| lines.bad("store.scrub", e))?;
    Ok(MachineConfig {
        pacman_conf,
        cache_dirs: caches?,
        scrub: (!scrub.is_zero()).then_some(scrub),
        prefetch: prefetch(file, lines)?,
    })
}

fn prefetch(file: &File, lines: &Lines) -> Result<Option<PrefetchConfig>, ConfigError> {
    let table = &file.prefetch;
    let average = rate(&table.rate).map_err(|e| lines.bad("prefetch.rate", e))?;
    let hours = match table.hours.as_str() {
        "" => None,
        text => {
            Some(hours(text).ok_or_else(|| lines.bad("prefetch.hours", "write hours, such as 1-6 or 22-6"))?)
        }
    };
    Ok(table.enable.then_some(PrefetchConfig {
        rate: (average > 0).then_some(average),
        hours,
        metered: table.metered,
        battery: table.battery,
    }))
}
