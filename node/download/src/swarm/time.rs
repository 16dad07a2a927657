//! What time does: who is silent is let go, who gives nothing is asked for less, and what does not come is not
//! waited for.

use std::time::Duration;

use super::{Phase, Swarm};
use crate::error::{End, Failure};
use crate::peer::{Key, Peer};

/// A peer that was asked and gives nothing for so long is asked for little.
pub(super) const SNUB: Duration = Duration::from_secs(30);
/// Who says nothing for two minutes is let go by many; so something is said before, and longer silence of
/// theirs ends the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(100);
const IDLE: Duration = Duration::from_secs(180);
/// A peer that gave nothing for so long makes room for others, when there are any.
const USELESS: Duration = Duration::from_secs(60);
/// How long a hybrid waits for its trees before it is verified by its v1 pieces.
pub(super) const TREES: Duration = Duration::from_secs(15);

impl Swarm {
    /// What time does; to be called at least every second.
    pub(crate) fn tick(&mut self, now: Duration) {
        if self.over {
            return;
        }
        match &mut self.phase {
            Phase::Info(metadata) => metadata.tick(now),
            Phase::Layers(layers) => {
                layers.tick(now);
                self.fruitful = self.fruitful.max(layers.at);
            }
            // While the sink is at work, nobody else has to be.
            Phase::Beginning(_) => (self.fruitful, self.company) = (now, now),
            Phase::Content(content) => {
                if content.is_finishing() {
                    (self.fruitful, self.company) = (now, now);
                }
                content.take_turns(&mut self.peers, now);
            }
        }
        self.do_without_trees(now);
        let keys: Vec<Key> = self.peers.keys().copied().collect();
        for key in keys {
            self.look_after(key, now);
        }
        self.make_room(now);
        self.freed = true;
        // Who has failed is tried again, and nobody is waited for on that account.
        self.alone = !self.peers.values().any(|peer| peer.greeted) && !self.book.has_hope();
        if !self.alone {
            self.company = now;
        }
        if now.saturating_sub(self.company) >= self.options.alone {
            self.fail(Failure::Alone);
        } else if now.saturating_sub(self.fruitful) >= self.options.patience {
            self.fail(Failure::Stalled);
        }
        self.settle(now);
    }

    /// Time limits of one peer.
    fn look_after(&mut self, key: Key, now: Duration) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let end = if !peer.greeted && now.saturating_sub(peer.joined) >= self.options.handshake {
            Some(End::Silent)
        } else if now.saturating_sub(peer.heard) >= IDLE {
            Some(End::Idle)
        } else {
            None
        };
        if let Some(end) = end {
            if let Some(peer) = self.peers.remove(&key) {
                self.part(peer, &end, now);
            }
            return;
        }
        peer.keep_alive(KEEP_ALIVE, now);
        peer.flow.tick(now);
        if peer.asked().is_empty() {
            // There is nothing that it can be asked for now; what it has to give alone would never come.
            if let Phase::Content(content) = &mut self.phase {
                content.disown(key);
            }
        } else if now.saturating_sub(peer.gave) >= SNUB {
            peer.snubbed = true;
            let given_up = peer.give_up(true, now);
            if let Phase::Content(content) = &mut self.phase {
                given_up.iter().for_each(|block| _ = content.release(key, block));
                content.disown(key);
            }
        }
    }

    /// Lets go of a peer that is of no use while others wait.
    fn make_room(&mut self, now: Duration) {
        if self.peers.len() < self.options.connections || !self.book.has_next(now) {
            return;
        }
        let since = |peer: &Peer| now.saturating_sub(peer.gave.max(peer.joined));
        let idle = |peer: &&Peer| since(peer) >= USELESS && (peer.snubbed || peer.asked().is_empty());
        let worst = self.peers.values().filter(idle).max_by_key(|peer| since(peer)).map(|peer| peer.key);
        if let Some(peer) = worst.and_then(|key| self.peers.remove(&key)) {
            let address = peer.address;
            self.part(peer, &End::Useless, now);
            self.book.put_off(address, now + USELESS);
        }
    }

    /// A hybrid whose trees nobody gives is verified by its v1 pieces.
    fn do_without_trees(&mut self, now: Duration) {
        let Phase::Layers(layers) = &self.phase else { return };
        if layers.is_hybrid() && now.saturating_sub(layers.at) >= TREES {
            let metainfo = layers.metainfo().clone();
            self.ready(metainfo);
        }
    }
}
