//! The compiler as a service of its own (`skerry-compile@.service`): a process for each request, that
//! systemd starts with the connection as its standard input.
//!
//! A request is a line of JSON and the component, to the end of what the node sends. The answer is a line
//! of JSON, and with its first byte the code in a sealed file (SCM_RIGHTS, unix(7)). Only the node may
//! connect (`SocketUser=`), and it may have been taken over: whatever it sends, it is given code that this
//! compiler made of the component that came.

use std::hash::{Hash, Hasher};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keeper::Keeper;
use super::{bounded, sealed};
use crate::native::Sealed;
use crate::package::MOST_COMPONENT;
use crate::{PolicyError, engine};

/// Longest line of either side, bytes.
const MOST_LINE: usize = 64 << 10;
/// Longest reason of a failure, characters.
const MOST_REASON: usize = 4 << 10;
/// Longest compilation, seconds: systemd ends the service after that.
const MOST_SECONDS: u64 = 15 * 60;
/// Components whose code is kept.
const KEPT: usize = 12;
/// How long one side waits for the other, beside the time of a compilation: a service must start.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Only if it is kept: compile nothing.
    kept: bool,
    /// As [`crate::Room`] has them.
    lines: bool,
    /// Longest compilation.
    seconds: u64,
    /// Memory of a compilation.
    memory_bytes: u64,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The code goes with it.
    Code,
    /// It is not kept.
    NotKept,
    /// Why the component does not compile.
    Refused(String),
    /// Why the service has no code, which is not the component's fault.
    Failed(String),
}

/// The service, from the node's side.
pub(super) struct Service {
    socket: PathBuf,
    time: Duration,
    memory_bytes: u64,
    patience: Duration,
}

impl Service {
    pub(super) fn new(socket: PathBuf, time: Duration, memory_bytes: u64) -> Self {
        Self { socket, time, memory_bytes, patience: PATIENCE }
    }

    /// Code that is kept, or compiled now. Blocks, for seconds.
    ///
    /// # Errors
    /// When the component does not compile, or the service fails or does not answer.
    pub(super) fn code(&self, component: &[u8], lines: bool) -> Result<Sealed, PolicyError> {
        let code = self.ask(component, lines, false)?;
        code.ok_or_else(|| self.failed(invalid("it compiles nothing")))
    }

    /// Code that is kept.
    ///
    /// # Errors
    /// When the service fails or does not answer.
    pub(super) fn kept(&self, component: &[u8], lines: bool) -> Result<Option<Sealed>, PolicyError> {
        self.ask(component, lines, true)
    }

    fn ask(&self, component: &[u8], lines: bool, kept: bool) -> Result<Option<Sealed>, PolicyError> {
        let request = Request { kept, lines, seconds: self.time.as_secs(), memory_bytes: self.memory_bytes };
        // The service ends a compilation itself, with a reason.
        let patience = if kept { self.patience } else { self.time.saturating_add(self.patience) };
        let asked = self.exchange(&request, component, patience).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer"),
            _ => error,
        });
        match asked.map_err(|error| self.failed(error))? {
            (Answer::Code, Some(code)) => Ok(Some(code)),
            (Answer::Code, None) => Err(self.failed(invalid("no code came with the answer"))),
            (Answer::NotKept, _) => Ok(None),
            (Answer::Refused(reason), _) => Err(PolicyError::Compile(reason)),
            (Answer::Failed(reason), _) => Err(self.failed(io::Error::other(reason))),
        }
    }

    fn exchange(
        &self,
        request: &Request,
        component: &[u8],
        patience: Duration,
    ) -> io::Result<(Answer, Option<Sealed>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        stream.write_all(&line(request)?)?;
        stream.write_all(component)?;
        stream.shutdown(Shutdown::Write)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut first = [0u8];
        let came = rustix::io::retry_on_intr(|| {
            let mut into = [IoSliceMut::new(&mut first)];
            recvmsg(&stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        if came.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it gives no answer"));
        }
        let mut file = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                file = file.or(files.next());
            }
        }
        let mut text = first.to_vec();
        text.append(&mut bounded(&stream, MOST_LINE as u64)?);
        Ok((serde_json::from_slice(&text)?, file.map(Sealed::handed).transpose()?))
    }

    fn failed(&self, source: io::Error) -> PolicyError {
        PolicyError::File { what: "cannot get code from the compiler at", path: self.socket.clone(), source }
    }
}

/// What the service does: answers the one request of a connection. `worker` is the program to run as the
/// child (`None` compiles in this process: tests), `folder` keeps what was compiled, and the key of that.
///
/// # Errors
/// When the connection breaks, or no request comes over it. That there is no code is an answer.
pub fn serve(mut connection: UnixStream, worker: Option<PathBuf>, folder: &Path) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let bytes = bounded(&connection, MOST_LINE as u64 + MOST_COMPONENT)?;
    let end = bytes.iter().take(MOST_LINE).position(|byte| *byte == b'\n');
    let (request, component) = bytes.split_at(end.ok_or_else(|| invalid("no request came"))?);
    let request: Request = serde_json::from_slice(request)?;
    let short = |reason: String| reason.chars().take(MOST_REASON).collect::<String>();
    let (answer, code) = match code(&request, &component[1..], worker, folder) {
        Ok(Some(code)) => (Answer::Code, Some(code)),
        Ok(None) => (Answer::NotKept, None),
        Err(PolicyError::Compile(reason)) => (Answer::Refused(short(reason)), None),
        Err(error) => (Answer::Failed(short(error.to_string())), None),
    };
    send(&mut connection, &answer, code.as_ref().map(AsFd::as_fd))
}

