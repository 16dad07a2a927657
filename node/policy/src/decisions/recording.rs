//! Recordings: decisions in a file, one a line, each by itself.
//!
//! The first line is [`HEADER`]; each further one is
//!
//! ```text
//! {"check":"0123456789abcdef","decision":{...}}
//! ```
//!
//! with the XXH3-64 hash, in hexadecimal digits, of the bytes of the decision's JSON as they stand,
//! from `{` to `}`. So a line that a crash has cut, or a disk has changed, is told from a whole one,
//! and the others are read. Every line is JSON for any tool; one that writes lines anew has to leave
//! the bytes of decisions alone. Numbers are integers of up to 64 bits.

use std::io::{self, BufRead, Read};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::Decision;

/// The first line of a recording.
pub const HEADER: &str = "{\"format\":\"skerry-decisions\",\"version\":1}\n";
/// Longest line, bytes, its end included: several times what 4096 rows take.
pub const LONGEST_LINE: usize = 8 << 20;

const FORMAT: &str = "skerry-decisions";
const VERSION: u32 = 1;
const CHECK: &[u8] = b"{\"check\":\"";
const CHECK_DIGITS: usize = 16;
const DECISION: &[u8] = b"\",\"decision\":";
const END: &[u8] = b"}";

/// Why a line of a recording is no decision. But for `Read`, `Format` and `Version` the lines after
/// it can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be read.
    #[error("line {line}: cannot be read: {source}")]
    Read {
        /// Line, from 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("line 1: this is no recording of decisions; one begins with {}", HEADER.trim_end())]
    Format,
    /// A recording in another form.
    #[error("line 1: a recording of version {found}; version {VERSION} can be read")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The last line has no end, since the node was stopped while it wrote.
    #[error("line {line}: the record is cut off, and left out")]
    Torn {
        /// Line, from 1.
        line: u64,
    },
    /// It is not what was written.
    #[error("line {line}: the record does not match its checksum, and is left out")]
    Damaged {
        /// Line, from 1.
        line: u64,
    },
    /// It is longer than any record may be.
    #[error("line {line}: longer than {LONGEST_LINE} bytes, and left out")]
    TooLong {
        /// Line, from 1.
        line: u64,
    },
    /// It is what was written, and no decision.
    #[error("line {line}: the record is no decision: {reason}")]
    Decision {
        /// Line, from 1.
        line: u64,
        /// What was expected, and what was found.
        reason: String,
    },
}

impl RecordError {
    /// The line, from 1.
    pub fn line(&self) -> u64 {
        match self {
            Self::Format | Self::Version { .. } => 1,
            Self::Read { line, .. }
            | Self::Torn { line }
            | Self::Damaged { line }
            | Self::TooLong { line }
            | Self::Decision { line, .. } => *line,
        }
    }
}

/// A decision as a line of a recording, its end included. The same decision is always the same line.
///
/// # Errors
/// When a value has no form in JSON, which none of a decision's has.
pub fn encode(decision: &Decision) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(decision)?;
    let check = format!("{:016x}", xxh3_64(&json));
    Ok([CHECK, check.as_bytes(), DECISION, json.as_slice(), END, b"\n".as_slice()].concat())
}

/// Reads a recording, line by line. What is wrong with a line takes its place.
pub fn read_recording<R: BufRead>(input: R) -> Recording<R> {
    Recording { input, line: 0, over: false, buffer: Vec::new() }
}

/// The decisions of a recording, in the order in which they were written.
#[derive(Debug)]
pub struct Recording<R> {
    input: R,
    /// Number of the line in `buffer`.
    line: u64,
    over: bool,
    buffer: Vec<u8>,
}

/// How a line ended.
#[derive(PartialEq)]
enum Ended {
    Whole,
    /// At the end of the file.
    Cut,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

impl<R: BufRead> Iterator for Recording<R> {
    type Item = Result<Decision, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if self.line == 0
            && let Err(error) = self.header()
        {
            self.over = true;
            return Some(Err(error));
        }
        match self.read() {
            Ok(Some(ended)) => Some(self.decision(&ended)),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = matches!(error, RecordError::Read { .. });
                Some(Err(error))
            }
        }
    }
}

