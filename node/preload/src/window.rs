//! The times of the day at which a node fetches what it should hold. All of it is UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60_000;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Openings and closings that are looked ahead.
const MOST_CHANGES: usize = 256;

/// From one minute of the day until another one, which may be after midnight: `01:00-06:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    from: u16,
    until: u16,
}

impl Window {
    fn holds(self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(formatter, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

impl FromStr for Window {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a window is two times of the day, UTC: 01:00-06:00 or 22:30-04:00";
        let time = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            if !digits(hours) || !digits(minutes) {
                return None;
            }
            let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
            let time = hours * 60 + minutes;
            (minutes < 60 && time <= DAY).then_some(time)
        };
        let (from, until) = text.split_once('-').ok_or(WRONG)?;
        let (from, until) = (time(from).ok_or(WRONG)?, time(until).ok_or(WRONG)?);
        if from == until || from == DAY {
            return Err(WRONG);
        }
        Ok(Self { from, until })
    }
}

impl TryFrom<String> for Window {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

/// All windows of a node; without any it is always open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(pub Vec<Window>);

impl Windows {
    /// Whether anything may be fetched at a time, milliseconds since 1970.
    pub fn open(&self, at_ms: u64) -> bool {
        let minute = (at_ms / MINUTE_MS % u64::from(DAY)) as u16;
        self.0.is_empty() || self.0.iter().any(|window| window.holds(minute))
    }

    /// When they open or close next, milliseconds since 1970; `None` when they never do.
    pub fn next_change_ms(&self, now_ms: u64) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        let (open, minute) = (self.open(now_ms), now_ms / MINUTE_MS);
        let mut ahead =
            (1..=u64::from(DAY)).map(|ahead| minute.saturating_add(ahead).saturating_mul(MINUTE_MS));
        ahead.find(|at_ms| self.open(*at_ms) != open)
    }

    /// For how many of the next `seconds` they are open.
    pub fn open_seconds(&self, now_ms: u64, seconds: u64) -> u64 {
        let end_ms = now_ms.saturating_add(seconds.saturating_mul(1000));
        let (mut at_ms, mut open_ms) = (now_ms, 0);
        for _ in 0..MOST_CHANGES {
            let until_ms = self.next_change_ms(at_ms).unwrap_or(u64::MAX).min(end_ms);
            if self.open(at_ms) {
                open_ms += until_ms - at_ms;
            }
            at_ms = until_ms;
            if at_ms >= end_ms {
                break;
            }
        }
        open_ms / 1000
    }

    /// How long it takes until they have been open for so many seconds; `None` when that is far away.
    pub fn elapsed_seconds(&self, now_ms: u64, open_seconds: u64) -> Option<u64> {
        let (mut at_ms, mut left_ms) = (now_ms, open_seconds.saturating_mul(1000));
        for _ in 0..MOST_CHANGES {
            let until_ms = self.next_change_ms(at_ms).unwrap_or(u64::MAX);
            if self.open(at_ms) {
                let open_ms = until_ms - at_ms;
                if open_ms >= left_ms {
                    return Some((at_ms - now_ms).saturating_add(left_ms) / 1000);
                }
                left_ms -= open_ms;
            }
            if until_ms == u64::MAX {
                return None;
            }
            at_ms = until_ms;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// A midnight.
    const DAY_MS: u64 = 20_000 * 24 * HOUR;

    fn windows(texts: &[&str]) -> Windows {
        Windows(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for text in ["01:00-06:00", "22:30-04:15", "00:00-24:00"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        for text in ["", "1:00-2:00", "01:00", "01:00-01:00", "24:00-01:00", "01:60-02:00", "01:00-24:01"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        for text in ["+1:00-02:00", "01:00-06:00 ", "01:00-02:00-03:00", "é1:00-02:00"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn they_open_and_close() {
        let night = windows(&["22:30-04:00", "12:00-13:00"]);
        let open: Vec<u64> = (0..24).filter(|hour| night.open(DAY_MS + hour * HOUR)).collect();
        assert_eq!(open, [0, 1, 2, 3, 12, 23]);
        assert_eq!(night.next_change_ms(DAY_MS), Some(DAY_MS + 4 * HOUR));
        assert_eq!(night.next_change_ms(DAY_MS + 4 * HOUR), Some(DAY_MS + 12 * HOUR));
        assert_eq!(night.next_change_ms(DAY_MS + 23 * HOUR), Some(DAY_MS + 28 * HOUR));
        assert_eq!(windows(&["00:00-24:00"]).next_change_ms(DAY_MS), None);
        assert_eq!((Windows::default().open(0), Windows::default().next_change_ms(0)), (true, None));
    }

    #[test]
    fn open_time_is_added_up() {
        let night = windows(&["01:00-06:00"]);
        assert_eq!(night.open_seconds(DAY_MS, 7200), 3600);
        assert_eq!(night.open_seconds(DAY_MS + 7 * HOUR, 7200), 0);
        assert_eq!(night.open_seconds(DAY_MS, 2 * 86_400), 2 * 5 * 3600);
        assert_eq!(Windows::default().open_seconds(7, 300), 300);
        assert_eq!(night.elapsed_seconds(DAY_MS, 3600), Some(2 * 3600));
        assert_eq!(night.elapsed_seconds(DAY_MS, 6 * 3600), Some((24 + 2) * 3600));
        assert_eq!(night.elapsed_seconds(DAY_MS, u64::MAX), None);
        assert_eq!(Windows::default().elapsed_seconds(DAY_MS, 5), Some(5));
    }

    #[test]
    fn no_time_is_too_large() {
        let night = windows(&["01:00-06:00"]);
        for at_ms in [0, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            night.open_seconds(at_ms, u64::MAX);
            night.elapsed_seconds(at_ms, 1);
        }
    }
}
