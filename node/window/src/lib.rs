//! Windows: the hours of the week at which something may be done, as a configuration names them. All of it is
//! UTC, and times are milliseconds since 1970; whoever asks brings the clock.
//!
//! A window is `[DAYS ]HH:MM-HH:MM`, from its first minute until before its last. The hours go up to `24:00`;
//! those that end before they begin end on the next day. DAYS are those that it begins on, all of them unless
//! said: `Mon..Fri,Sun`, a range may go over the end of the week.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60_000;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const WEEK: [bool; 7] = [true; 7];
/// Openings and closings that are looked ahead.
const MOST_CHANGES: usize = 8 * 2 * Windows::MOST;

/// Hours of some days of the week: `Mon..Fri 02:00-05:00`, or of all: `22:30-04:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// From Monday on.
    days: [bool; 7],
    /// Minute of the day.
    from: u16,
    /// Minute of the day, at most its end; of the next day when it is before `from`.
    until: u16,
}

impl Window {
    /// Whether a time is in it, milliseconds since 1970.
    pub fn contains(self, at_ms: u64) -> bool {
        let minutes = at_ms / MINUTE_MS;
        let minute = (minutes % u64::from(DAY)) as u16;
        // The first of January 1970 was a Thursday.
        let today = ((minutes / u64::from(DAY) + 3) % 7) as usize;
        let yesterday = (today + 6) % 7;
        if self.from < self.until {
            self.days[today] && (self.from..self.until).contains(&minute)
        } else {
            self.days[today] && minute >= self.from || self.days[yesterday] && minute < self.until
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != WEEK {
            let names: Vec<_> =
                DAYS.into_iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| day).collect();
            write!(formatter, "{} ", names.join(","))?;
        }
        let Self { from, until, .. } = self;
        write!(formatter, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

impl FromStr for Window {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a window is written as \"01:00-06:00\", \"Mon..Fri 22:30-04:00\" or \
                             \"Sat,Sun 00:00-24:00\", UTC";
        let (days, hours) = text.split_once(' ').unwrap_or(("Mon..Sun", text));
        let (from, until) = hours.split_once('-').ok_or(WRONG)?;
        let (from, until) = (minute(from).ok_or(WRONG)?, minute(until).ok_or(WRONG)?);
        if from == until || from == DAY {
            return Err(WRONG);
        }
        Ok(Self { days: self::days(days).ok_or(WRONG)?, from, until })
    }
}

/// `Mon..Fri,Sun`. A range may go over the end of the week.
fn days(text: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    let number = |name: &str| DAYS.iter().position(|day| *day == name);
    for part in text.split(',') {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Some(days)
}

/// `02:00`, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
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

/// Some windows together; without any it is always open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Windows(pub Vec<Window>);

impl Windows {
    /// As many as a configuration may name.
    pub const MOST: usize = 32;

    /// Whether something may be done at a time, milliseconds since 1970.
    pub fn is_open(&self, at_ms: u64) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.contains(at_ms))
    }

    /// When they open or close next, milliseconds since 1970; `None` when they never do.
    pub fn next_change_ms(&self, now_ms: u64) -> Option<u64> {
        let open = self.is_open(now_ms);
        let today = now_ms / MINUTE_MS / u64::from(DAY);
        // After a week all of it comes again.
        (today..=today + 7).find_map(|day| {
            let edges = self.0.iter().flat_map(|window| [window.from, window.until]);
            let edges = edges.map(|edge| (day * u64::from(DAY) + u64::from(edge)).saturating_mul(MINUTE_MS));
            edges.filter(|at_ms| *at_ms > now_ms && self.is_open(*at_ms) != open).min()
        })
    }

    /// For how many of the next `seconds` they are open.
    pub fn open_seconds(&self, now_ms: u64, seconds: u64) -> u64 {
        let end_ms = now_ms.saturating_add(seconds.saturating_mul(1000));
        let (mut at_ms, mut open_ms) = (now_ms, 0);
        for _ in 0..MOST_CHANGES {
            let until_ms = self.next_change_ms(at_ms).unwrap_or(u64::MAX).min(end_ms);
            if self.is_open(at_ms) {
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
            if self.is_open(at_ms) {
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
    /// Midnight of a Monday, 2024-01-01.
    const MONDAY: u64 = 1_704_067_200_000;

    fn windows(texts: &[&str]) -> Windows {
        Windows(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    /// The hours of a week at which they are open.
    fn hours(texts: &[&str]) -> Vec<u64> {
        let windows = windows(texts);
        (0..7 * 24).filter(|hour| windows.is_open(MONDAY + hour * HOUR)).collect()
    }

    /// When they open or close, by asking every minute of eight days.
    fn changes(windows: &Windows) -> Vec<u64> {
        let minutes = (1..8 * 24 * 60).map(|minute| MONDAY + minute * MINUTE_MS);
        minutes.filter(|at_ms| windows.is_open(*at_ms) != windows.is_open(at_ms - 1)).collect()
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for (text, printed) in [
            ("01:00-06:00", "01:00-06:00"),
            ("22:30-04:15", "22:30-04:15"),
            ("00:00-24:00", "00:00-24:00"),
            ("Mon..Sun 02:00-05:00", "02:00-05:00"),
            ("Mon..Wed,Sun 22:30-06:00", "Mon,Tue,Wed,Sun 22:30-06:00"),
            ("Sat..Mon 00:00-24:00", "Mon,Sat,Sun 00:00-24:00"),
        ] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), printed);
        }
        for text in ["", "1:00-2:00", "01:00", "01:00-01:00", "24:00-01:00", "01:60-02:00", "01:00-24:01"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        for text in ["+1:00-02:00", "01:00-06:00 ", "01:00-02:00-03:00", "é1:00-02:00", "é 01:00-02:00"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        for text in ["Mon", "mon 02:00-03:00", "Mon.. 02:00-03:00", "Mon  02:00-03:00", ", 01:00-02:00"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn they_open_on_their_days_and_close_on_the_next() {
        assert_eq!(hours(&["Tue 02:00-05:00"]), [26, 27, 28]);
        assert_eq!(hours(&["Sun 23:00-01:00"]), [0, 6 * 24 + 23]);
        assert_eq!(hours(&["Sat..Mon 00:00-24:00"]).len(), 3 * 24);
        assert_eq!(hours(&["23:00-01:00"]).len(), 2 * 7);
        assert_eq!(hours(&["22:30-04:00", "Mon 12:00-13:00"])[..6], [0, 1, 2, 3, 12, 23]);
        assert_eq!(hours(&[]).len(), 7 * 24);
        assert!(!"Wed 00:00-24:00".parse::<Window>().unwrap().contains(0));
        assert!("Thu 00:00-24:00".parse::<Window>().unwrap().contains(0));
    }

    #[test]
    fn the_next_change_is_known() {
        let night = windows(&["22:30-04:00", "12:00-13:00"]);
        assert_eq!(night.next_change_ms(MONDAY), Some(MONDAY + 4 * HOUR));
        assert_eq!(night.next_change_ms(MONDAY + 4 * HOUR), Some(MONDAY + 12 * HOUR));
        assert_eq!(night.next_change_ms(MONDAY + 23 * HOUR), Some(MONDAY + 28 * HOUR));
        for always in [&["00:00-24:00"][..], &["00:00-12:00", "12:00-24:00"], &[]] {
            assert_eq!(windows(always).next_change_ms(MONDAY), None);
        }
        // A week away.
        let tuesday = windows(&["Tue 02:00-05:00"]);
        assert_eq!(tuesday.next_change_ms(MONDAY + 29 * HOUR), Some(MONDAY + (7 * 24 + 26) * HOUR));
    }

    #[test]
    fn no_change_is_left_out() {
        for texts in [
            &["22:30-04:00", "Mon 12:00-13:00"][..],
            &["Mon 22:00-24:00", "Tue 00:00-02:00"],
            &["Wed 00:00-24:00", "Wed,Thu 22:00-00:00"],
            &["Sun 23:15-01:00", "Sun..Tue 00:30-06:45", "Fri 06:00-05:59"],
        ] {
            let windows = windows(texts);
            let (mut at_ms, mut found) = (MONDAY, Vec::new());
            while let Some(next_ms) =
                windows.next_change_ms(at_ms).filter(|at_ms| *at_ms < MONDAY + 8 * 24 * HOUR)
            {
                found.push(next_ms);
                at_ms = next_ms;
            }
            assert_eq!(found, changes(&windows), "{texts:?}");
        }
    }

    #[test]
    fn open_time_is_added_up() {
        let night = windows(&["01:00-06:00"]);
        assert_eq!(night.open_seconds(MONDAY, 7200), 3600);
        assert_eq!(night.open_seconds(MONDAY + 7 * HOUR, 7200), 0);
        assert_eq!(night.open_seconds(MONDAY, 2 * 86_400), 2 * 5 * 3600);
        assert_eq!(Windows::default().open_seconds(7, 300), 300);
        assert_eq!(night.elapsed_seconds(MONDAY, 3600), Some(2 * 3600));
        assert_eq!(night.elapsed_seconds(MONDAY, 6 * 3600), Some((24 + 2) * 3600));
        assert_eq!(night.elapsed_seconds(MONDAY, u64::MAX), None);
        assert_eq!(Windows::default().elapsed_seconds(MONDAY, 5), Some(5));
        let sunday = windows(&["Sun 02:00-05:00"]);
        assert_eq!(sunday.open_seconds(MONDAY, 7 * 86_400), 3 * 3600);
        assert_eq!(sunday.elapsed_seconds(MONDAY, 3600), Some((6 * 24 + 3) * 3600));
    }

    #[test]
    fn no_time_is_too_large() {
        for windows in [windows(&["01:00-06:00"]), windows(&["Sun 23:00-01:00"])] {
            for at_ms in [0, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                windows.next_change_ms(at_ms);
                windows.open_seconds(at_ms, u64::MAX);
                windows.elapsed_seconds(at_ms, 1);
            }
        }
    }
}
