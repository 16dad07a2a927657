//! How a policy is taken: the one path that a push and the watched folder share.
//!
//! Read, verify, compile, link, run its own test vectors on this node; only then does it begin in
//! shadow, beside what decides now. Whatever fails on the way, what decides now goes on deciding.
//! The ledger says what decides, for the next start, and the highest version of each name, so that
//! an old signature cannot bring an old version back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skerry_core::files;
use wasmtime::component::Component;

use crate::breaker::Breaker;
use crate::call::Callable;
use crate::ledger::{Candidate, Entry, Ledger, Previous};
use crate::manifest::World;
use crate::package::{MOST_PACKAGE, Package};
use crate::policies::{Policies, Slot, Trial};
use crate::rollout::{Change, Rollout, Stage};
use crate::version::Version;
use crate::{PolicyError, signature, tables, vectors};

/// What became of a policy that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its package, hexadecimal.
    pub digest: String,
    /// The worlds in which it begins, in shadow; none when it is there already.
    pub worlds: Vec<World>,
    /// Who signed it.
    pub signer: Option<String>,
}

impl Policies {
    /// Takes a packaged policy, or says why not; what decides now goes on meanwhile. Blocks, for
    /// seconds, and until what decided before the start is restored.
    ///
    /// # Errors
    /// When it is no policy, not signed by somebody trusted, older than what was here, does not
    /// compile, or its own test vectors do not hold on this node.
    pub fn take(&self, file: Vec<u8>) -> Result<Taken, PolicyError> {
        // One at a time; calls, steps and the way back go on meanwhile.
        let _taking = self.0.taking.lock();
        self.wait_restored();
        let taken = self.take_now(file);
        match &taken {
            Ok(taken) if taken.worlds.is_empty() => {}
            Ok(taken) => log::info!(
                policy = taken.name, version = taken.version, digest = taken.digest;
                "a policy was taken and begins in shadow"
            ),
            Err(error) => {
                self.0.metrics.refused.inc();
                log::error!("a policy was not taken: {error}");
            }
        }
        taken
    }

    fn take_now(&self, file: Vec<u8>) -> Result<Taken, PolicyError> {
        let package = Package::parse(file)?;
        let signer = self.signer(&package)?;
        let manifest = &package.manifest;
        let digest = package.digest_hex();
        let mut taken = Taken {
            name: manifest.name.clone(),
            version: manifest.version.to_string(),
            digest: digest.clone(),
            worlds: Vec::new(),
            signer: signer.clone(),
        };
        {
            let ledger = self.0.ledger.lock();
            if let Some(reason) = &ledger.broken {
                return Err(PolicyError::Ledger(reason.clone()));
            }
            if ledger.names(&digest) {
                return Ok(taken);
            }
            signature::check_version(ledger.highest.get(&manifest.name), &manifest.version)?;
        }
        let component = self.0.compiler.component(&self.0.runtime, &package)?;
        let version = |world: &World| self.version(&package, &component, *world, signer.as_deref());
        let versions = manifest.worlds.iter().map(version).collect::<Result<Vec<_>, _>>()?;
        for version in &versions {
            vectors::hold(&version.callable, manifest, version.world)?;
        }
        self.keep(&package)?;
        let mut ledger = self.0.ledger.lock();
        ledger.highest.insert(manifest.name.clone(), manifest.version.clone());
        for version in versions {
            let (world, version) = (version.world, self.counting(version));
            taken.worlds.push(world);
            self.0.metrics.changes.with_label_values(&[world.name(), "taken"]).inc();
            let rollout = self.rollout(&version, Stage::Shadow);
            let slot = Slot { candidate: Some(Trial { version, rollout }), ..(*self.slot(world)).clone() };
            self.set(world, slot);
        }
        self.save(&mut ledger, &taken.worlds);
        self.sweep(&ledger);
        Ok(taken)
    }

