//! Streams of which nothing has come but a first packet, whose sender may have been invented.
//!
//! They take no place from anybody, and there is always room for another: one that is there already has to
//! go for it. So who invents senders keeps out only those who take longer to prove themselves than it takes
//! to invent [`MOST`] others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::places::network;

/// Streams at once.
pub(super) const MOST: usize = 256;
/// Those of one address; an IPv6 /64 counts as one.
const MOST_OF_ONE: usize = 16;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Unproven(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The oldest first.
    streams: VecDeque<Stream>,
    /// How many each address has; none is 0.
    of: HashMap<IpAddr, usize>,
    /// Counts streams.
    next: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    from: IpAddr,
    /// Tells of its end by being dropped.
    _goes: oneshot::Sender<()>,
}

/// One of them; leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    unproven: Arc<Unproven>,
    number: u64,
    goes: oneshot::Receiver<()>,
}

impl Unproven {
    /// Takes a stream in. For one too many of its address the oldest of those goes. For one too many of all
    /// the oldest goes that is not the only one of its address, if there is any such.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Turn {
        let from = network(address);
        let mut inner = self.0.lock();
        if inner.count(from) >= MOST_OF_ONE {
            let first = inner.streams.iter().position(|stream| stream.from == from);
            first.into_iter().for_each(|at| inner.remove(at));
        } else if inner.streams.len() >= MOST {
            let first = inner.streams.iter().position(|stream| inner.count(stream.from) > 1);
            inner.remove(first.unwrap_or(0));
        }
        inner.next += 1;
        let (number, (sender, goes)) = (inner.next, oneshot::channel());
        inner.streams.push_back(Stream { number, from, _goes: sender });
        *inner.of.entry(from).or_default() += 1;
        Turn { unproven: self.clone(), number, goes }
    }
}

impl Inner {
    fn count(&self, from: IpAddr) -> usize {
        self.of.get(&from).copied().unwrap_or(0)
    }

    fn remove(&mut self, at: usize) {
        let Some(stream) = self.streams.remove(at) else { return };
        let left = self.count(stream.from).saturating_sub(1);
        if left == 0 {
            self.of.remove(&stream.from);
        } else {
            self.of.insert(stream.from, left);
        }
    }
}

impl Turn {
    /// Waits until the stream has to go for another one.
    pub(super) async fn goes(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.goes).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.unproven.0.lock();
        if let Some(at) = inner.streams.iter().position(|stream| stream.number == self.number) {
            inner.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn address(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(0xc612_0000 + number as u32).into()
    }

    /// Those that had to go.
    fn gone(turns: &mut [Turn]) -> Vec<usize> {
        let all = turns.iter_mut().enumerate();
        all.filter_map(|(index, turn)| (turn.goes.try_recv() == Err(TryRecvError::Closed)).then_some(index))
            .collect()
    }

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let unproven = Arc::<Unproven>::default();
        let _other = unproven.enter(address(1));
        let mut turns: Vec<Turn> = (0..MOST_OF_ONE + 2).map(|_| unproven.enter(address(0))).collect();
        assert_eq!(gone(&mut turns), [0, 1]);
        // Who has proved itself leaves room behind.
        turns.truncate(10);
        turns.push(unproven.enter(address(0)));
        assert_eq!(gone(&mut turns), [0, 1]);
        let ip = |text: &str| text.parse().unwrap();
        let mut network: Vec<Turn> =
            (0..=MOST_OF_ONE).map(|host| unproven.enter(ip(&format!("2001:db8::{host:x}")))).collect();
        network.push(unproven.enter(ip("2001:db8:0:1::1")));
        assert_eq!(gone(&mut network), [0]);
        drop((turns, network));
        assert_eq!(unproven.0.lock().streams.len(), 1);
        assert_eq!(unproven.0.lock().of.len(), 1);
    }

    #[test]
    fn the_oldest_makes_room_and_before_it_those_that_are_not_alone() {
        let unproven = Arc::<Unproven>::default();
        let mut turns: Vec<Turn> = (0..MOST - 2).map(|number| unproven.enter(address(number))).collect();
        // Two come from an address that has one.
        turns.extend([7, 7].map(|number| unproven.enter(address(number))));
        assert!(gone(&mut turns).is_empty());
        let mut order = Vec::new();
        for number in 0..5 {
            turns.push(unproven.enter(address(1000 + number)));
            let lately: Vec<usize> =
                gone(&mut turns).into_iter().filter(|index| !order.contains(index)).collect();
            order.extend(lately);
        }
        assert_eq!(order, [7, MOST - 2, 0, 1, 2]);
        assert_eq!(unproven.0.lock().streams.len(), MOST);
        drop(turns);
        assert!(unproven.0.lock().of.is_empty());
    }
}
