//! The screen of a box: `skerry-box screen`, on a monitor and on a serial line, in place of a login.
//!
//! It only shows: nothing is read from the terminal. A monitor is painted anew, a serial line gets a few more
//! lines of text, each only when something changed, so that what is recorded of it can be read.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Settings;
use crate::facts;
use crate::health::{Health, Reach};
use crate::layout::Layout;
use crate::rollback::Failed;
use crate::status::{self, BoxState, clean};

/// Columns and lines of a terminal that shows it all.
const COLUMNS: usize = 79;
const LINES: usize = 23;
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);
/// A monitor is painted anew after so long, whatever the kernel wrote onto it.
const REPAINT: Duration = Duration::from_secs(60);

/// All that is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    name: String,
    addresses: Vec<String>,
    health: String,
    node_version: String,
    machine_id: String,
    state: BoxState,
}

/// Shows the box until the terminal goes away.
///
/// # Errors
/// When nothing can be written to it any more.
pub fn run(layout: &Layout, serial: bool, mut out: impl Write) -> io::Result<()> {
    let (mut shown, mut at) = (None, Instant::now());
    loop {
        let view = View::of(layout);
        if shown.as_ref() != Some(&view) || !serial && at.elapsed() >= REPAINT {
            out.write_all(paint(&view, serial).as_bytes())?;
            out.flush()?;
            (shown, at) = (Some(view), Instant::now());
        }
        thread::sleep(PERIOD);
    }
}

impl View {
    fn of(layout: &Layout) -> Self {
        let state = status::told(layout).unwrap_or_default();
        let (health, told) = if state.provisioned { health(layout) } else { Default::default() };
        let named = Settings::load(&layout.config()).map(|settings| settings.node.name).unwrap_or_default();
        Self {
            name: if named.is_empty() { facts::hostname(layout) } else { named },
            addresses: facts::addresses(layout).iter().map(ToString::to_string).collect(),
            health: told,
            node_version: health.version,
            machine_id: facts::machine_id(layout).unwrap_or_default(),
            state,
        }
    }

    fn lines(&self) -> Vec<String> {
        let state = &self.state;
        let title = format!("Skerry  {}", if self.name.is_empty() { "(no name)" } else { &self.name });
        let mut lines = vec![clean(&title, COLUMNS), "-".repeat(COLUMNS)];
        let mut row = |what: &str, text: &str| {
            for (place, part) in wrapped(text, COLUMNS - 11).into_iter().enumerate() {
                let what = if place == 0 { what } else { "" };
                lines.push(format!("{what:<11}{part}").trim_end().to_owned());
            }
        };
        let addresses = self.addresses.join(" ");
        row("addresses", if addresses.is_empty() { "none yet" } else { &addresses });
        let waits = "waits for its configuration";
        row("health", if state.provisioned { self.health.as_str() } else { waits });
        let version = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        let trial = if state.on_trial { ", on trial" } else { "" };
        row(
            "versions",
            &format!("image {}{trial}, node {}", version(&state.image_version), version(&self.node_version)),
        );
        if !state.slot.is_empty() {
            row("slot", &state.slot);
        }
        if !self.machine_id.is_empty() {
            row("machine", &self.machine_id);
        }
        if let Some(Failed { version, reason, .. }) = &state.previous_failed {
            row("went back", &format!("from version {version}: {reason}"));
        }
        if state.wrong.is_empty() {
            row("wrong", "nothing");
        }
        for wrong in &state.wrong {
            row("WRONG", &format!("{}: {}", wrong.unit, wrong.line()));
        }
        if lines.len() > LINES {
            lines.truncate(LINES - 1);
            lines.push("           and more; the journal has it all".into());
        }
        lines
    }
}

