//! The one room where native code is loaded, and memory is made to run.
//!
//! wasmtime writes code to memory and then makes that executable (mprotect(2)), which a service under
//! `MemoryDenyWriteExecute=` may not. Here code comes in a file that nobody can change any more, and its
//! text is mapped from there once more, in the place of what wasmtime mapped: to be read and run, and
//! never written.
#![allow(unsafe_code, reason = "wasmtime cannot tell sound native code from any other: see each block")]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use wasmtime::component::Component;
use wasmtime::{CustomCodeMemory, Engine};

use crate::PolicyError;
use crate::compile::Verified;

/// Not to be written, to grow or to shrink, and no seal to be added: memfd_create(2).
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);
/// Bytes of the header of an ELF64 image, and of one of its sections.
const HEADER: usize = 64;
/// A section that is run.
const SHF_EXECINSTR: u64 = 4;

thread_local! {
    /// The file that this thread loads, until its text is mapped.
    static LOADING: RefCell<Option<Arc<File>>> = const { RefCell::new(None) };
}

/// Native code of this node's compiler, in a file that nobody can change any more.
#[derive(Debug)]
pub(crate) struct Sealed(Arc<File>);

impl Sealed {
    /// Puts code into such a file.
    ///
    /// # Errors
    /// When there is no memory, or this process may make no such file.
    pub(crate) fn new(code: &Verified) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // It is mapped to be run, and not to be run as a program. Linux says so since 6.3.
        let file = match memfd_create("skerry-policy", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create("skerry-policy", flags),
            made => made,
        };
        let mut file = File::from(file?);
        file.write_all(code.bytes())?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(Self(Arc::new(file)))
    }

    /// One that the compiler's service made.
    ///
    /// # Errors
    /// When it can still be changed.
    pub(crate) fn handed(file: OwnedFd) -> io::Result<Self> {
        // What is no memfd has no seals to tell of.
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the code is not sealed"));
        }
        Ok(Self(Arc::new(file.into())))
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes the code of sealed files run: those that [`load`] loads, and nothing else.
pub(crate) struct Mapped;

impl CustomCodeMemory for Mapped {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, text: *const u8, length: usize) -> wasmtime::Result<()> {
        let file = LOADING.take().ok_or_else(|| wasmtime::Error::msg("no sealed code is being loaded"))?;
        let offset = text_offset(&file, length)?;
        // SAFETY: wasmtime hands over a range that begins with a page, and that it alone owns: of its private
        // mapping of this very file (this thread is in `load`, which maps no other), where no code runs yet.
        // It was not written to. What takes its place are the same pages of the same file, which is sealed:
        // they say what was there, and always will. The kernel keeps caches of instructions in step with
        // what it maps from a file.
        let mapped = unsafe {
            mmap(
                text.cast_mut().cast(),
                length,
                ProtFlags::READ | ProtFlags::EXEC,
                MapFlags::PRIVATE | MapFlags::FIXED,
                &*file,
                offset,
            )
        }?;
        debug_assert_eq!(mapped.cast_const().cast::<u8>(), text);
        Ok(())
    }

    fn unpublish_executable(&self, _: *const u8, _: usize) -> wasmtime::Result<()> {
        // wasmtime unmaps all of it right after this.
        Ok(())
    }
}

/// Where the one section of an ELF64 image begins that is run (System V ABI, chapter 4, "Sections").
fn text_offset(file: &File, length: usize) -> io::Result<u64> {
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let (table, size, count) = (number(&header[40..48]), number(&header[58..60]), number(&header[60..62]));
    for index in 0..count {
        let mut section = [0; HEADER];
        file.read_exact_at(&mut section, table.saturating_add(index * size))?;
        let (flags, offset) = (number(&section[8..16]), number(&section[24..32]));
        if flags & SHF_EXECINSTR != 0 && number(&section[32..40]) == length as u64 {
            return Ok(offset);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the file has no section of code"))
}

/// Loads code that this node compiled, for an engine whose memory of code is [`Mapped`].
pub(crate) fn load(engine: &Engine, code: &Sealed) -> Result<Component, PolicyError> {
    LOADING.set(Some(code.0.clone()));
    let path = format!("/proc/self/fd/{}", code.0.as_raw_fd());
    // SAFETY: `deserialize_file` asks that the file came from `Engine::precompile_component`, and is not
    // changed. A `Sealed` cannot be. It is made of a `Verified`, which `compile/keeper.rs` alone makes, of
    // bytes that its own child has just written, or that carry a MAC of them under its own key; or it was
    // handed over by the compiler's service, where nobody but systemd listens, and which makes it of a
    // `Verified` too. That it is for this engine's settings and this version of wasmtime is checked by
    // wasmtime itself.
    let loaded = unsafe { Component::deserialize_file(engine, path) };
    LOADING.set(None);
    loaded.map_err(|error| PolicyError::Compile(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compile::Keeper;
    use crate::{Room, Runtime};

    fn guest() -> Vec<u8> {
        let text = r#"(component (core module (func (export "f") (result i32) (i32.const 42))))"#;
        wat::parse_str(text).unwrap()
    }

    fn sealed() -> Sealed {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(None, folder.path(), Duration::from_secs(60), 1 << 30).unwrap();
        Sealed::new(&keeper.compile(&guest(), false).unwrap()).unwrap()
    }

    #[test]
    fn code_runs_where_nobody_writes() {
        let runtime = Runtime::new(Room { instances: 1, memory_bytes: 16 << 20, lines: false }).unwrap();
        let component = load(runtime.engine(), &sealed()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(
            maps.lines().any(|line| line.contains("r-xp") && line.contains("memfd:skerry-policy")),
            "{maps}"
        );
        assert!(!maps.contains("rwxp"), "{maps}");
        drop(component);
        // Nothing else is made to run.
        let error = Component::new(runtime.engine(), guest()).err().unwrap();
        assert!(format!("{error:#}").contains("no sealed code"), "{error:#}");
    }

    #[test]
    fn what_is_sealed_stays_as_it_is() {
        let Sealed(file) = sealed();
        let length = file.metadata().unwrap().len();
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.write_at(b"x", length).is_err());
        assert!(file.set_len(0).is_err());
        assert!(fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err());
        assert_eq!(file.metadata().unwrap().len(), length);
    }

    #[test]
    fn what_can_be_changed_is_not_taken() {
        let file = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        assert!(Sealed::handed(file.try_clone().unwrap()).is_err());
        fcntl_add_seals(&file, SEALS).unwrap();
        assert!(Sealed::handed(file).is_ok());
        assert!(Sealed::handed(tempfile::tempfile().unwrap().into()).is_err());
    }
}
