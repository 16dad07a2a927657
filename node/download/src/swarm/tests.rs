//! Swarms in simulated time: peers that serve well, badly, late and not at all.

mod by_hand;

use bytes::Bytes;
use skerry_wire::InfoHash;
use skerry_wire::metainfo::Kind;
use skerry_wire::peer::extension::Extensions;
use skerry_wire::peer::pex::{Contact, Pex};
use skerry_wire::peer::{BLOCK, Message};

use super::time::{SNUB, TREES};
use super::*;
use crate::piece::tests::{noise, split, torrent};
use crate::seed::Seed;

const PIECE: u32 = 65_536;
const STEP: Duration = Duration::from_millis(100);
const ID: [u8; 20] = *b"-SK0100-abcdefghijkl";

fn at(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, (number >> 8) as u8], number))
}

/// A swarm and its peers.
struct World {
    swarm: Swarm,
    now: Duration,
    /// Each with how many blocks it gives in a step.
    seeds: BTreeMap<SocketAddr, (Seed, usize)>,
    links: BTreeMap<Key, SocketAddr>,
    got: BTreeMap<u32, Bytes>,
    order: Vec<u32>,
    /// The sink takes nothing for so many steps after each piece.
    slow_sink: usize,
    waiting: VecDeque<(usize, Complete)>,
    /// What a peer says is here so many steps later.
    lag: usize,
    on_its_way: VecDeque<(usize, Key, Vec<u8>)>,
    outcome: Option<Result<(), Failure>>,
    /// Most bytes in memory at any time.
    most_used: u64,
    steps: usize,
}

impl World {
    fn new(target: Target, options: Options) -> Self {
        Self {
            swarm: Swarm::new(target, options, ID, 1).unwrap(),
            now: Duration::ZERO,
            seeds: BTreeMap::new(),
            links: BTreeMap::new(),
            got: BTreeMap::new(),
            order: Vec::new(),
            slow_sink: 0,
            waiting: VecDeque::new(),
            lag: 0,
            on_its_way: VecDeque::new(),
            outcome: None,
            most_used: 0,
            steps: 0,
        }
    }

    /// Peers that trackers tell of.
    fn with(mut self, seeds: impl IntoIterator<Item = (Seed, usize)>) -> Self {
        for (number, seed) in (1..).zip(seeds) {
            self.seeds.insert(at(number), seed);
        }
        let (peers, wire) = (self.seeds.keys().copied().collect(), self.swarm.wires()[0]);
        self.swarm.found(peers, &wire);
        self
    }

    fn seed(&self, number: u16) -> &Seed {
        &self.seeds[&at(number)].0
    }

    fn act(&mut self) {
        while let Some(output) = self.swarm.poll() {
            match output {
                Output::Send(key, bytes) => {
                    let Some((seed, _)) = self.links.get(&key).and_then(|at| self.seeds.get_mut(at)) else {
                        continue;
                    };
                    match seed.hear(&bytes) {
                        Some(answer) => self.say(key, answer),
                        None => self.swarm.closed(key, End::Closed, self.now),
                    }
                }
                Output::Close(key) => _ = self.links.remove(&key),
                Output::Begin(metainfo) => {
                    let pieces = crate::sink::piece_count(&metainfo);
                    self.swarm.begun(Bitfield::new(pieces), self.now);
                }
                Output::Piece(complete) => self.waiting.push_back((self.steps + self.slow_sink, complete)),
                Output::Done => self.outcome = Some(Ok(())),
                Output::Failed(failure) => self.outcome = Some(Err(failure)),
            }
        }
    }

    /// A peer says something.
    fn say(&mut self, key: Key, bytes: Vec<u8>) {
        if self.lag > 0 {
            self.on_its_way.push_back((self.steps + self.lag, key, bytes));
        } else if !bytes.is_empty() {
            self.swarm.receive(key, &bytes, Duration::ZERO, self.now);
        }
    }

    fn hear(&mut self) {
        while self.on_its_way.front().is_some_and(|(at, ..)| *at <= self.steps) {
            let Some((_, key, bytes)) = self.on_its_way.pop_front() else { return };
            self.swarm.receive(key, &bytes, Duration::ZERO, self.now);
            self.act();
        }
    }

