//! A moment that is written in the configuration.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::value::{Datetime, Offset};

/// A moment in UTC, written as `2026-12-01T18:00:00Z` (RFC 3339); none when it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment {
    text: String,
    seconds: u64,
}

impl Moment {
    /// Seconds since 1970; 0 when there is none.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a moment is written as \"2026-12-01T18:00:00Z\", UTC, and is not before 1970";
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Datetime { date: Some(date), time: Some(time), offset: Some(Offset::Z) }) =
            text.parse::<Datetime>()
        else {
            return Err(WRONG);
        };
        if date.year < 1970 {
            return Err(WRONG);
        }
        let (year, month) = (u64::from(date.year), u64::from(date.month));
        // Years begin in March, so that the day of a leap year is the last one, and five months in turn have
        // 153 days. From the first of March of the year 0 to 1970 there are 719,468.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + u64::from(date.day)
                - 1
                - 719_468;
        let (hour, minute) = (u64::from(time.hour), u64::from(time.minute));
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + u64::from(time.second.unwrap_or(0));
        Ok(Self { text: text.to_owned(), seconds })
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_seconds_since_1970() {
        for (text, seconds) in [
            ("", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01Z", 1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2024-01-01T00:00:00Z", 1_704_067_200),
            ("2026-12-01T18:30:15Z", 1_796_149_815),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!((moment.seconds(), moment.text()), (seconds, text));
        }
    }

    #[test]
    fn what_is_no_moment_in_utc_is_refused() {
        for text in [
            "tomorrow",
            "2026-12-01",
            "2026-12-01T18:00:00",
            "2026-12-01T18:00:00+01:00",
            "18:00:00",
            "2026-13-01T18:00:00Z",
            "2026-02-30T18:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
