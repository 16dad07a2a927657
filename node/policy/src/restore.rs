//! What decided before this start decides again: at once where it is kept compiled, else as soon as
//! it is. A new version of wasmtime must compile everything anew, and no node waits for that: it
//! serves, and the thread of changes does the work, one package after another.
//!
//! Until all of a world is there, nothing changes in it: its incumbent decides if that is loaded, else
//! the built-in verdict; no candidate is asked, no step is made, and what is pushed waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use wasmtime::component::Component;

use crate::PolicyError;
use crate::change::read;
use crate::ledger::{Candidate, Entry, Previous};
use crate::manifest::World;
use crate::package::Package;
use crate::policies::{Inner, Policies, Slot, Trial};
use crate::rollout::Stage;
use crate::version::Version;

/// A world that comes back. Where that is given up, what is loaded by then is all there is.
struct Returning {
    inner: Weak<Inner>,
    world: World,
    entry: Entry,
    loaded: BTreeMap<String, Arc<Version>>,
    /// Digests of what is not compiled, the incumbent's first.
    missing: VecDeque<String>,
    /// Whether something cannot be loaded at all.
    lost: bool,
}

impl Policies {
    /// Loads what decided before this start, as far as it is compiled, and has the rest compiled.
    pub(crate) fn restore(&self) {
        let mut ledger = self.0.ledger.lock();
        for (world, entry) in ledger.worlds.clone() {
            let mut returning = Returning {
                inner: Arc::downgrade(&self.0),
                world,
                entry,
                loaded: BTreeMap::new(),
                missing: VecDeque::new(),
                lost: false,
            };
            for digest in returning.wanted() {
                let kept = |package: &Package| Ok(self.0.compiler.kept(&self.0.runtime, package));
                match self.again(&digest, world, kept) {
                    Ok(Some(version)) => _ = returning.loaded.insert(digest, version),
                    Ok(None) => returning.missing.push_back(digest),
                    Err(error) => returning.loses(&digest, &error),
                }
            }
            let slot = self.slot_again(&returning);
            if returning.missing.is_empty() {
                if returning.lost {
                    ledger.unloaded.insert(world);
                }
                self.set(world, slot);
                continue;
            }
            ledger.unloaded.insert(world);
            let slot = slot.meanwhile();
            log::warn!(
                world = world.name(), packages = returning.missing.len();
                "policies must be compiled anew; until they are, {} decides", slot.decides()
            );
            self.set(world, slot);
            self.later(move |policies| policies.go_on(returning));
        }
    }

    /// Compiles one of the packages that a world lacks; after the last one the world is as it was.
    fn go_on(&self, mut returning: Returning) {
        let world = returning.world;
        if let Some(digest) = returning.missing.pop_front() {
            let compiled = |package: &Package| self.0.compiler.component(&self.0.runtime, package).map(Some);
            match self.again(&digest, world, compiled) {
                Ok(version) => returning.loaded.extend(version.map(|version| (digest, version))),
                Err(error) => returning.loses(&digest, &error),
            }
        }
        let slot = self.slot_again(&returning);
        let mut ledger = self.0.ledger.lock();
        if !returning.missing.is_empty() {
            self.set(world, slot.meanwhile());
            // Other jobs have their turn.
            return self.later(move |policies| policies.go_on(returning));
        }
        if !returning.lost {
            ledger.unloaded.remove(&world);
        }
        log::info!(world = world.name(); "policies are restored: {} decides", slot.decides());
        self.set(world, slot);
        self.0.restored.notify_all();
    }

    /// Waits until no world lacks anything.
    pub(crate) fn wait_restored(&self) {
        // Worlds come back under this lock.
        let mut ledger = self.0.ledger.lock();
        while World::ALL.into_iter().any(|world| self.slot(world).restoring) {
            self.0.restored.wait(&mut ledger);
        }
    }

    /// A package that was taken before, in one of its worlds; none when `code` has none for it.
    fn again(
        &self,
        digest: &str,
        world: World,
        code: impl FnOnce(&Package) -> Result<Option<Component>, PolicyError>,
    ) -> Result<Option<Arc<Version>>, PolicyError> {
        let package = Package::parse(read(&self.kept_path(digest))?)?;
        if package.digest_hex() != digest || !package.manifest.worlds.contains(&world) {
            return Err(PolicyError::Unknown(digest.to_owned()));
        }
        // A signer may have been taken off the list since.
        let signer = self.signer(&package)?;
        let Some(component) = code(&package)? else { return Ok(None) };
        let version = self.version(&package, &component, world, signer.as_deref())?;
        Ok(Some(self.counting(version)))
    }

    /// Who decides by an entry of the ledger, as far as it is loaded.
    fn slot_again(&self, returning: &Returning) -> Slot {
        let Returning { entry, loaded, .. } = returning;
        let load = |digest: &String| loaded.get(digest).cloned();
        let slot = Slot {
            incumbent: entry.incumbent.as_ref().and_then(load),
            previous: match &entry.previous {
                None => None,
                Some(Previous::BuiltIn) => Some(None),
                Some(Previous::Digest(digest)) => load(digest).map(Some),
            },
            ..Slot::default()
        };
        match &entry.candidate {
            // The step was made and not written down.
            None | Some(Candidate { stage: Stage::Demoted, .. }) => slot,
            Some(Candidate { stage: Stage::Done, digest, .. }) => match load(digest) {
                Some(version) => {
                    Slot { previous: Some(slot.incumbent), incumbent: Some(version), ..Slot::default() }
                }
                None => slot,
            },
            Some(Candidate { stage, digest, held }) => {
                let candidate = load(digest).map(|version| {
                    let rollout = self.rollout(&version, *stage);
                    rollout.hold(*held || !self.0.config.rollout.automatic);
                    Trial { version, rollout }
                });
                Slot { candidate, ..slot }
            }
        }
    }
}

impl Slot {
    /// What of it holds while something is missing.
    fn meanwhile(self) -> Self {
        Self { incumbent: self.incumbent, restoring: true, ..Self::default() }
    }
}

impl Returning {
    /// Digests of what the world needs. A candidate that was demoted is needed no more.
    fn wanted(&self) -> Vec<String> {
        let demoted = self.entry.candidate.as_ref().filter(|candidate| candidate.stage == Stage::Demoted);
        let gone = |digest: &&String| demoted.is_some_and(|candidate| candidate.digest == **digest);
        self.entry.digests().filter(|digest| !gone(digest)).cloned().collect()
    }

    fn loses(&mut self, digest: &str, error: &PolicyError) {
        self.lost = true;
        log::error!(world = self.world.name(), digest; "a policy cannot be loaded any more: {error}");
    }
}

impl Drop for Returning {
    /// Nobody waits for a world on which the work ended in a panic.
    fn drop(&mut self) {
        let Some(policies) = self.inner.upgrade().map(Policies) else { return };
        let slot = policies.slot(self.world);
        // When it has come back, or begins to, whoever does that holds the lock.
        if slot.restoring {
            let _ledger = policies.0.ledger.lock();
            policies.set(self.world, Slot { restoring: false, ..(*slot).clone() });
            policies.0.restored.notify_all();
        }
    }
}