    fn store(&mut self) {
        while self.waiting.front().is_some_and(|(at, _)| *at <= self.steps) {
            let Some((_, Complete { piece, data, check })) = self.waiting.pop_front() else { return };
            if check.holds(&data) {
                assert_eq!(self.got.insert(piece, data), None);
                self.order.push(piece);
                self.swarm.stored(piece, self.now);
            } else {
                self.swarm.wrong(piece, self.now);
            }
            self.act();
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.now += STEP;
        while let Some(dial) = self.swarm.dial(self.now) {
            if let Some((seed, _)) = self.seeds.get_mut(&dial.address) {
                seed.hang_up();
                self.links.insert(dial.key, dial.address);
                self.swarm.joined(dial.key, self.now);
            } else {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                self.swarm.closed(dial.key, End::Connect(refused), self.now);
            }
        }
        self.act();
        self.hear();
        for (key, address) in self.links.clone() {
            let Some((seed, most)) = self.seeds.get_mut(&address) else { continue };
            let bytes = seed.give(*most);
            self.say(key, bytes);
            self.act();
        }
        if let Phase::Content(content) = &self.swarm.phase {
            self.most_used = self.most_used.max(content.used());
        }
        self.store();
        self.swarm.tick(self.now);
        self.act();
    }

    /// Goes on until it is over, for so many seconds at most.
    #[track_caller]
    fn run(&mut self, seconds: u64) -> Result<(), Failure> {
        let end = self.now + Duration::from_secs(seconds);
        while self.outcome.is_none() && self.now < end {
            self.step();
        }
        self.outcome
            .clone()
            .unwrap_or_else(|| panic!("not over after {seconds} s: {:?}", self.swarm.totals()))
    }

    #[track_caller]
    fn has_all(&mut self, pieces: &[Vec<u8>]) {
        self.run(600).unwrap();
        assert_eq!(self.got.len(), pieces.len());
        assert!((0..).zip(pieces).all(|(piece, bytes)| self.got[&piece][..] == bytes[..]));
    }
}

/// A torrent of one file with these pieces, and a maker of its seeds.
fn content(kind: Kind, pieces: usize) -> (Metainfo, Vec<Vec<u8>>) {
    let files = [noise(7, pieces * PIECE as usize - 100)];
    let whole = torrent(kind, PIECE, &files);
    let pieces = split(&whole, &files);
    (whole, pieces)
}

fn target(whole: &Metainfo) -> Target {
    Target::Torrent(Box::new(whole.clone()))
}

fn has(pieces: usize, which: impl IntoIterator<Item = u32>) -> Option<Bitfield> {
    let mut bits = Bitfield::new(pieces as u32);
    which.into_iter().for_each(|piece| _ = bits.set(piece));
    Some(bits)
}

#[test]
fn a_name_is_enough_for_every_version() {
    for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
        let (whole, pieces) = content(kind, 20);
        let hashes: Vec<InfoHash> = whole.info().hashes().collect();
        let mut targets = vec![Target::Named(hashes.clone())];
        targets.extend(hashes.iter().map(|hash| Target::Wire(hash.wire())));
        for target in targets {
            let seed = (Seed::new(whole.clone(), pieces.clone()), 10);
            let mut world = World::new(target, Options::default()).with([seed]);
            world.has_all(&pieces);
            assert_eq!(world.swarm.totals().wasted, 0);
            assert!(world.swarm.into_metainfo().unwrap().missing_layers().next().is_none());
        }
    }
}

#[test]
fn an_old_peer_serves_a_v1_torrent() {
    let (whole, pieces) = content(Kind::V1, 20);
    let old = Seed { is_modern: false, ..Seed::new(whole.clone(), pieces.clone()) };
    World::new(target(&whole), Options::default()).with([(old, 10)]).has_all(&pieces);
}

#[test]
fn a_hybrid_is_verified_by_its_v1_pieces_where_nobody_gives_trees() {
    let (whole, pieces) = content(Kind::Hybrid, 20);
    let bare = Metainfo::without_layers(whole.info().clone());
    let v1 = whole.info().hash_v1().unwrap().0;
    let old = Seed { is_modern: false, wires: vec![v1], ..Seed::new(whole.clone(), pieces.clone()) };
    let mut world = World::new(target(&bare), Options::default()).with([(old, 10)]);
    world.has_all(&pieces);
    assert!(world.now >= TREES);
}