/// What the node says now, and in words.
fn health(layout: &Layout) -> (Health, String) {
    let health = match Reach::of(layout) {
        Ok(reach) => reach.look(),
        Err(words) => Health { wrong: vec![words], ..Health::default() },
    };
    let words = match health.wrong.first() {
        Some(wrong) => wrong.clone(),
        None => match health.control {
            None => "ready and serving".to_owned(),
            Some(true) => "ready and serving, the control node answers".to_owned(),
            Some(false) => "ready and serving, the control node does not answer".to_owned(),
        },
    };
    (health, clean(&words, 300))
}

fn paint(view: &View, serial: bool) -> String {
    let lines = view.lines();
    if serial {
        return format!("\r\n{}\r\n", lines.join("\r\n"));
    }
    // Home, each line to its end, and what is below.
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\r\n\x1b[J", lines.join("\r\n"))
}

/// A text in lines of at most so many characters, parted at spaces where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in clean(text, 1000).split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (place, part) in letters.chunks(width).enumerate() {
            let gap = usize::from(used > 0 && place == 0);
            if used + gap + part.len() > width {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                if used > 0 {
                    line.push(' ');
                    used += 1;
                }
                line.extend(part);
                used += part.len();
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Wrong;

    fn view() -> View {
        View {
            name: "edge-7".into(),
            addresses: vec!["192.0.2.7".into(), "2001:db8::7".into()],
            health: "ready and serving".into(),
            node_version: "0.1.0".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            state: BoxState {
                image_version: "2".into(),
                slot: "skerry_2 (vda4)".into(),
                provisioned: true,
                ..BoxState::default()
            },
        }
    }

    fn fits(view: &View) -> String {
        let lines = view.lines();
        assert!(lines.len() <= LINES, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:#?}");
        assert!(lines.iter().flat_map(|line| line.chars()).all(|c| !c.is_control()), "{lines:#?}");
        lines.join("\n")
    }

    #[test]
    fn a_box_that_is_well_says_so() {
        let text = fits(&view());
        assert_eq!(
            text.lines().skip(2).collect::<Vec<_>>(),
            [
                "addresses  192.0.2.7 2001:db8::7",
                "health     ready and serving",
                "versions   image 2, node 0.1.0",
                "slot       skerry_2 (vda4)",
                "machine    0123456789abcdef0123456789abcdef",
                "wrong      nothing",
            ]
        );
        assert!(text.starts_with("Skerry  edge-7\n"));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        let mut view = view();
        view.state.provisioned = false;
        view.state.previous_failed = Some(Failed { version: "3".into(), reason: "not ready".into(), at: 0 });
        let wrong =
            Wrong { line: Some(5), ..Wrong::file("skerry.toml (stick sdb1)", "`node.name` is \x1b[2Jodd") };
        view.state.wrong = vec![Wrong { unit: "provision".into(), ..wrong }];
        let text = fits(&view);
        for part in [
            "health     waits for its configuration",
            "went back  from version 3: not ready",
            "WRONG      provision: skerry.toml (stick sdb1), line 5: `node.name` is [2Jodd",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn too_much_is_cut() {
        let mut view = view();
        view.name = "n".repeat(500);
        view.addresses = vec!["2001:db8:1111:2222:3333:4444:5555:6666".into(); 40];
        view.state.wrong = vec![Wrong { unit: "u".into(), ..Wrong::new("x".repeat(900)) }; 30];
        assert!(fits(&view).ends_with("and more; the journal has it all"));
        fits(&View::default());
    }

    #[test]
    fn a_serial_line_gets_text_alone() {
        let text = paint(&view(), true);
        assert!(!text.contains('\x1b') && text.contains("\r\nhealth     ready"), "{text}");
        let text = paint(&view(), false);
        assert!(text.starts_with("\x1b[HSkerry") && text.ends_with("\x1b[J"));
    }

    #[test]
    fn a_terminal_that_went_away_ends_it() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let root = tempfile::tempdir().unwrap();
        assert!(run(&Layout::below(root.path()), true, Gone).is_err());
    }

    #[test]
    fn words_are_wrapped_and_long_ones_cut() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrapped("aaaaaaaa b", 3), ["aaa", "aaa", "aa", "b"]);
        assert_eq!(wrapped("", 3), [""]);
    }
}
