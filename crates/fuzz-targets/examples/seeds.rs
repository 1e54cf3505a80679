//! Writes the seeds of all targets: `seeds DIR` makes `DIR/TARGET/N`.

use std::io;

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("say where to"));
    };
    for target in pacstore_fuzz_targets::TARGETS {
        let folder = std::path::Path::new(&dir).join(target.name);
        fs_err::create_dir_all(&folder)?;
        for (n, seed) in (target.seeds)().into_iter().enumerate() {
            fs_err::write(folder.join(n.to_string()), seed)?;
        }
    }
    Ok(())
}
