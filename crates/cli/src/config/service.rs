//! The keys of a node that runs for years: `[alert]`, `[metrics]`, and what importing may take.
//!
//! - Invariant: the web hook is one http(s) URL, the address one word, so nothing of either
//!   becomes more than it should.
//! - Not here: what they do (`pacstore-node`, `alert/`).

use std::net::SocketAddr;
use std::path::PathBuf;

use pacstore_node::config::{AlertConfig, Importing};
use url::Url;

use super::file;
use super::values::{rate, size, span};
use super::{ConfigError, Lines};

/// The longest `alert.after`: whoever is told must be told within a quarter of an hour.
const LATEST: std::time::Duration = std::time::Duration::from_mins(14);

pub(super) fn build_alert(alert: file::Alert, lines: &Lines) -> Result<AlertConfig, ConfigError> {
    let webhook = match alert.webhook.as_str() {
        "" => None,
        text => Some(
            Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
                .ok_or_else(|| lines.bad("alert.webhook", "write an http(s) URL"))?,
        ),
    };
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == ',';
    if alert.mail.contains(odd) || alert.mail.starts_with('-') {
        return Err(lines.bad(
            "alert.mail",
            "write one address, such as root or admin@example.org",
        ));
    }
    let sendmail = PathBuf::from(&alert.sendmail);
    if !sendmail.is_absolute() {
        return Err(lines.bad("alert.sendmail", "write an absolute path"));
    }
    let command = alert.command.into_vec();
    if command.first().is_some_and(|program| !program.starts_with('/')) {
        return Err(lines.bad("alert.command", "begin with the absolute path of a program"));
    }
    let time = |text: &str, key: &str| span(text).map_err(|error| lines.bad(key, error));
    let after = time(&alert.after, "alert.after")?;
    if LATEST < after {
        return Err(lines.bad("alert.after", "must be at most 14m"));
    }
    let repeat = time(&alert.repeat, "alert.repeat")?;
    Ok(AlertConfig {
        webhook,
        command,
        mail: (!alert.mail.is_empty()).then_some(alert.mail),
        sendmail,
        after,
        torn: time(&alert.torn, "alert.torn")?,
        disk_free: size(&alert.disk_free).map_err(|error| lines.bad("alert.disk_free", error))?,
        repeat: (!repeat.is_zero()).then_some(repeat),
    })
}

pub(super) fn build_importing(limits: &file::Limits, lines: &Lines) -> Result<Importing, ConfigError> {
    if limits.rounds == 0 || 64 < limits.rounds {
        return Err(lines.bad("limits.rounds", "must be from 1 to 64"));
    }
    let most = rate(&limits.import).map_err(|error| lines.bad("limits.import", error))?;
    let defaults = Importing::default();
    Ok(Importing {
        rounds: limits.rounds,
        rate: (most > 0).then_some(most),
        pressure: defaults.pressure.filter(|_| limits.pressure),
    })
}

/// Where Prometheus may ask.
pub(super) fn build_metrics(
    metrics: &file::Metrics,
    lines: &Lines,
) -> Result<Option<SocketAddr>, ConfigError> {
    if metrics.listen.is_empty() {
        return Ok(None);
    }
    let address: Option<SocketAddr> = metrics.listen.parse().ok();
    let address = address.filter(|address| address.ip().is_loopback());
    let why = "write a loopback address and a port, such as 127.0.0.1:9640";
    address.map(Some).ok_or_else(|| lines.bad("metrics.listen", why))
}