impl<R: BufRead> Recording<R> {
    fn header(&mut self) -> Result<(), RecordError> {
        let ended = match self.read() {
            Ok(ended) => ended,
            Err(RecordError::TooLong { .. }) => return Err(RecordError::Format),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Header>(&self.buffer) {
            Ok(header) if header.format != FORMAT => Err(RecordError::Format),
            Ok(header) if header.version != VERSION => Err(RecordError::Version { found: header.version }),
            Ok(_) => Ok(()),
            Err(_) if ended != Some(Ended::Whole) && HEADER.as_bytes().starts_with(&self.buffer) => {
                Err(RecordError::Torn { line: 1 })
            }
            Err(_) => Err(RecordError::Format),
        }
    }

    /// Reads the next line into the buffer, without its end; none at the end of the file.
    fn read(&mut self) -> Result<Option<Ended>, RecordError> {
        self.line += 1;
        self.buffer.clear();
        let line = self.line;
        let failed = |source| RecordError::Read { line, source };
        let mut input = self.input.by_ref().take(LONGEST_LINE as u64);
        let read = input.read_until(b'\n', &mut self.buffer).map_err(failed)?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            return Ok(Some(Ended::Whole));
        }
        if read == LONGEST_LINE {
            self.input.skip_until(b'\n').map_err(failed)?;
            return Err(RecordError::TooLong { line });
        }
        Ok((read > 0).then_some(Ended::Cut))
    }

    fn decision(&self, ended: &Ended) -> Result<Decision, RecordError> {
        let line = self.line;
        let Some(json) = checked(&self.buffer) else {
            return Err(match ended {
                Ended::Whole => RecordError::Damaged { line },
                Ended::Cut => RecordError::Torn { line },
            });
        };
        serde_json::from_slice(json).map_err(|error| {
            // serde_json counts lines, too, but within the record.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
            RecordError::Decision { line, reason }
        })
    }
}

