//! Numbers for names: what policies see of regions and operators. Kept while the process lives.

use std::collections::HashMap;

use parking_lot::RwLock;

/// Names that get a number; further ones are unknown. Nodes say their own, and may say anything.
const MOST: usize = 65_536;
/// Longest name, bytes; longer ones are unknown.
const LONGEST: usize = 256;

/// Names and their numbers, from 1; 0 is unknown.
#[derive(Default)]
pub(crate) struct Names(RwLock<HashMap<String, u32>>);

impl Names {
    /// The number of a name, now given or known from before; 0 for the empty one, and for what has no
    /// room any more.
    pub(crate) fn number(&self, name: &str) -> u32 {
        if name.is_empty() || name.len() > LONGEST {
            return 0;
        }
        if let Some(number) = self.0.read().get(name) {
            return *number;
        }
        let mut numbers = self.0.write();
        let next = numbers.len() as u32 + 1;
        match numbers.get(name) {
            Some(number) => *number,
            None if numbers.len() >= MOST => 0,
            None => *numbers.entry(name.to_owned()).or_insert(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let names = Names::default();
        assert_eq!((names.number("a"), names.number("b"), names.number("a")), (1, 2, 1));
        assert_eq!((names.number(""), names.number(&"x".repeat(257))), (0, 0));
    }

    #[test]
    fn there_are_only_so_many() {
        let names = Names::default();
        for number in 0..70_000 {
            names.number(&number.to_string());
        }
        assert_eq!((names.number("69999"), names.number("0")), (0, 1));
    }
}
