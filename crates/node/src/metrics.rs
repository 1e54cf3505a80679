//! Numbers for Prometheus, in the text format of OpenMetrics.
//!
//! Each scrape writes what [`crate::Status`] says at that moment; nothing is kept between two.
//!
//! - Invariant: every name here stands in `docs/operating.md` with its meaning, and the other
//!   way round (a test compares them); units are in names.
//! - Not here: where it is served (`pacstore-http`).

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::alert::Kind;
use crate::status::{ImportStatus, Status};

/// The `Content-Type` of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// States that a mirror can be in.
const STATES: [&str; 6] = ["none", "current", "warn", "refused", "held", "torn"];

struct Page(Registry);

impl Page {
    fn gauges(&mut self, name: &str, help: &str) -> Gauges {
        let family = Gauges::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    /// `name` without `_total`, which the format adds.
    fn counters(&mut self, name: &str, help: &str) -> Counters {
        let family = Counters::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }
}

/// The text of one scrape.
pub fn render(status: &Status) -> String {
    let mut page = Page(Registry::with_prefix("pacstore"));
    node(&mut page, status);
    mirrors(&mut page, status);
    imports(&mut page, &status.imports);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &page.0);
    text
}

fn node(page: &mut Page, status: &Status) {
    let served = page.counters(
        "gateway_bytes",
        "Bytes given to clients, by the first source they came from",
    );
    let bytes = &status.bytes;
    for (source, n) in [
        ("disk", bytes.disk),
        ("lan", bytes.lan),
        ("peer", bytes.peer),
        ("upstream", bytes.upstream),
    ] {
        served
            .get_or_create(&vec![("source", source.to_owned())])
            .inc_by(n);
    }
    let store = &status.store;
    page.gauge(
        "store_bytes",
        "Bytes of all files in the store",
        store.bytes as f64,
    );
    page.gauge(
        "store_evictable_bytes",
        "Of them, bytes that may be evicted",
        store.evictable as f64,
    );
    page.gauge(
        "store_max_bytes",
        "Cap of the evictable bytes",
        store.max_bytes as f64,
    );
    page.gauge("store_files", "Files in the store", store.files as f64);
    page.gauge(
        "store_index_bytes",
        "Bytes of the store's index",
        store.index_bytes as f64,
    );
    page.gauge(
        "disk_free_bytes",
        "Free bytes of the store's file system",
        store.free_bytes as f64,
    );
    page.gauge("peers", "Connected peers", status.peers as f64);
    uploads(page, status);
    page.gauge("fetches", "Downloads under way", status.fetching as f64);
    page.gauge("tasks", "Tasks that run", status.tasks.len() as f64);
    let panicked = status
        .tasks
        .iter()
        .filter(|task| task.state.starts_with("panicked"))
        .count();
    page.gauge(
        "tasks_panicked",
        "Tasks that died since the start",
        panicked as f64,
    );
    let open = page.gauges("alerts_open", "Conditions that hold now and are or will be told");
    for kind in [Kind::Error, Kind::Warning] {
        let count = status.alerts.iter().filter(|one| one.kind == kind).count();
        open.get_or_create(&vec![("kind", kind.as_str().to_owned())])
            .set(count as f64);
    }
    page.counter(
        "alerts_looks",
        "Looks for what is wrong since the start",
        status.alert_looks,
    );
    let (sent, failed, waiting) = status.alert_counts;
    page.counter(
        "alerts_sent",
        "Alerts delivered since the start, counted for each channel",
        sent,
    );
    page.counter(
        "alerts_failed",
        "Deliveries of alerts that failed since the start",
        failed,
    );
    page.gauge(
        "alerts_waiting",
        "Alerts that wait for their delivery",
        waiting as f64,
    );
    let pressure = page.gauges(
        "pressure_percent",
        "Share of the last ten seconds in which work stood still",
    );
    let levels = &status.pressure;
    for (resource, level) in [("io", levels.io), ("memory", levels.memory), ("cpu", levels.cpu)] {
        pressure
            .get_or_create(&vec![("resource", resource.to_owned())])
            .set(level);
    }
    let eased = f64::from(u8::from(levels.eased));
    page.gauge("pressure_eased", "1 while imports are slowed down for it", eased);
    let process = &status.process;
    page.gauge(
        "process_resident_bytes",
        "Memory of the process that is in use",
        process.resident_bytes as f64,
    );
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(process.cpu_s);
    page.0
        .register("process_cpu_seconds", "Processor time of the process", cpu);
    page.gauge(
        "process_open_files",
        "Open files and sockets of the process",
        process.open_files as f64,
    );
}

