//! Imports one source into a store in a folder and says what it cost: `import FROM FOLDER [listed|all] [link|copy]`.

use std::time::Instant;

use pacstore_import::{Files, ImportSpec, Importer, Progress, Source};
use pacstore_runtime::{Clock, Tasks};
use pacstore_store::{Options, Store};
use pacstore_upstream::{Http, HttpOptions};

#[expect(clippy::print_stdout, reason = "this is its output")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, folder, rest @ ..] = &args[..] else {
        return Err("import FROM FOLDER [all] [link]".into());
    };
    let mut spec = ImportSpec::new("example", vec![Source::parse(from)?]);
    spec.files = if rest.iter().any(|a| a == "all") {
        Files::All
    } else {
        Files::Listed
    };
    spec.replaced_by_rename = rest.iter().any(|a| a == "link");
    let folder = std::path::Path::new(folder);
    fs_err::create_dir_all(folder)?;
    let store = Store::open(&folder.join("store"), Options::new(u64::MAX / 4))?;
    let http = Http::new(HttpOptions::default());
    let mut importer = Importer::new(
        spec,
        store,
        http,
        Tasks::new(),
        Clock::system(),
        folder.join("work"),
    )?;
    let start = Instant::now();
    let round = importer.round(&Progress::default()).await?;
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let status = fs_err::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    println!("{} changed {} {:?}", round.tree, round.changed, round.counts);
    println!(
        "{:?} wall, {}.{:09} CPU-s, {peak}",
        start.elapsed(),
        cpu.tv_sec,
        cpu.tv_nsec
    );
    Ok(())
}