    pub(crate) fn signer(&self, package: &Package) -> Result<Option<String>, PolicyError> {
        let trusted = self.0.config.trusted()?;
        match signature::verify(package, &trusted) {
            Ok(signer) => Ok(Some(signer.name)),
            Err(_) if self.0.config.allow_unsigned => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Links a compiled policy for one of its worlds. It counts nothing yet.
    pub(crate) fn version(
        &self,
        package: &Package,
        component: &Component,
        world: World,
        signer: Option<&str>,
    ) -> Result<Version, PolicyError> {
        let (manifest, limits) = (&package.manifest, self.0.config.limits(world));
        Ok(Version {
            world,
            manifest: manifest.clone(),
            digest: package.digest_hex(),
            signer: signer.map(ToOwned::to_owned),
            callable: Callable::new(&self.0.runtime, component, manifest, world, limits)?,
            breaker: Breaker::new(&self.0.config.breaker),
            counters: Vec::new(),
            lines: Mutex::default(),
        })
    }

    /// Gives a version its counters. One that is refused has none: metrics are for what is here.
    pub(crate) fn counting(&self, mut version: Version) -> Arc<Version> {
        let manifest = &version.manifest;
        let counter = |name: &String| self.0.metrics.counters.with_label_values(&[&manifest.name, name]);
        version.counters = manifest.counters.iter().map(counter).collect();
        Arc::new(version)
    }

    pub(crate) fn rollout(&self, version: &Version, stage: Stage) -> Arc<Rollout> {
        let salt = u64::from_str_radix(version.digest.get(..16).unwrap_or_default(), 16).unwrap_or(0);
        let limit = version.callable.limits().time;
        Arc::new(Rollout::new(self.0.config.rollout.clone(), salt, limit, stage, Instant::now()))
    }

    /// A step of a change: what it means for who decides.
    pub(crate) fn changed(&self, world: World, rollout: &Arc<Rollout>, change: &Change) {
        let mut ledger = self.0.ledger.lock();
        let slot = self.slot(world);
        let Some(trial) = slot.candidate.clone().filter(|trial| Arc::ptr_eq(&trial.rollout, rollout)) else {
            return;
        };
        let (policy, version) = (&trial.version.manifest.name, &trial.version.manifest.version);
        let step = match change {
            Change::Advanced(Stage::Done) => {
                self.set(
                    world,
                    Slot {
                        incumbent: Some(trial.version.clone()),
                        previous: Some(slot.incumbent.clone()),
                        ..Slot::default()
                    },
                );
                log::info!(policy, version:%, world = world.name(); "the policy has taken over");
                "done"
            }
            Change::Advanced(stage) => {
                log::info!(policy, version:%, world = world.name(), stage:%; "the policy has come to its next stage");
                "advanced"
            }
            Change::Demoted(reason) => {
                self.set(world, Slot { candidate: None, ..(*slot).clone() });
                log::warn!(policy, version:%, world = world.name(); "the policy was demoted: {reason}");
                "demoted"
            }
        };
        self.0.metrics.changes.with_label_values(&[world.name(), step]).inc();
        self.save(&mut ledger, &[world]);
    }

    /// The operator's word for a candidate: on to its next stage. False when there is none.
    pub fn promote(&self, world: World) -> bool {
        let slot = self.slot(world);
        let Some(trial) = &slot.candidate else { return false };
        if let Some(change) = trial.rollout.promote(Instant::now()) {
            self.changed(world, &trial.rollout, &change);
        }
        true
    }

    /// The operator's word for a candidate: stay in this stage, or go on by itself again. False when
    /// there is none.
    pub fn hold(&self, world: World, held: bool) -> bool {
        let mut ledger = self.0.ledger.lock();
        let slot = self.slot(world);
        let Some(trial) = &slot.candidate else { return false };
        trial.rollout.hold(held);
        self.save(&mut ledger, &[world]);
        true
    }

    /// Back to what decided before, at once: a candidate goes, else what took over last gives way to
    /// what it replaced. Returns what decides now, `None` when there is no way back.
    pub fn roll_back(&self, world: World) -> Option<String> {
        let mut ledger = self.0.ledger.lock();
        let slot = self.slot(world);
        let next = match (&slot.candidate, &slot.previous) {
            (Some(trial), _) => {
                trial.rollout.demote("the operator rolled it back", Instant::now());
                Slot { candidate: None, ..(*slot).clone() }
            }
            (None, Some(previous)) => Slot {
                incumbent: previous.clone(),
                previous: Some(slot.incumbent.clone()),
                ..Slot::default()
            },
            (None, None) => return None,
        };
        let now = next.decides();
        self.set(world, next);
        self.0.metrics.changes.with_label_values(&[world.name(), "rolled-back"]).inc();
        log::warn!(world = world.name(); "rolled back: {now} decides");
        self.save(&mut ledger, &[world]);
        Some(now)
    }

    /// Takes every policy of the watched folder that is not here yet, and the tables anew.
    pub fn scan(&self) {
        match tables::load(&self.0.config.tables_file) {
            Ok(tables) => self.0.tables.store(Arc::new(tables)),
            Err(error) => log::error!("the tables of policies stay as they were: {error}"),
        }
        let folder = &self.0.config.watch_dir;
        if folder.as_os_str().is_empty() {
            return;
        }
        let files = match fs::read_dir(folder) {
            Ok(files) => files,
            Err(error) => {
                return log::error!(path:% = folder.display(); "the policies' folder cannot be read: {error}");
            }
        };
        let mut paths: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
        // No pipe, which nobody may ever write to.
        paths.retain(|path| path.to_string_lossy().ends_with(".policy.wasm") && path.is_file());
        paths.sort();
        for path in paths {
            match read(&path) {
                Ok(file) => self.take_news(file),
                Err(error) => log::error!("a policy was not taken: {error}"),
            }
        }
    }

    /// Takes a file of the watched folder, unless it was here before or was tried: old versions, and
    /// those that were refused, may lie beside the new one.
    fn take_news(&self, file: Vec<u8>) {
        // Of the whole file: one that is signed later is another.
        let tried: [u8; 32] = Sha256::digest(&file).into();
        if !self.is_newer(&file) || !self.0.tried.lock().insert(tried) {
            return;
        }
        if let Err(PolicyError::Engine(_) | PolicyError::File { .. }) = self.take(file) {
            // Not its fault: it may go better next time.
            self.0.tried.lock().remove(&tried);
        }
    }

    /// Whether a file is a policy in a version that never was here, or no policy at all.
    fn is_newer(&self, file: &[u8]) -> bool {
        let Ok(package) = Package::parse(file.to_vec()) else { return true };
        let ledger = self.0.ledger.lock();
        let highest = ledger.highest.get(&package.manifest.name);
        highest.is_none_or(|highest| package.manifest.version > *highest)
    }

    pub(crate) fn kept_path(&self, digest: &str) -> PathBuf {
        self.0.folder.join(format!("{digest}.policy.wasm"))
    }

    fn keep(&self, package: &Package) -> Result<(), PolicyError> {
        let path = self.kept_path(&package.digest_hex());
        files::replace(&path, &package.file).map_err(|source| PolicyError::File {
            what: "cannot write",
            path,
            source,
        })
    }

    /// Writes down who decides in the worlds that have changed, and removes packages that nobody
    /// needs any more. What cannot be written is in force all the same, until a restart.
    fn save(&self, ledger: &mut Ledger, changed: &[World]) {
        if ledger.broken.is_some() {
            return;
        }
        let digest = |version: &Arc<Version>| version.digest.clone();
        for world in World::ALL {
            if changed.contains(&world) {
                ledger.unloaded.remove(&world);
            } else if ledger.unloaded.contains(&world) {
                continue;
            }
            let slot = self.slot(world);
            let previous = |previous: &Option<Arc<Version>>| {
                previous.as_ref().map_or(Previous::BuiltIn, |version| Previous::Digest(digest(version)))
            };
            let entry = Entry {
                incumbent: slot.incumbent.as_ref().map(digest),
                candidate: slot.candidate.as_ref().map(|trial| Candidate {
                    digest: digest(&trial.version),
                    stage: trial.rollout.stage(),
                    held: trial.rollout.status(Instant::now()).held,
                }),
                previous: slot.previous.as_ref().map(previous),
            };
            ledger.worlds.insert(world, entry);
        }
        if let Err(error) = ledger.write(&self.0.folder) {
            log::error!("a change of policies is in force until a restart only: {error}");
            return;
        }
        // While one is taken, its files belong to nobody yet.
        if let Some(_nobody_takes) = self.0.taking.try_lock() {
            self.sweep(ledger);
        }
    }

    fn sweep(&self, ledger: &Ledger) {
        for (folder, ending) in
            [(self.0.folder.clone(), ".policy.wasm"), (self.0.folder.join("native"), ".native")]
        {
            for file in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = file.file_name();
                let Some(digest) = name.to_str().and_then(|name| name.strip_suffix(ending)) else { continue };
                if !ledger.names(digest) {
                    let _ = fs::remove_file(file.path());
                }
            }
        }
    }
}

/// Reads a package, bounded.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    use std::io::Read;

    let failed = |source| PolicyError::File { what: "cannot read", path: path.to_owned(), source };
    let mut file = Vec::new();
    fs::File::open(path).map_err(failed)?.take(MOST_PACKAGE + 1).read_to_end(&mut file).map_err(failed)?;
    Ok(file)
}
