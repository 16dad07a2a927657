//! A compiler that runs a child, and keeps on disk what came of it, under a key of its own.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{WORKER, bounded, compile};
use crate::PolicyError;

/// Longest code, bytes.
const MOST_CODE: u64 = 512 << 20;
const KEY: usize = 32;
const MAC: usize = 32;
/// How files of compiled code end.
const NATIVE: &str = "native";
/// How files end that are not written to their end.
const TORN: &str = "new";

/// Native code that came from this node's compiler and nobody else.
pub(crate) struct Verified(Vec<u8>);

impl Verified {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Compiles, and keeps code by names that its user gives.
pub(crate) struct Keeper {
    /// The program to run as the child; `None` compiles in this process (tests, benchmarks).
    worker: Option<PathBuf>,
    folder: PathBuf,
    key: [u8; KEY],
    time: Duration,
    memory_bytes: u64,
}

impl Keeper {
    /// Keeps code in `folder`, which it makes, with its key.
    ///
    /// # Errors
    /// When the folder or the key cannot be made or read.
    pub(crate) fn new(
        worker: Option<PathBuf>,
        folder: &Path,
        time: Duration,
        memory_bytes: u64,
    ) -> Result<Self, PolicyError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| PolicyError::File { what, path, source }
        };
        fs::create_dir_all(folder).map_err(failed("cannot make the folder", folder))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(failed("cannot close to others the folder", folder))?;
        let path = folder.join("key");
        let key = match fs::read(&path) {
            Ok(key) => key.try_into().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("cannot read", &path)(error)),
        };
        let key = match key {
            Some(key) => key,
            None => {
                let mut key = [0; KEY];
                rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())
                    .map_err(|error| failed("cannot make a key for", &path)(error.into()))?;
                if let Err(error) = write(&path, &[&key]) {
                    log::warn!(path:% = path.display(); "compiled code is good for this run only: {error}");
                }
                key
            }
        };
        Ok(Self { worker, folder: folder.to_owned(), key, time, memory_bytes })
    }

    /// Compiles. Blocks, for seconds.
    ///
    /// # Errors
    /// When it does not compile within its limits.
    pub(crate) fn compile(&self, component: &[u8], lines: bool) -> Result<Verified, PolicyError> {
        Ok(Verified(match &self.worker {
            Some(program) => self.in_child(program, component, lines)?,
            None => compile(component, lines)?,
        }))
    }

    /// Keeps code by a name, for this run and later ones.
    pub(super) fn keep(&self, name: &str, code: &Verified) {
        let path = self.path(name);
        if let Err(error) = write(&path, &[&self.mac(name, &code.0), &code.0]) {
            log::warn!(path:% = path.display(); "compiled code is not kept: {error}");
        }
    }

    /// What is kept by a name and good. What is kept and no good is removed.
    pub(super) fn kept(&self, name: &str) -> Option<Verified> {
        let path = self.path(name);
        let code = self.verified(fs::read(&path).ok()?, name);
        if code.is_none() {
            log::warn!(path:% = path.display(); "compiled code was changed by somebody else; it is compiled anew");
            self.forget(name);
        }
        code
    }

    /// Keeps no code by that name any more.
    pub(super) fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
    }

    /// The code of that name was used now, for [`Self::thin`].
    pub(super) fn touch(&self, name: &str) {
        let path = self.path(name);
        let touched = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            log::warn!(path:% = path.display(); "compiled code will seem older than it is: {error}");
        }
    }

    /// Removes all code but that of the `most` names that were kept or touched last.
    pub(super) fn thin(&self, most: usize) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        // What was never written to its end goes with the others.
        let code = entries.filter(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|ending| ending == NATIVE || ending == TORN)
        });
        let mut code: Vec<_> = code
            .filter_map(|entry| Some((entry.metadata().and_then(|data| data.modified()).ok()?, entry.path())))
            .collect();
        code.sort_unstable();
        for (_, path) in code.iter().take(code.len().saturating_sub(most)) {
            let _ = fs::remove_file(path);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{NATIVE}"))
    }

    /// What is in a file of compiled code, if it is what was written there with this key.
    fn verified(&self, mut bytes: Vec<u8>, name: &str) -> Option<Verified> {
        if bytes.len() < MAC {
            return None;
        }
        let code = bytes.split_off(MAC);
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(name.as_bytes());
        mac.update(&code);
        mac.verify_slice(&bytes).is_ok().then_some(Verified(code))
    }

    fn mac(&self, name: &str, code: &[u8]) -> [u8; MAC] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(name.as_bytes());
        mac.update(code);
        mac.finalize().into_bytes().into()
    }

    fn in_child(&self, program: &Path, component: &[u8], lines: bool) -> Result<Vec<u8>, PolicyError> {
        let failed = |error: io::Error| PolicyError::Compile(format!("the compiler cannot run: {error}"));
        let child = Command::new(program)
            .args(WORKER)
            .arg(self.memory_bytes.to_string())
            // The clock here is to run out first, since it knows why.
            .arg((self.time.as_secs() + 1).to_string())
            .args(lines.then_some("--lines"))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut child = Killed(child);
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take())
        else {
            return Err(PolicyError::Compile("the compiler has no pipes".into()));
        };
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(component));
            let code = scope.spawn(|| bounded(stdout, MOST_CODE));
            let words = scope.spawn(|| bounded(stderr, 64 << 10));
            let end = Instant::now() + self.time;
            let status = loop {
                match child.0.try_wait().map_err(failed)? {
                    Some(status) => break Some(status),
                    None if Instant::now() > end => break None,
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            };
            if status.is_none() {
                let _ = child.0.kill();
                let _ = child.0.wait();
            }
            let (code, words) = (code.join(), words.join());
            match status {
                None => Err(PolicyError::Compile(format!("it takes more than {} s", self.time.as_secs()))),
                Some(status) if status.success() => match code {
                    Ok(Ok(code)) => Ok(code),
                    _ => Err(PolicyError::Compile("the compiler's output is cut".into())),
                },
                Some(status) => {
                    let words = words.ok().and_then(Result::ok).unwrap_or_default();
                    let words = String::from_utf8_lossy(&words);
                    // Where memory is not given, Rust aborts, with advice after the reason.
                    if words.contains("memory allocation of") {
                        let most = self.memory_bytes >> 20;
                        return Err(PolicyError::Compile(format!("it takes more than {most} MiB of memory")));
                    }
                    let last = words.lines().last().unwrap_or("").trim();
                    Err(PolicyError::Compile(if last.is_empty() {
                        format!("the compiler ended with {status}, over its limit of time or memory")
                    } else {
                        last.to_owned()
                    }))
                }
            }
        })
    }
}

/// A child that does not outlive who waits for it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a file that is whole or not there, for the node alone.
fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let beside = path.with_extension(TORN);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_is_used_outlives_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(None, folder.path(), Duration::from_secs(60), 1 << 30).unwrap();
        let names = ["a", "b", "c", "d"];
        for (name, age) in names.into_iter().zip([40, 30, 20, 10]) {
            keeper.keep(name, &Verified(name.into()));
            let file = fs::File::open(keeper.path(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        keeper.touch("a");
        keeper.thin(2);
        let kept = names.map(|name| keeper.kept(name).map(|code| code.0));
        assert_eq!(kept, [Some(b"a".to_vec()), None, None, Some(b"d".to_vec())]);
        // The key stays, and another run reads what this one wrote.
        keeper.thin(1);
        let keeper = Keeper::new(None, folder.path(), Duration::from_secs(60), 1 << 30).unwrap();
        assert!(keeper.kept("a").is_some());
        keeper.forget("a");
        assert!(keeper.kept("a").is_none());
    }
}
