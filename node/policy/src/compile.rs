//! Compiling: in a child process with limits of its own, and kept on disk under a key.
//!
//! A compiler is a large program that reads what strangers wrote: it runs where it can be ended, and
//! where its memory is not the node's. What it gave is kept, since a restart should not wait for it;
//! wasmtime runs whatever it is given, so each file carries a MAC, and one that does not agree is
//! compiled anew.
//!
//! The child and the key are the node's own, or those of a service that runs as another user and
//! hands code over in sealed files. A node that was taken over can then leave no code behind
//! that its next start would run.

mod keeper;
mod service;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::component::Component;

pub(crate) use self::keeper::{Keeper, Verified};
use self::service::Service;
pub use self::service::serve;
use crate::PolicyError;
use crate::engine::{self, Runtime};
use crate::native::{self, Sealed};
use crate::package::Package;

/// The hidden command of the child: `skerry policy compile-worker`.
pub const WORKER: [&str; 2] = ["policy", "compile-worker"];
/// The environment variable that names the socket of the compiler's service.
pub const SOCKET: &str = "SKERRY_COMPILER";

/// Compiles policies.
pub struct Compiler(Way);

enum Way {
    Own(Keeper),
    Service(Service),
}

impl Compiler {
    /// A compiler that keeps what it compiled in `folder`, which it makes, with its key. `worker` is the
    /// program to run as the child; `None` compiles in this process (tests, benchmarks).
    ///
    /// # Errors
    /// When the folder or the key cannot be made or read.
    pub fn new(
        worker: Option<PathBuf>,
        folder: &Path,
        time: Duration,
        memory_bytes: u64,
    ) -> Result<Self, PolicyError> {
        Ok(Self(Way::Own(Keeper::new(worker, folder, time, memory_bytes)?)))
    }

    /// A compiler that has the service behind a socket compile, and keep what it compiled.
    pub fn service(socket: PathBuf, time: Duration, memory_bytes: u64) -> Self {
        Self(Way::Service(Service::new(socket, time, memory_bytes)))
    }

    /// The compiler of a node that keeps its policies in `folder`, which it makes: the service that
    /// [`SOCKET`] names, if there is one and a child is wanted at all; else one that keeps its code in
    /// `native` there.
    ///
    /// # Errors
    /// When a folder or the key cannot be made or read.
    pub(crate) fn of_node(
        worker: Option<PathBuf>,
        folder: &Path,
        time: Duration,
        memory_bytes: u64,
    ) -> Result<Self, PolicyError> {
        let socket = std::env::var_os(SOCKET).filter(|socket| worker.is_some() && !socket.is_empty());
        let Some(socket) = socket else {
            return Self::new(worker, &folder.join("native"), time, memory_bytes);
        };
        fs::create_dir_all(folder).map_err(|source| {
            let path = folder.to_owned();
            PolicyError::File { what: "cannot make the folder", path, source }
        })?;
        Ok(Self::service(socket.into(), time, memory_bytes))
    }

    /// The policy's native code: what is kept, or compiled now. Blocks, for seconds.
    ///
    /// # Errors
    /// When it does not compile within its limits, or there is no service to compile it.
    pub fn component(&self, runtime: &Runtime, package: &Package) -> Result<Component, PolicyError> {
        match &self.0 {
            Way::Own(keeper) => {
                if let Some(component) = self.kept(runtime, package) {
                    return Ok(component);
                }
                let code = keeper.compile(&package.component, runtime.lines)?;
                let component = native::load(runtime.engine(), &sealed(&code)?)?;
                keeper.keep(&package.digest_hex(), &code);
                Ok(component)
            }
            Way::Service(service) => {
                let code = service.code(&package.component, runtime.lines)?;
                native::load(runtime.engine(), &code)
            }
        }
    }

    /// The policy's native code where it is kept and good. What is kept and no good is removed.
    pub(crate) fn kept(&self, runtime: &Runtime, package: &Package) -> Option<Component> {
        let digest = package.digest_hex();
        let told = |error: PolicyError| {
            // Another version of wasmtime.
            log::info!(digest; "compiled code cannot be loaded, and is made anew: {error}");
        };
        match &self.0 {
            Way::Own(keeper) => {
                let code = keeper.kept(&digest)?;
                let loaded = sealed(&code).and_then(|code| native::load(runtime.engine(), &code));
                if matches!(loaded, Err(PolicyError::Compile(_))) {
                    keeper.forget(&digest);
                }
                loaded.map_err(told).ok()
            }
            Way::Service(service) => {
                let asked = service.kept(&package.component, runtime.lines);
                let code = asked.unwrap_or_else(|error| {
                    log::warn!(digest; "whether a policy is compiled is not known: {error}");
                    None
                })?;
                native::load(runtime.engine(), &code).map_err(told).ok()
            }
        }
    }
}

/// Code in a file of its own.
fn sealed(code: &Verified) -> Result<Sealed, PolicyError> {
    let failed =
        |source| PolicyError::File { what: "cannot make", path: "/memfd:skerry-policy".into(), source };
    Sealed::new(code).map_err(failed)
}

fn bounded(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn compile(component: &[u8], lines: bool) -> Result<Vec<u8>, PolicyError> {
    let engine = engine::compiler(lines)?;
    engine.precompile_component(component).map_err(|error| PolicyError::Compile(format!("{error:#}")))
}

/// What the child does: reads a component, writes native code, under limits that it sets itself;
/// with `lines` as [`crate::Room`] has them. It has its three pipes, opens nothing, starts nothing and
/// writes no file, even where what it reads takes it over: the key of its parent stays unread.
///
/// # Errors
/// When the component does not compile, or the pipes break.
pub fn worker(memory_bytes: u64, seconds: u64, lines: bool) -> Result<(), PolicyError> {
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, most) in [
        (Resource::As, memory_bytes),
        (Resource::Cpu, seconds),
        (Resource::Core, 0),
        (Resource::Nofile, 3),
        (Resource::Fsize, 0),
        // No threads either: wasmtime compiles in this one.
        (Resource::Nproc, 0),
    ] {
        setrlimit(resource, limit(most))
            .map_err(|error| PolicyError::Compile(format!("no limits: {error}")))?;
    }
    let failed = |error: io::Error| PolicyError::Compile(format!("the pipe broke: {error}"));
    let component = bounded(io::stdin().lock(), crate::package::MOST_COMPONENT).map_err(failed)?;
    let code = compile(&component, lines)?;
    io::stdout().lock().write_all(&code).map_err(failed)
}
