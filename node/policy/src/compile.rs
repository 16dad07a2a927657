//! Compiling: in a child process with limits of its own, and kept on disk under the node's own key.
//!
//! A compiler is a large program that reads what strangers wrote: it runs where it can be ended, and
//! where its memory is not the node's. What it gave is kept, since a restart should not wait for it;
//! wasmtime runs whatever it is given, so each file carries a MAC, and one that does not agree is
//! compiled anew.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::Sha256;
use wasmtime::component::Component;

use crate::engine::{self, Runtime};
use crate::package::Package;
use crate::{PolicyError, native};

/// The hidden command of the child: `skerry policy compile-worker`.
pub const WORKER: [&str; 2] = ["policy", "compile-worker"];
/// Longest code, bytes.
const MOST_CODE: u64 = 512 << 20;
const KEY: usize = 32;
const MAC: usize = 32;

/// Native code that came from this node's compiler and nobody else.
pub(crate) struct Verified(Vec<u8>);

impl Verified {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Compiles policies.
pub struct Compiler {
    /// The program to run as the child; `None` compiles in this process (tests, benchmarks).
    worker: Option<PathBuf>,
    folder: PathBuf,
    key: [u8; KEY],
    time: Duration,
    memory_bytes: u64,
}

impl Compiler {
    /// A compiler that keeps what it compiled in `folder`, which it makes, with its key.
    ///
    /// # Errors
    /// When the folder or the key cannot be made or read.
    pub fn new(
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

    /// The policy's native code: what is kept, or compiled now. Blocks, for seconds.
    ///
    /// # Errors
    /// When it does not compile within its limits.
    pub fn component(&self, runtime: &Runtime, package: &Package) -> Result<Component, PolicyError> {
        if let Some(component) = self.kept(runtime, package) {
            return Ok(component);
        }
        let code = Verified(match &self.worker {
            Some(program) => self.in_child(program, &package.component, runtime.lines)?,
            None => compile(&package.component, runtime.lines)?,
        });
        let component = native::load(runtime.engine(), &code)?;
        let digest = package.digest_hex();
        let path = self.path(&digest);
        if let Err(error) = write(&path, &[&self.mac(&digest, &code.0), &code.0]) {
            log::warn!(path:% = path.display(); "compiled code is not kept: {error}");
        }
        Ok(component)
    }

    /// The policy's native code where it is kept and good. What is kept and no good is removed.
    pub(crate) fn kept(&self, runtime: &Runtime, package: &Package) -> Option<Component> {
        let digest = package.digest_hex();
        let path = self.path(&digest);
        let bytes = fs::read(&path).ok()?;
        let component = match self.verified(bytes, &digest) {
            Some(code) => {
                let told = |error| {
                    // Another version of wasmtime.
                    log::info!(digest; "compiled code is for another engine, and is made anew: {error}");
                };
                native::load(runtime.engine(), &code).map_err(told).ok()
            }
            None => {
                log::warn!(path:% = path.display(); "compiled code was changed by somebody else; it is compiled anew");
                None
            }
        };
        if component.is_none() {
            let _ = fs::remove_file(&path);
        }
        component
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.native"))
    }

    /// What is in a file of compiled code, if it is what this node wrote there.
    fn verified(&self, mut bytes: Vec<u8>, digest: &str) -> Option<Verified> {
        if bytes.len() < MAC {
            return None;
        }
        let code = bytes.split_off(MAC);
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(digest.as_bytes());
        mac.update(&code);
        mac.verify_slice(&bytes).is_ok().then_some(Verified(code))
    }

    fn mac(&self, digest: &str, code: &[u8]) -> [u8; MAC] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(digest.as_bytes());
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

fn bounded(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Writes a file that is whole or not there, for the node alone.
fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn compile(component: &[u8], lines: bool) -> Result<Vec<u8>, PolicyError> {
    let engine = engine::compiler(lines)?;
    engine.precompile_component(component).map_err(|error| PolicyError::Compile(format!("{error:#}")))
}

/// What the child does: reads a component, writes native code, under limits that it sets itself;
/// with `lines` as [`crate::Room`] has them.
///
/// # Errors
/// When the component does not compile, or the pipes break.
pub fn worker(memory_bytes: u64, seconds: u64, lines: bool) -> Result<(), PolicyError> {
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, most) in [(Resource::As, memory_bytes), (Resource::Cpu, seconds), (Resource::Core, 0)] {
        setrlimit(resource, limit(most))
            .map_err(|error| PolicyError::Compile(format!("no limits: {error}")))?;
    }
    let failed = |error: io::Error| PolicyError::Compile(format!("the pipe broke: {error}"));
    let component = bounded(io::stdin().lock(), crate::package::MOST_COMPONENT).map_err(failed)?;
    let code = compile(&component, lines)?;
    io::stdout().lock().write_all(&code).map_err(failed)
}
