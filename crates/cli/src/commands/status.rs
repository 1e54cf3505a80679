//! `pacstore status`: what goes on.

mod screen;
mod watch;

use std::fmt::Write as _;

use pacstore_node::{ImportStatus, ReplicaStatus, Status, UploadStatus};

use crate::context::{Context, Exit, Hinted};
use crate::printer::{bytes, seconds};

/// Print what goes on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Follow it on a screen; q quits
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Exits 1 if no daemon answers.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    if args.watch {
        return watch::run(ctx).await;
    }
    let Some(daemon) = ctx.daemon().await else {
        return Err(Hinted::new("no daemon answers", "start it with `pacstore daemon`").into());
    };
    let status: Status = daemon.get("/v1/status").await?;
    ctx.out.data(&status, human)?;
    Ok(Exit::Done)
}

fn human(status: &Status) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "peer     {}", status.peer_id.as_deref().unwrap_or("-"));
    let _ = writeln!(text, "gateway  {}", status.gateway.as_deref().unwrap_or("-"));
    let _ = writeln!(text, "peers    {} connected", status.peers);
    let store = &status.store;
    let _ = writeln!(
        text,
        "store    {} in {} files; {} of {} evictable",
        bytes(store.bytes),
        store.files,
        bytes(store.evictable),
        bytes(store.max_bytes)
    );
    let out = &status.bytes;
    let _ = writeln!(
        text,
        "given    disk {}, lan {}, peer {}, upstream {}",
        bytes(out.disk),
        bytes(out.lan),
        bytes(out.peer),
        bytes(out.upstream)
    );
    let _ = writeln!(text, "upload   {}", uploads(&status.upload));
    if status.prefetch.ready + status.prefetch.missing > 0 {
        let _ = writeln!(text, "updates  {}", super::prefetch::human(&status.prefetch));
    }
    for cache in &status.caches {
        let _ = writeln!(
            text,
            "cache    {}  {} of {} packages shared, {} signatures",
            cache.path, cache.shared, cache.packages, cache.signatures
        );
        if let Some(error) = &cache.error {
            let _ = writeln!(text, "         {error}");
        }
    }
    if status.scrub.damaged > 0 {
        let _ = writeln!(
            text,
            "scrub    {} damaged files found, {} fetched anew",
            status.scrub.damaged, status.scrub.mended
        );
    }
    for mirror in &status.mirrors {
        let age = mirror.age_s.map_or_else(
            || "no head yet".to_owned(),
            |age| format!("checked {} ago", seconds(age)),
        );
        let _ = writeln!(
            text,
            "mirror   {}  {}  {age}, {} snapshots",
            mirror.name, mirror.state, mirror.heads
        );
        if let Some(error) = &mirror.error {
            let _ = writeln!(text, "         {error}");
        }
    }
    for one in &status.repositories {
        let age = one.age_s.map_or_else(
            || "nothing here yet".to_owned(),
            |age| format!("checked {} ago", seconds(age)),
        );
        let _ = writeln!(text, "repo     {} {}  {}  {age}", one.name, one.arch, one.state);
        if let Some(error) = &one.error {
            let _ = writeln!(text, "         {error}");
        }
    }
    for one in &status.alerts {
        let _ = writeln!(text, "{:<8} {} since {}", one.kind.as_str(), one.text, one.since);
        if let Some(hint) = &one.hint {
            let _ = writeln!(text, "         hint: {hint}");
        }
    }
    for import in &status.imports {
        importing(&mut text, import);
    }
    text
}

fn uploads(upload: &UploadStatus) -> String {
    let now = upload.why.as_deref().map_or_else(
        || {
            let rate = upload.rate.map(|rate| format!("up to {}/s", bytes(rate)));
            rate.unwrap_or_else(|| "without limit".to_owned())
        },
        |why| format!("none: {why}"),
    );
    let left = upload.month_max.map_or_else(String::new, |most| {
        format!(
            " of {}, {} left",
            bytes(most),
            bytes(most.saturating_sub(upload.month_bytes))
        )
    });
    let hours = upload.hours.as_ref().map(|hours| format!("; only {hours} h"));
    format!(
        "{now}; {} {}{left}; lan {}{}",
        upload.month,
        bytes(upload.month_bytes),
        bytes(upload.lan_bytes),
        hours.unwrap_or_default()
    )
}

/// What waits for replicas, and what went out without them.
fn replicas_of(replicas: &ReplicaStatus) -> String {
    let mut text = String::new();
    let (wanted, held) = (replicas.wanted, replicas.held);
    if let Some(tree) = &replicas.tree {
        let _ = writeln!(
            text,
            "         waiting for {} of {wanted} replicas of {tree}, for {}",
            wanted.saturating_sub(held),
            seconds(replicas.waiting_s.unwrap_or(0))
        );
    }
    if let Some(thin) = replicas.thin {
        let _ = writeln!(
            text,
            "         went out although {thin} of {wanted} replicas held it"
        );
    }
    text
}

fn importing(text: &mut String, import: &ImportStatus) {
    let last = import.last.as_ref().map_or_else(
        || "no round yet".to_owned(),
        |last| {
            let outcome = format!("{:?}", last.outcome).to_lowercase();
            format!("last round {outcome} at {}", last.at)
        },
    );
    let now = match (import.running_s, &import.waits, import.next_s) {
        (Some(running), _, _) => format!(
            "{} for {}, {}/{} files, {}{}{}",
            import.step,
            seconds(running),
            import.files.0,
            import.files.1,
            bytes(import.bytes.0),
            import
                .rate
                .map(|rate| format!(", {}/s", bytes(rate)))
                .unwrap_or_default(),
            import
                .left_s
                .map(|left| format!(", {} left", seconds(left)))
                .unwrap_or_default(),
        ),
        (None, Some(what), _) => format!("waits for {what}"),
        (None, None, Some(next)) => format!("next round in {}", seconds(next)),
        (None, None, None) => "when asked".to_owned(),
    };
    let _ = writeln!(text, "import   {}  {now}; {last}", import.name);
    if let Some(replicas) = &import.replicas {
        let _ = write!(text, "{}", replicas_of(replicas));
    }
    if 1 < import.failures {
        let _ = writeln!(text, "         {} rounds failed", import.failures);
    }
    let Some(last) = &import.last else { return };
    if let Some(error) = &last.error {
        let _ = writeln!(text, "         {error}");
    }
    if let Some(hint) = &last.hint {
        let _ = writeln!(text, "         hint: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_waits_and_one_that_went_out_without_replicas_are_told() {
        let mut replicas = ReplicaStatus {
            wanted: 3,
            held: 1,
            tree: Some("bafytree".to_owned()),
            waiting_s: Some(185),
            thin: None,
        };
        let waiting = "         waiting for 2 of 3 replicas of bafytree, for 3 min\n";
        assert_eq!(replicas_of(&replicas), waiting);
        // The one before went out thin, and the next waits.
        replicas.thin = Some(1);
        let thin = "         went out although 1 of 3 replicas held it\n";
        assert_eq!(replicas_of(&replicas), format!("{waiting}{thin}"));
        (replicas.tree, replicas.waiting_s) = (None, None);
        assert_eq!(replicas_of(&replicas), thin);
        replicas.thin = None;
        assert_eq!(replicas_of(&replicas), "");
    }
}