/// The decision's JSON of a line, if it is what was written.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (check, rest) = line.strip_prefix(CHECK)?.split_at_checked(CHECK_DIGITS)?;
    let json = rest.strip_prefix(DECISION)?.strip_suffix(END)?;
    let right = format!("{:016x}", xxh3_64(json));
    (check == right.as_bytes()).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decisions, plan, route, schedule};
    use super::*;

    fn written(decisions: &[Decision]) -> Vec<u8> {
        let mut file = HEADER.as_bytes().to_vec();
        for decision in decisions {
            file.extend(encode(decision).unwrap());
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<Decision>, Vec<String>) {
        let (mut decisions, mut errors) = (Vec::new(), Vec::new());
        for record in read_recording(file) {
            match record {
                Ok(decision) => decisions.push(decision),
                Err(error) => errors.push(error.to_string()),
            }
        }
        (decisions, errors)
    }

    #[test]
    fn what_was_read_is_written_again_byte_for_byte() {
        let decisions = decisions(50);
        let file = written(&decisions);
        let (again, errors) = read(&file);
        assert_eq!((&again, errors), (&decisions, vec![]));
        assert_eq!(written(&again), file);
    }

    #[test]
    fn the_form_is_this_one() {
        let text = String::from_utf8(written(&[schedule(3)])).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], "{\"format\":\"skerry-decisions\",\"version\":1}\n");
        let line: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        let decision = &line["decision"];
        assert_eq!(line["check"].as_str().unwrap().len(), 16);
        assert_eq!(decision["sequence"], 3);
        assert_eq!(decision["world"], "super-peer-scheduler");
        assert_eq!(decision["stage"], "canary-10");
        assert_eq!(decision["inputs"]["super-peer-scheduler"]["request"]["seed"], u64::MAX);
        assert_eq!(decision["lookups"][0]["value"], i64::MIN);
        assert_eq!(decision["verdict"]["answer"]["scheduled"]["more-copies"], 64);
        assert_eq!(serde_json::to_value(plan(1)).unwrap()["verdict"]["fallback"], "deadline");
    }

    #[test]
    fn a_last_line_that_a_crash_has_cut_is_told_and_the_others_are_read() {
        let decisions = [route(1), plan(2), schedule(3)];
        let file = written(&decisions);
        let last = file.len() - encode(&decisions[2]).unwrap().len();
        for cut in last..file.len() - 1 {
            let (read, errors) = read(&file[..cut]);
            assert_eq!(read, decisions[..2], "cut at {cut}");
            let told: &[&str] =
                if cut == last { &[] } else { &["line 4: the record is cut off, and left out"] };
            assert_eq!(errors, told, "cut at {cut}");
        }
        // Only the end of its line is missing: the record is whole.
        assert_eq!(read(&file[..file.len() - 1]), (decisions.to_vec(), vec![]));
    }

    #[test]
    fn a_header_that_a_crash_has_cut_is_told() {
        for cut in 0..HEADER.len() - 1 {
            let (read, errors) = read(&HEADER.as_bytes()[..cut]);
            assert_eq!((read, errors), (vec![], vec!["line 1: the record is cut off, and left out".into()]));
        }
        assert_eq!(read(HEADER.as_bytes()), (vec![], vec![]));
    }

    #[test]
    fn a_changed_byte_costs_one_record() {
        let decisions = [route(1), route(2), route(3)];
        let file = written(&decisions);
        let first = HEADER.len() + encode(&decisions[0]).unwrap().len();
        let second = first + encode(&decisions[1]).unwrap().len();
        for at in first..second - 1 {
            let mut file = file.clone();
            file[at] ^= 1;
            let (read, errors) = read(&file);
            assert_eq!(read, [route(1), route(3)], "byte {at}");
            assert_eq!(errors, ["line 3: the record does not match its checksum, and is left out"]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_not_kept_in_memory() {
        let mut file = HEADER.as_bytes().to_vec();
        file.resize(file.len() + LONGEST_LINE * 2, b'x');
        file.push(b'\n');
        file.extend(encode(&route(1)).unwrap());
        let mut recording = read_recording(&file[..]);
        let error = recording.next().unwrap().unwrap_err();
        assert!(matches!(error, RecordError::TooLong { line: 2 }), "{error}");
        assert_eq!(recording.next().unwrap().unwrap(), route(1));
        assert!(recording.next().is_none());
        assert!(recording.buffer.capacity() <= 2 * LONGEST_LINE);
    }

    #[test]
    fn a_record_of_another_form_is_named() {
        let json = br#"{"sequence":"one"}"#;
        let mut file = HEADER.as_bytes().to_vec();
        file.extend(format!("{{\"check\":\"{:016x}\",\"decision\":", xxh3_64(json)).as_bytes());
        file.extend_from_slice(json);
        file.extend_from_slice(b"}\n");
        let (_, errors) = read(&file);
        let told = r#"line 2: the record is no decision: invalid type: string "one", expected u64"#;
        assert_eq!(errors, [told]);
    }

    #[test]
    fn other_files_and_other_versions_are_refused_at_once() {
        for other in ["\n", "x", "{}\n", "{\"format\":\"else\",\"version\":1}\n", "\0\0\0\n"] {
            let (_, errors) = read(other.as_bytes());
            assert_eq!(errors.len(), 1, "{other:?}");
            assert!(errors[0].contains("no recording of decisions"), "{other:?}: {errors:?}");
        }
        let (_, errors) = read(b"{\"format\":\"skerry-decisions\",\"version\":2}\n{}\n");
        assert_eq!(errors, ["line 1: a recording of version 2; version 1 can be read"]);
        assert_eq!(read_recording(&b"x"[..]).next().unwrap().unwrap_err().line(), 1);
    }
}