#[test]
fn peers_share_the_work() {
    let (whole, pieces) = content(Kind::V2, 100);
    let seeds = (0..5).map(|_| (Seed::new(whole.clone(), pieces.clone()), 4));
    let mut world = World::new(target(&whole), Options::default()).with(seeds);
    world.has_all(&pieces);
    let given: Vec<usize> = (1..=5).map(|number| world.seed(number).given).collect();
    let blocks = pieces.len() * 4;
    assert!(given.iter().all(|given| *given > blocks / 10), "{given:?}");
    // 20 blocks in a step.
    assert!(world.now < STEP * (blocks as u32 / 20 * 2), "{:?}", world.now);
    assert!(world.swarm.totals().wasted < 64 * u64::from(BLOCK), "{:?}", world.swarm.totals());
}

#[test]
fn the_rarest_come_first() {
    let (whole, pieces) = content(Kind::V2, 40);
    let common = || Seed { has: has(40, 0..30), ..Seed::new(whole.clone(), pieces.clone()) };
    let seeds = [(Seed::new(whole.clone(), pieces.clone()), 1), (common(), 0), (common(), 0)];
    let mut world = World::new(target(&whole), Options::default()).with(seeds);
    while world.order.len() < 8 {
        world.step();
    }
    assert!(world.order.iter().all(|piece| *piece >= 30), "{:?}", world.order);
}

#[test]
fn what_a_reader_waits_for_comes_in_its_order() {
    let (whole, pieces) = content(Kind::V2, 40);
    let seed = (Seed::new(whole.clone(), pieces.clone()), 4);
    let mut world = World::new(target(&whole), Options::default()).with([seed]);
    world.swarm.want_from(4);
    world.has_all(&pieces);
    assert!(world.order[..16].iter().copied().eq(4..20), "{:?}", world.order);
}

#[test]
fn a_peer_that_gives_nothing_does_not_hold_up_the_others() {
    let (whole, pieces) = content(Kind::V2, 30);
    let stalls = Seed { stalls: true, ..Seed::new(whole.clone(), pieces.clone()) };
    let seeds = [(stalls, 0), (Seed::new(whole.clone(), pieces.clone()), 4)];
    let mut world = World::new(target(&whole), Options::default()).with(seeds);
    world.has_all(&pieces);
    assert!(world.now < SNUB * 2, "{:?}", world.now);
}

#[test]
fn a_liar_is_found_out_and_banned() {
    for kind in [Kind::V1, Kind::V2] {
        let (whole, pieces) = content(kind, 30);
        let liar = Seed { lies: true, ..Seed::new(whole.clone(), pieces.clone()) };
        let honest = || (Seed::new(whole.clone(), pieces.clone()), 3);
        let mut world = World::new(target(&whole), Options::default()).with([(liar, 3), honest(), honest()]);
        world.has_all(&pieces);
        assert!(world.swarm.book.is_banned(&at(1)));
        assert!(!world.swarm.book.is_banned(&at(2)) && !world.swarm.book.is_banned(&at(3)));
    }
}

/// Blocks are asked for twice, taken back, asked for again and refused late, in every order.
#[test]
fn one_honest_peer_is_enough_whenever_it_answers() {
    let files = [noise(7, 12 * PIECE as usize)];
    let whole = torrent(Kind::V2, PIECE, &files);
    let pieces = split(&whole, &files);
    for number in 0..1_000 {
        let mut random = fastrand::Rng::with_seed(number);
        let liar = Seed { lies: true, ..Seed::new(whole.clone(), pieces.clone()) };
        let honest = Seed::new(whole.clone(), pieces.clone());
        let mut world = World::new(target(&whole), Options::default()).with([(liar, 0), (honest, 0)]);
        world.lag = random.usize(0..6);
        while world.outcome.is_none() {
            assert!(world.now < SNUB, "number {number}");
            for (_, most) in world.seeds.values_mut() {
                let at_most = 1 << random.u8(0..8);
                *most = random.usize(0..at_most);
            }
            world.step();
        }
        assert!(!world.swarm.book.is_banned(&at(2)), "number {number}");
        world.has_all(&pieces);
    }
}

#[test]
fn liars_alone_give_nothing() {
    let (whole, pieces) = content(Kind::V2, 5);
    let liars = (0..3).map(|_| (Seed { lies: true, ..Seed::new(whole.clone(), pieces.clone()) }, 3));
    let options = Options { alone: Duration::from_secs(60), ..Options::default() };
    let mut world = World::new(target(&whole), options).with(liars);
    assert_eq!(world.run(600), Err(Failure::Alone));
    assert!(world.got.is_empty() && (1..=3).all(|number| world.swarm.book.is_banned(&at(number))));
}

