//! Which answers count: those that name rows there are, each once (`plugins/wit`).

use crate::cause::Cause;
use crate::manifest::World;
use crate::rows::{Answer, Choice};

const MOST_WEIGHT: u32 = 1_000_000;
const MOST_COPIES: u32 = 64;

/// An answer that may be acted upon, or why it may not.
pub(crate) fn check(answer: Answer, world: World, rows: usize) -> Result<Answer, Cause> {
    match &answer {
        // A client must be sent somewhere; a node may hold nothing, and a swarm may have nobody.
        Answer::Ranked(choices) if choices.is_empty() && world == World::RegionRouter => Err(Cause::BadIndex),
        Answer::Ranked(choices) if !sound(choices, rows) => Err(Cause::BadIndex),
        Answer::Scheduled { peers, more_copies } if *more_copies > MOST_COPIES || !sound(peers, rows) => {
            Err(Cause::BadIndex)
        }
        Answer::Abstain => Err(Cause::Abstain),
        Answer::Invalid(_) => Err(Cause::Invalid),
        _ => Ok(answer),
    }
}

fn sound(choices: &[Choice], rows: usize) -> bool {
    let mut seen = vec![0_u64; rows.div_ceil(64)];
    choices.iter().all(|choice| {
        let row = choice.row as usize;
        let bit = 1 << (row % 64);
        let new = row < rows && seen[row / 64] & bit == 0;
        if new {
            seen[row / 64] |= bit;
        }
        new && (1..=MOST_WEIGHT).contains(&choice.weight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(rows: &[u32]) -> Answer {
        Answer::Ranked(rows.iter().map(|row| Choice { row: *row, weight: 1 }).collect())
    }

    const ROUTER: World = World::RegionRouter;

    #[test]
    fn rows_must_exist_and_come_once() {
        assert!(check(ranked(&[2, 0, 1]), ROUTER, 3).is_ok());
        assert!(check(ranked(&[99]), ROUTER, 100).is_ok());
        assert!(check(ranked(&[]), World::PreloadPlanner, 3).is_ok());
        for bad in [&[3][..], &[0, 0], &[u32::MAX], &[]] {
            assert_eq!(check(ranked(bad), ROUTER, 3), Err(Cause::BadIndex), "{bad:?}");
        }
    }

    #[test]
    fn weights_and_copies_have_bounds() {
        for weight in [0, MOST_WEIGHT + 1] {
            let answer = Answer::Ranked(vec![Choice { row: 0, weight }]);
            assert_eq!(check(answer, ROUTER, 1), Err(Cause::BadIndex));
        }
        let scheduled = |more_copies| {
            let peers = vec![Choice { row: 0, weight: MOST_WEIGHT }];
            check(Answer::Scheduled { peers, more_copies }, World::SuperPeerScheduler, 1)
        };
        assert!(scheduled(64).is_ok());
        assert_eq!(scheduled(65), Err(Cause::BadIndex));
    }

    #[test]
    fn no_opinion_is_no_verdict() {
        assert_eq!(check(Answer::Abstain, ROUTER, 1), Err(Cause::Abstain));
        assert_eq!(check(Answer::Invalid("why".into()), ROUTER, 1), Err(Cause::Invalid));
    }
}
