//! A node's certificates, one after the other: the first is issued for a token, each further one for the one
//! before.
//!
//! Whoever has a certificate and its key can have it renewed, so a stolen one would be good for ever. Hence a
//! line does not fork:
//!
//! | who wants another certificate shows | and gets |
//! |---|---|
//! | the last one that was issued | the next |
//! | the one that the last one was issued for, while that was never seen, for a week | the next: the answer may have been lost |
//! | one that began later than all of the line | the next: the record is an old one, of a backup |
//! | any other | nothing: it is superseded |
//!
//! So of two who hold one certificate one is refused, and operators are told of it. The other one is stopped by
//! enrolling the node again: that begins a new line, and supersedes all of the old one.
//!
//! A superseded certificate is good for nothing else either, though it has not ended: at once, but for the one
//! that the last one was issued for. That one is good until the last one is in use, and ten minutes more.

use serde::{Deserialize, Serialize};

use crate::identity;

/// How long an answer may count as lost, milliseconds: a node tries again within the hour, but its disk may be
/// full.
const GRACE_MS: u64 = 7 * 86_400_000;
/// Requests with the certificate before may still be on their way so long after the last one was seen first,
/// milliseconds.
const OVERLAP_MS: u64 = 600_000;
/// Seconds by which a certificate of an enrolment without a line may have begun before that: an hour that all
/// begin earlier, and one for two clocks.
const SLACK: u64 = 2 * 3600;

/// A certificate that somebody shows, or that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Serial number, hex digits.
    pub(super) serial: String,
    /// Seconds since 1970.
    pub(super) begins: u64,
}

impl Certificate {
    /// What a certificate (DER) says.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let (begins, _) = identity::validity(certificate)?;
        Some(Self { serial: identity::serial_of(certificate)?, begins })
    }
}

/// What is on record of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Serial number of the last one, hex digits.
    last: String,
    /// When the one began that began last, seconds since 1970. The clock may have been set back since.
    begins: u64,
    /// When the last one was seen first, milliseconds since 1970.
    #[serde(default)]
    seen_ms: Option<u64>,
    /// What the last one was issued for; `None` for a token.
    #[serde(default)]
    before: Option<Before>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    /// Serial number, hex digits.
    serial: String,
    /// Until when it may be renewed once more, milliseconds since 1970.
    until_ms: u64,
}

/// What a certificate that somebody shows is to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// The last one, for the first time.
    New,
    /// What is to be expected.
    Known,
    /// One that is good for nothing any more.
    Superseded,
}

impl Line {
    /// The line of a new enrolment, which ends the one before.
    pub(super) fn new(first: Certificate, before: Option<&Self>) -> Self {
        let begins = before.map_or(0, |before| before.begins).max(first.begins);
        Self { last: first.serial, begins, seen_ms: None, before: None }
    }

    /// That of an enrolment by a version that kept none.
    pub(super) fn since(enrolled_ms: u64) -> Self {
        let begins = (enrolled_ms / 1000).saturating_sub(SLACK);
        Self { last: String::new(), begins, seen_ms: None, before: None }
    }

    /// Whether another certificate may be issued for this one.
    pub(super) fn goes_on_from(&self, shown: &Certificate, now_ms: u64) -> bool {
        match &self.before {
            _ if shown.serial == self.last => true,
            Some(before) if shown.serial == before.serial => {
                self.seen_ms.is_none() && now_ms < before.until_ms
            }
            _ => shown.begins > self.begins,
        }
    }

    /// The line once another certificate was issued for this one.
    pub(super) fn next(self, shown: Certificate, issued: Certificate, now_ms: u64) -> Self {
        let begins = self.begins.max(shown.begins).max(issued.begins);
        // Trying again does not make the time longer.
        let again = self.before.filter(|before| before.serial == shown.serial);
        let until_ms = now_ms.saturating_add(GRACE_MS);
        let before = again.unwrap_or(Before { serial: shown.serial, until_ms });
        Self { last: issued.serial, begins, seen_ms: None, before: Some(before) }
    }

    /// What a certificate is that a request comes with.
    pub(super) fn sight(&self, shown: &Certificate, now_ms: u64) -> Sight {
        let is_over = |seen_ms| now_ms.saturating_sub(seen_ms) >= OVERLAP_MS;
        let is_before = self.before.as_ref().is_some_and(|before| before.serial == shown.serial);
        if shown.serial == self.last {
            if self.seen_ms.is_none() { Sight::New } else { Sight::Known }
        } else if shown.begins > self.begins || (is_before && !self.seen_ms.is_some_and(is_over)) {
            Sight::Known
        } else {
            Sight::Superseded
        }
    }

