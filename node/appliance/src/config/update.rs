//! `[update]`, and the times at which it may be made.

use std::fmt;
use std::str::FromStr;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;

const MOST_WINDOWS: usize = 32;
const MOST_RING: usize = 32;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const WEEK: [bool; 7] = [true; 7];
/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// `[update]`: where new images come from, and when they may be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// Folder of signed images: https://HOST/PATH; empty takes them from a stick alone.
    pub source: String,
    /// Certificates, PEM, of the authorities that `source` is believed by, and of no others; without any, of those
    /// that everybody believes.
    pub authorities: String,
    /// Times at which they may be installed, UTC: ["Mon..Fri 02:00-05:00", "Sun 22:30-06:00"]; without any, at
    /// all times.
    pub window: Vec<Window>,
    /// Name of the group of boxes that this one is updated with; the fleet is told.
    pub ring: String,
    /// Whether the box looks for updates and installs them by itself.
    pub automatic: bool,
}

impl UpdateConfig {
    /// What cannot be said by types; the error is a whole key and a reason.
    ///
    /// # Errors
    /// When something cannot be.
    pub fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, reason: &str| Err((format!("update.{key}"), reason.to_owned()));
        if !self.source.is_empty() {
            match Endpoint::parse(&self.source) {
                Ok(source) if source.scheme != "https" => return wrong("source", "must begin with https://"),
                Err(reason) => return wrong("source", reason),
                Ok(_) => {}
            }
            // It is written into files of systemd-sysupdate, where a % begins something else.
            if self.source.contains(['%', '?', '#']) || self.source.contains(char::is_whitespace) {
                return wrong("source", "must be scheme, host and path, without %, ? or #");
            }
        }
        let pem = ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"];
        if !self.authorities.is_empty() && !pem.iter().all(|line| self.authorities.contains(line)) {
            return wrong("authorities", "must be certificates, PEM");
        }
        if self.automatic && self.source.is_empty() {
            return wrong("automatic", "needs `update.source`");
        }
        if self.window.len() > MOST_WINDOWS {
            return wrong("window", "has more than 32 entries");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.ring.len() > MOST_RING || !self.ring.bytes().all(plain) {
            return wrong("ring", "must be at most 32 letters, digits, `-`, `_` and `.`");
        }
        Ok(())
    }

    /// Whether an update may be installed at a time, seconds since 1970.
    pub fn is_open(&self, at_seconds: u64) -> bool {
        self.window.is_empty() || self.window.iter().any(|window| window.holds(at_seconds))
    }
}

/// Hours of some days of the week: `Mon..Fri 02:00-05:00`. Those that end before they begin end on the next
/// day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// From Monday on.
    days: [bool; 7],
    /// Minute of the day.
    from: u16,
    /// Minute of the day, at most its end.
    until: u16,
}

impl Window {
    fn holds(self, at_seconds: u64) -> bool {
        let minutes = at_seconds / 60;
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
        const WRONG: &str = "a window is written as \"Mon..Fri 02:00-05:00\", \"Sat,Sun 00:00-24:00\" or \
                             \"22:30-04:00\", UTC";
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    /// Midnight of a Monday, 2024-01-01.
    const MONDAY: u64 = 1_704_067_200;

    /// The hours of a week at which a window is open.
    fn hours(text: &str) -> Vec<u64> {
        let config = UpdateConfig { window: vec![text.parse().unwrap()], ..UpdateConfig::default() };
        (0..7 * 24).filter(|hour| config.is_open(MONDAY + hour * HOUR)).collect()
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for (text, printed) in [
            ("02:00-05:00", "02:00-05:00"),
            ("Mon..Sun 02:00-05:00", "02:00-05:00"),
            ("Mon..Wed,Sun 22:30-06:00", "Mon,Tue,Wed,Sun 22:30-06:00"),
            ("Sat..Mon 00:00-24:00", "Mon,Sat,Sun 00:00-24:00"),
        ] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), printed);
        }
        for text in [
            "",
            "Mon",
            "02:00",
            "mon 02:00-03:00",
            "Mon.. 02:00-03:00",
            "Mon  02:00-03:00",
            "2:00-3:00",
            "24:00-01:00",
            "01:00-01:00",
            "+1:00-02:00",
            "01:60-02:00",
            ", 01:00-02:00",
            "é 01:00-02:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn they_open_on_their_days_and_close_on_the_next() {
        assert_eq!(hours("Tue 02:00-05:00"), [26, 27, 28]);
        assert_eq!(hours("Sun 23:00-01:00"), [0, 6 * 24 + 23]);
        assert_eq!(hours("Sat..Mon 00:00-24:00").len(), 3 * 24);
        assert_eq!(hours("23:00-01:00").len(), 2 * 7);
        assert!(UpdateConfig::default().is_open(0));
        assert!(!"Wed 00:00-24:00".parse::<Window>().unwrap().holds(0));
        assert!("Thu 00:00-24:00".parse::<Window>().unwrap().holds(0));
        "23:00-01:00".parse::<Window>().unwrap().holds(u64::MAX);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text: &str| {
            let config: UpdateConfig = toml::from_str(text).unwrap();
            config.check().unwrap_err().0
        };
        assert_eq!(refused("source = \"http://a\""), "update.source");
        assert_eq!(refused("source = \"a\""), "update.source");
        assert_eq!(refused("source = \"https://a/%h\""), "update.source");
        assert_eq!(refused("automatic = true"), "update.automatic");
        assert_eq!(refused("authorities = \"/etc/ssl/own.pem\""), "update.authorities");
        assert_eq!(refused("ring = \"a b\""), "update.ring");
        let right = "source = \"https://updates.example/skerry/\"\nwindow = [\"Sun 02:00-05:00\"]\nring = \"early\"\n\
                     automatic = true";
        assert_eq!(toml::from_str::<UpdateConfig>(right).unwrap().check(), Ok(()));
        assert_eq!(UpdateConfig::default().check(), Ok(()));
    }
}
