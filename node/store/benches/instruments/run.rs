//! Around a run: where it works, how long it may take, where its figures go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::Result;

/// Where to make databases unless told otherwise: the build's temporary folder.
pub(crate) fn scratch() -> PathBuf {
    option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Ends the run when it outlives `limit`, and removes `root`: a call into RocksDB that never returns
/// cannot be bounded in any other way.
pub(crate) fn watch(name: &'static str, root: &Path, limit: Duration) {
    let root = root.to_owned();
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("{name}: still running after {} s, given up", limit.as_secs());
        if let Err(error) = fs::remove_dir_all(&root) {
            eprintln!("{name}: {} is left behind: {error}", root.display());
        }
        process::exit(1);
    });
}

/// Writes the figures to `file`, else to `bench/NAME.json` in cargo's target folder, which is three
/// above this program (`target/release/deps/NAME-…`). Returns where they are.
pub(crate) fn write_json(name: &str, file: Option<&Path>, report: &impl Serialize) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = match (file, this.ancestors().nth(3)) {
        (Some(file), _) => file.to_owned(),
        (None, Some(target)) => target.join("bench").join(name).with_extension("json"),
        (None, None) => return Err(format!("{} is in no target folder: use --json", this.display()).into()),
    };
    let failed = |error: std::io::Error| format!("writing {}: {error}", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(&path, serde_json::to_vec_pretty(report)?).map_err(failed)?;
    Ok(path)
}