    /// The last one is in use.
    pub(super) fn see(&mut self, now_ms: u64) {
        self.seen_ms = Some(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const DAY: u64 = 86_400_000;

    /// The certificate of a number, which began so many days after the first.
    fn certificate(number: u64) -> Certificate {
        Certificate { serial: format!("{number:032x}"), begins: NOW / 1000 + number * 86_400 }
    }

    fn goes_on(line: &Line, numbers: impl IntoIterator<Item = u64>, now_ms: u64) -> Vec<u64> {
        numbers.into_iter().filter(|number| line.goes_on_from(&certificate(*number), now_ms)).collect()
    }

    #[test]
    fn each_certificate_is_renewed_once() {
        let mut line = Line::new(certificate(1), None);
        for number in 1..5 {
            line.see(NOW);
            assert_eq!(goes_on(&line, 0..=number, NOW), [number]);
            line = line.next(certificate(number), certificate(number + 1), NOW);
        }
    }

    #[test]
    fn an_answer_may_be_lost_until_the_new_one_is_seen() {
        let first = Line::new(certificate(1), None).next(certificate(1), certificate(2), NOW);
        assert_eq!(goes_on(&first, 0..3, NOW + GRACE_MS - 1), [1, 2]);
        assert_eq!(goes_on(&first, 0..3, NOW + GRACE_MS), [2]);
        // Lost once more, and not for longer. What was lost before is good for nothing.
        let mut again = first.next(certificate(1), certificate(3), NOW + DAY);
        assert_eq!(goes_on(&again, 0..4, NOW + GRACE_MS - 1), [1, 3]);
        assert_eq!(goes_on(&again, 0..4, NOW + GRACE_MS), [3]);
        again.see(NOW + DAY);
        assert_eq!(goes_on(&again, 0..4, NOW + DAY), [3]);
    }

    #[test]
    fn a_new_enrolment_ends_the_line() {
        let old = Line::new(certificate(1), None).next(certificate(1), certificate(4), NOW);
        let new = Line::new(certificate(6), Some(&old));
        assert_eq!(goes_on(&new, 0..7, NOW), [6]);
        // Also when the clock was ahead before.
        let new = Line::new(certificate(2), Some(&old));
        assert_eq!(goes_on(&new, 0..5, NOW), [2]);
    }

    #[test]
    fn what_an_old_record_does_not_know_goes_on() {
        let line = Line::new(certificate(3), None);
        assert_eq!(goes_on(&line, 0..6, NOW), [3, 4, 5]);
        // By a version that kept no line: what was issued at the enrolment, an hour before it began.
        let line = Line::since(NOW);
        let begun = |begins| Certificate { serial: "1".into(), begins };
        assert!(line.goes_on_from(&begun(NOW / 1000 - 3600), NOW));
        assert!(!line.goes_on_from(&begun(NOW / 1000 - SLACK), NOW));
    }

    #[test]
    fn a_clock_that_is_set_back_brings_no_old_one_back() {
        let line = Line::new(certificate(5), None).next(certificate(5), certificate(2), NOW);
        let line = line.next(certificate(2), certificate(3), NOW);
        assert_eq!(goes_on(&line, 0..6, NOW + GRACE_MS), [3]);
    }

    #[test]
    fn a_line_that_has_ended_is_good_for_nothing_at_once() {
        let old = Line::new(certificate(1), None).next(certificate(1), certificate(2), NOW);
        let new = Line::new(certificate(4), Some(&old));
        let sights = |line: &Line| [1, 2, 3, 4, 5].map(|number| line.sight(&certificate(number), NOW));
        use Sight::{Known, New, Superseded};
        assert_eq!(sights(&new), [Superseded, Superseded, Superseded, New, Known]);
        // Nor is one that was lost, or that was superseded before.
        let next = new.next(certificate(4), certificate(5), NOW).next(certificate(4), certificate(6), NOW);
        assert_eq!(sights(&next), [Superseded, Superseded, Superseded, Known, Superseded]);
    }

    #[test]
    fn a_superseded_one_in_use_is_told_of() {
        let mut line = Line::new(certificate(1), None).next(certificate(1), certificate(2), NOW);
        // It is not known whether the last one came through.
        assert_eq!(line.sight(&certificate(1), NOW + DAY), Sight::Known);
        assert_eq!(line.sight(&certificate(2), NOW + DAY), Sight::New);
        line.see(NOW + DAY);
        let sights = |number, now_ms| line.sight(&certificate(number), now_ms);
        assert_eq!(sights(2, NOW + DAY), Sight::Known);
        assert_eq!(sights(1, NOW + DAY + OVERLAP_MS - 1), Sight::Known);
        assert_eq!(sights(1, NOW + DAY + OVERLAP_MS), Sight::Superseded);
        assert_eq!([2, 3].map(|number| sights(number, NOW + 2 * DAY)), [Sight::Known; 2]);
    }
}