fn uploads(page: &mut Page, status: &Status) {
    let upload = &status.upload;
    page.gauge(
        "peers_max",
        "Connections to peers that are neither configured nor of the LAN, at most",
        upload.peers_max as f64,
    );
    page.gauge(
        "upload_open",
        "1 while peers outside of the LAN get something",
        f64::from(u8::from(upload.open)),
    );
    page.gauge(
        "upload_month_bytes",
        "Bytes of blocks that they got in this calendar month",
        upload.month_bytes as f64,
    );
    page.gauge(
        "upload_month_max_bytes",
        "How many they may get in it; 0 without a limit",
        upload.month_max.unwrap_or(0) as f64,
    );
    page.counter(
        "upload_lan_bytes",
        "Bytes of blocks that peers of the LAN got since the start",
        upload.lan_bytes,
    );
}

fn mirrors(page: &mut Page, status: &Status) {
    let age = page.gauges(
        "mirror_age_seconds",
        "Time since the oldest repository was last checked",
    );
    let heads = page.gauges("mirror_heads", "Heads kept, the current one among them");
    let states = page.gauges("mirror_state", "1 for the state that the mirror is in");
    for mirror in &status.mirrors {
        let name = || ("mirror", mirror.name.clone());
        if let Some(seconds) = mirror.age_s {
            age.get_or_create(&vec![name()]).set(seconds as f64);
        }
        heads.get_or_create(&vec![name()]).set(mirror.heads as f64);
        for state in STATES {
            let is = f64::from(u8::from(mirror.state == state));
            states
                .get_or_create(&vec![name(), ("state", state.to_owned())])
                .set(is);
        }
    }
}

fn imports(page: &mut Page, imports: &[ImportStatus]) {
    let rounds = page.counters("import_rounds", "Rounds since the start, by how they ended");
    let failures = page.gauges(
        "import_failures",
        "Rounds that failed since the last that did not",
    );
    let good = page.gauges("import_good_timestamp_seconds", "When a round last ended well");
    let took = page.gauges("import_round_seconds", "How long the last round took");
    let running = page.gauges("import_running", "1 while a round is under way");
    let files = page.gauges("import_step_files", "Files done in the step under way");
    let bytes = page.gauges("import_step_bytes", "Bytes done in the step under way");
    let torn = page.gauges(
        "import_repositories_not_whole",
        "Repositories that are torn or held",
    );
    let coming = page.gauges(
        "import_coming_replicas",
        "Peers that hold all of the head that waits for replicas; 0 while none waits",
    );
    let waiting = page.gauges(
        "import_coming_waiting_seconds",
        "How long heads have waited for replicas; 0 while none waits",
    );
    for import in imports {
        let name = || ("mirror", import.name.clone());
        let ended = &import.outcomes;
        for (outcome, n) in [
            ("published", ended.published),
            ("unchanged", ended.unchanged),
            ("torn", ended.torn),
            ("failed", ended.failed),
        ] {
            rounds
                .get_or_create(&vec![name(), ("outcome", outcome.to_owned())])
                .inc_by(n);
        }
        failures
            .get_or_create(&vec![name()])
            .set(f64::from(import.failures));
        if let Some(at) = import.good_unix_s {
            good.get_or_create(&vec![name()]).set(at as f64);
        }
        if let Some(seconds) = import.took_s {
            took.get_or_create(&vec![name()]).set(seconds as f64);
        }
        running
            .get_or_create(&vec![name()])
            .set(f64::from(u8::from(import.running_s.is_some())));
        files.get_or_create(&vec![name()]).set(import.files.0 as f64);
        bytes.get_or_create(&vec![name()]).set(import.bytes.0 as f64);
        let broken = import.last.iter().flat_map(|last| &last.repositories);
        let broken = broken.filter(|one| one.state != "whole").count();
        torn.get_or_create(&vec![name()]).set(broken as f64);
        let waits = import.replicas.as_ref().filter(|one| one.tree.is_some());
        let held = waits.map_or(0, |one| one.held);
        coming.get_or_create(&vec![name()]).set(held as f64);
        let seconds = waits.and_then(|one| one.waiting_s).unwrap_or(0);
        waiting.get_or_create(&vec![name()]).set(seconds as f64);
    }
}