fn send(connection: &mut UnixStream, answer: &Answer, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let line = line(answer)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(file) = &file {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(&*connection, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)
    })?;
    connection.write_all(&line[sent..])
}

/// The code of a component, if it is kept or may be compiled.
fn code(
    request: &Request,
    component: &[u8],
    worker: Option<PathBuf>,
    folder: &Path,
) -> Result<Option<Sealed>, PolicyError> {
    let time = Duration::from_secs(request.seconds.min(MOST_SECONDS));
    let keeper = Keeper::new(worker, folder, time, request.memory_bytes)?;
    let name = name(component, request.lines)?;
    let code = match keeper.kept(&name) {
        Some(code) => {
            keeper.touch(&name);
            code
        }
        None if request.kept => return Ok(None),
        None => {
            let code = keeper.compile(component, request.lines)?;
            keeper.keep(&name, &code);
            keeper.thin(KEPT);
            code
        }
    };
    sealed(&code).map(Some)
}

/// What code is kept by: the component and all that its code depends on. The node has no say in it, so that
/// it cannot have one component's code given for another.
fn name(component: &[u8], lines: bool) -> Result<String, PolicyError> {
    let engine = engine::compiler(lines)?;
    let mut digest = Digested(Sha256::new());
    let component: [u8; 32] = Sha256::digest(component).into();
    digest.write(&component);
    engine.precompile_compatibility_hash().hash(&mut digest);
    let name: [u8; 32] = digest.0.finalize().into();
    Ok(name.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// SHA-256 of what is hashed.
struct Digested(Sha256);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::{fs, thread};

    use tempfile::TempDir;

    use super::*;
    use crate::{Room, Runtime, native};

    fn guest(answer: u32) -> Vec<u8> {
        let text = r#"(component (core module (func (export "f") (result i32) (i32.const N))))"#;
        wat::parse_str(text.replace('N', &answer.to_string())).unwrap()
    }

    /// A service that does this with each connection.
    fn listening(folder: &TempDir, each: impl Fn(UnixStream) + Send + 'static) -> Service {
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for connection in listener.incoming() {
                each(connection.unwrap());
            }
        });
        Service::new(socket, Duration::from_secs(60), 1 << 30)
    }

    fn heard(connection: &UnixStream) {
        bounded(connection, 1 << 20).unwrap();
    }

    /// What a node says of a service that does this with a connection.
    fn refusal(each: fn(UnixStream)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let service = listening(&folder, each);
        let service = Service { time: Duration::ZERO, patience: Duration::from_secs(2), ..service };
        let error = service.code(b"component", false).err().unwrap();
        assert!(matches!(error, PolicyError::File { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn code_is_kept_by_the_component_and_comes_in_a_sealed_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let of = state.clone();
        let service = listening(&folder, move |connection| serve(connection, None, &of).unwrap());
        let is_kept = |answer, lines| service.kept(&guest(answer), lines).unwrap().is_some();
        assert!(!is_kept(1, false));
        let code = service.code(&guest(1), false).unwrap();
        let runtime = Runtime::new(Room { instances: 1, memory_bytes: 16 << 20, lines: false }).unwrap();
        native::load(runtime.engine(), &code).unwrap();
        assert_eq!([is_kept(1, false), is_kept(1, true), is_kept(2, false)], [true, false, false]);
        let files = fs::read_dir(&state).unwrap().map(|file| file.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().is_some()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        fs::write(&files[0], "code of somebody else").unwrap();
        assert!(!is_kept(1, false));
    }

    #[test]
    fn a_component_that_does_not_compile_is_no_failure_of_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let of = state.clone();
        let service = listening(&folder, move |connection| serve(connection, None, &of).unwrap());
        let refused = service.code(b"no component", false);
        assert!(matches!(refused, Err(PolicyError::Compile(_))), "{refused:?}");
        // Where it has no folder it has no key.
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "no folder").unwrap();
        let error = service.code(&guest(1), false).unwrap_err();
        assert!(matches!(error, PolicyError::File { .. }), "{error}");
        assert!(error.to_string().contains("cannot make the folder"), "{error}");
    }

    #[test]
    fn what_is_no_answer_is_told_from_one() {
        let said = refusal(|connection| heard(&connection));
        assert!(said.ends_with("it gives no answer"), "{said}");
        let said = refusal(std::mem::forget);
        assert!(said.ends_with("it does not answer"), "{said}");
        refusal(|mut connection| {
            heard(&connection);
            connection.write_all(b"yes\n").unwrap();
        });
        let said = refusal(|mut connection| {
            heard(&connection);
            send(&mut connection, &Answer::Code, None).unwrap();
        });
        assert!(said.ends_with("no code came with the answer"), "{said}");
        let said = refusal(|mut connection| {
            heard(&connection);
            let file = tempfile::tempfile().unwrap();
            send(&mut connection, &Answer::Code, Some(file.as_fd())).unwrap();
        });
        assert!(said.ends_with("the code is not sealed"), "{said}");
        let nobody = Service::new("/nowhere".into(), Duration::ZERO, 0).kept(b"component", false);
        assert!(matches!(nobody, Err(PolicyError::File { .. })), "{nobody:?}");
    }
}
