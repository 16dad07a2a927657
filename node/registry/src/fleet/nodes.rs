//! The nodes of a snapshot, in runs of a few: a change copies one run and the list of runs, so that a
//! heartbeat costs about the square root of the fleet.

use std::ops::Index;
use std::sync::Arc;

use super::Node;

/// Nodes of one run, at most; one that grows longer becomes two.
const MOST_RUN: usize = 256;

/// Nodes in the order of their numbers. A clone shares all that does not change afterwards.
#[derive(Clone, Default)]
pub struct Nodes {
    runs: Vec<Run>,
    len: usize,
}

/// Never empty.
#[derive(Clone)]
struct Run {
    /// Place of its first node.
    start: usize,
    nodes: Arc<Vec<(u32, Arc<Node>)>>,
}

impl Nodes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.runs.iter().flat_map(|run| run.nodes.iter().map(|(_, node)| node))
    }

    /// The node at a place.
    pub fn get(&self, place: usize) -> Option<&Arc<Node>> {
        self.at(place).map(|(_, node)| node)
    }

    /// Number of the node at a place.
    pub(super) fn number(&self, place: usize) -> Option<u32> {
        self.at(place).map(|(number, _)| *number)
    }

    /// Place of the node with a number.
    pub(super) fn place(&self, number: u32) -> Option<usize> {
        let (run, Ok(within)) = self.find(number) else { return None };
        Some(self.runs[run].start + within)
    }

    /// Puts a node under its number, in place of the one before.
    pub(super) fn put(&mut self, number: u32, node: Arc<Node>) {
        let (at, within) = self.find(number);
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(Run { start: 0, nodes: Arc::new(vec![(number, node)]) });
            self.len = 1;
            return;
        };
        let nodes = Arc::make_mut(&mut run.nodes);
        match within {
            Ok(place) => nodes[place].1 = node,
            Err(place) => {
                nodes.insert(place, (number, node));
                if nodes.len() > MOST_RUN {
                    let rest = nodes.split_off(MOST_RUN / 2);
                    self.runs.insert(at + 1, Run { start: 0, nodes: Arc::new(rest) });
                }
                self.count();
            }
        }
    }

    /// Takes a node out; tells whether it was there.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let (at, Ok(place)) = self.find(number) else { return false };
        let nodes = Arc::make_mut(&mut self.runs[at].nodes);
        nodes.remove(place);
        if nodes.is_empty() {
            self.runs.remove(at);
        }
        self.count();
        true
    }

    fn at(&self, place: usize) -> Option<&(u32, Arc<Node>)> {
        let run = self.runs.partition_point(|run| run.start <= place).checked_sub(1)?;
        let run = &self.runs[run];
        run.nodes.get(place - run.start)
    }

    /// The run where a number is or would be, and its place in there. There is such a run unless all are
    /// missing.
    fn find(&self, number: u32) -> (usize, Result<usize, usize>) {
        let before = |run: &Run| run.nodes.last().is_some_and(|(last, _)| *last < number);
        // What is higher than all goes into the last one.
        let at = self.runs.partition_point(before).min(self.runs.len().saturating_sub(1));
        let within =
            self.runs.get(at).map(|run| run.nodes.binary_search_by_key(&number, |(number, _)| *number));
        (at, within.unwrap_or(Err(0)))
    }

    /// Sets the runs' places after one of them grew or shrank.
    fn count(&mut self) {
        self.len = 0;
        for run in &mut self.runs {
            run.start = self.len;
            self.len += run.nodes.len();
        }
    }
}

impl Index<usize> for Nodes {
    type Output = Arc<Node>;

    /// # Panics
    /// When there is no such place.
    fn index(&self, place: usize) -> &Arc<Node> {
        self.get(place).expect("a place of this snapshot")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn node(id: u32) -> Arc<Node> {
        Arc::new(Node { id: id.to_string(), ..Node::default() })
    }

    fn same(nodes: &Nodes, wanted: &BTreeMap<u32, Arc<Node>>) {
        assert_eq!((nodes.len(), nodes.is_empty()), (wanted.len(), wanted.is_empty()));
        assert!(nodes.iter().eq(wanted.values()));
        for (place, (number, node)) in wanted.iter().enumerate() {
            assert_eq!((nodes.number(place), nodes.place(*number)), (Some(*number), Some(place)));
            assert!(Arc::ptr_eq(&nodes[place], node));
        }
        assert_eq!((nodes.get(wanted.len()), nodes.number(wanted.len())), (None, None));
    }

    #[test]
    fn nodes_come_and_go_in_the_order_of_their_numbers() {
        let (mut nodes, mut wanted) = (Nodes::default(), BTreeMap::new());
        let mut random = fastrand::Rng::with_seed(3);
        for step in 0..6000 {
            let number = random.u32(1..1500);
            // First more and more, then fewer and fewer.
            if random.u32(0..6000) > step {
                let node = node(number);
                nodes.put(number, node.clone());
                wanted.insert(number, node);
            } else {
                assert_eq!(nodes.remove(number), wanted.remove(&number).is_some());
            }
            if step % 500 == 0 {
                same(&nodes, &wanted);
            }
        }
        same(&nodes, &wanted);
        for number in 0..1500 {
            nodes.remove(number);
        }
        same(&nodes, &BTreeMap::new());
    }

    #[test]
    fn a_change_copies_one_run() {
        let mut nodes = Nodes::default();
        (0..10_000).for_each(|number| nodes.put(number, node(number)));
        let before = nodes.clone();
        nodes.put(5000, node(7));
        let shared = before.runs.iter().zip(&nodes.runs).filter(|(a, b)| Arc::ptr_eq(&a.nodes, &b.nodes));
        assert_eq!(shared.count(), nodes.runs.len() - 1);
        assert_eq!((before[5000].id.as_str(), nodes[5000].id.as_str()), ("5000", "7"));
    }
}