#[test]
fn a_choking_peer_gives_what_it_allows() {
    let (whole, pieces) = content(Kind::V2, 30);
    let chokes = Seed { chokes: Some(vec![3, 7]), ..Seed::new(whole.clone(), pieces.clone()) };
    let options = Options { patience: Duration::from_secs(100), ..Options::default() };
    let mut world = World::new(target(&whole), options).with([(chokes, 10)]);
    assert_eq!(world.run(600), Err(Failure::Stalled));
    assert!(world.got.keys().eq([&3, &7]));
}

#[test]
fn memory_is_bounded_whatever_the_sink_and_the_peers_do() {
    let (whole, pieces) = content(Kind::V2, 60);
    let options = Options { memory_bytes: 4 * u64::from(PIECE), ..Options::default() };
    let seeds = [0, 1, 1, 20].map(|speed| (Seed::new(whole.clone(), pieces.clone()), speed));
    let mut world = World::new(target(&whole), options.clone()).with(seeds);
    world.slow_sink = 3;
    world.has_all(&pieces);
    assert!((2 * u64::from(PIECE)..=options.memory_bytes).contains(&world.most_used));
    let small = Options { memory_bytes: u64::from(PIECE) - 1, ..options };
    let refused = Swarm::new(target(&whole), small, ID, 1).unwrap_err();
    assert_eq!(refused, Failure::PieceLength { length: PIECE, limit: u64::from(PIECE) - 1 });
}

#[test]
fn half_of_it_from_each() {
    let (whole, pieces) = content(Kind::V1, 20);
    let half = |which: [u32; 2]| {
        let seed = Seed::new(whole.clone(), pieces.clone());
        (Seed { has: has(20, which[0]..which[1]), is_modern: false, ..seed }, 5)
    };
    World::new(target(&whole), Options::default()).with([half([0, 12]), half([8, 20])]).has_all(&pieces);
}

#[test]
fn an_alias_leads_to_the_same_pieces() {
    let (whole, pieces) = content(Kind::V2, 20);
    let other = [9; 20];
    let seed = Seed { wires: vec![other], ..Seed::new(whole.clone(), pieces.clone()) };
    let bare = Metainfo::without_layers(whole.info().clone());
    let options = Options { aliases: vec![other], ..Options::default() };
    // The tracker told of it by the first name: it is tried by the other one, too.
    let mut world = World::new(target(&bare), options).with([(seed, 10)]);
    assert_eq!(world.swarm.wires().len(), 2);
    world.has_all(&pieces);
}

#[test]
fn peers_tell_of_peers_but_not_for_private_torrents() {
    let (whole, pieces) = content(Kind::V2, 5);
    for is_private in [false, true] {
        let idle = Seed { has: has(5, []), ..Seed::new(whole.clone(), pieces.clone()) };
        let mut world = World::new(target(&whole), Options::default()).with([(idle, 1)]);
        world.swarm.private = is_private;
        world.seeds.insert(at(2), (Seed::new(whole.clone(), pieces.clone()), 10));
        world.step();
        let told = Contact { address: at(2), flags: 0 };
        let payload = Pex { added: vec![told], dropped: Vec::new() }.encode();
        let mut bytes = Vec::new();
        let id = Extensions::OURS.ut_pex.unwrap();
        Message::Extended { id, payload: &payload }.put(&mut bytes);
        world.swarm.receive(1, &bytes, Duration::ZERO, world.now);
        if is_private {
            (0..100).for_each(|_| world.step());
            assert!(world.got.is_empty());
        } else {
            world.has_all(&pieces);
        }
    }
}

#[test]
fn nobody_is_needed_while_the_sink_works_and_who_was_of_use_is_waited_for() {
    let (whole, pieces) = content(Kind::V2, 2);
    let options = Options { alone: Duration::from_secs(20), ..Options::default() };
    let mut swarm = Swarm::new(target(&whole), options.clone(), ID, 1).unwrap();
    assert!(matches!(swarm.poll(), Some(Output::Begin(_))));
    swarm.tick(Duration::from_secs(100));
    swarm.begun(Bitfield::new(2), Duration::from_secs(100));
    assert!(swarm.poll().is_none());

    let seed = Seed::new(whole.clone(), pieces.clone());
    let mut world = World::new(target(&whole), options).with([(seed, 1)]);
    while world.swarm.peers.values().all(|peer| !peer.useful) {
        world.step();
    }
    let key = *world.swarm.peers.keys().next().unwrap();
    world.links.clear();
    world.swarm.closed(key, End::Closed, world.now);
    world.has_all(&pieces);
}
