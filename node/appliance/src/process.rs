//! Other programs, run to their end within a time, and what they said within bounds.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that are kept of each output.
const MOST: u64 = 512 << 10;
const PERIOD: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs a program with these arguments and nothing on its standard input.
///
/// # Errors
/// When it cannot be started, and `TimedOut` when it was killed after its time.
pub fn run(program: &Path, arguments: &[&str], patience: Duration) -> io::Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_command(command, patience)
}

/// Runs a command that was prepared, as [`run`] does.
///
/// # Errors
/// As for [`run`].
pub fn run_command(mut command: Command, patience: Duration) -> io::Result<Ended> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(
            |error| {
                let program = command.get_program().to_string_lossy().into_owned();
                io::Error::new(error.kind(), format!("cannot run {program}: {error}"))
            },
        )?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            let program = command.get_program().to_string_lossy().into_owned();
            let words = format!("{program} did not end in {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        thread::sleep(PERIOD);
    };
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    Ok(Ended { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads an output to its end, and keeps its beginning.
fn reader(output: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut output) = output {
            let _ = output.by_ref().take(MOST).read_to_end(&mut kept);
            let _ = io::copy(&mut output, &mut io::sink());
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> io::Result<Ended> {
        run(Path::new("/bin/sh"), &["-c", script], patience)
    }

    #[test]
    fn what_a_program_says_is_kept() {
        let ended = shell("echo out; echo err >&2; exit 3", Duration::from_secs(30)).unwrap();
        assert_eq!(
            (ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        let ended = shell("yes | head -c 600000", Duration::from_secs(30)).unwrap();
        assert_eq!((ended.status.code(), ended.stdout.len() as u64), (Some(0), MOST));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = shell("exec sleep 60", Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(run(Path::new("/nonexistent"), &[], Duration::ZERO).is_err());
    }
}
