//! Peers whose every word is written here.

use skerry_wire::metainfo::{Builder, Hasher, NewFile};
use skerry_wire::peer::extension;
use skerry_wire::peer::metadata::{MAX_LENGTH, Message as Part};
use skerry_wire::peer::{Block, Handshake, Reserved};

use super::*;

/// A peer that is to be tried, past its handshake.
fn greet(swarm: &mut Swarm) -> Key {
    let Dial { key, approach, .. } = swarm.dial(Duration::ZERO).unwrap();
    swarm.joined(key, Duration::ZERO);
    let reserved = Reserved::EXTENSION | Reserved::FAST | Reserved::V2;
    let theirs = Handshake { reserved, info_hash: approach.wire, peer_id: [5; 20] };
    swarm.receive(key, &theirs.encode(), Duration::ZERO, Duration::ZERO);
    key
}

/// A peer past its handshake, of a torrent that is known.
fn greeted(whole: &Metainfo) -> (Swarm, Key) {
    let mut swarm = Swarm::new(target(whole), Options::default(), ID, 1).unwrap();
    let wire = swarm.wires()[0];
    swarm.found(vec![at(1)], &wire);
    let key = greet(&mut swarm);
    while let Some(output) = swarm.poll() {
        if let Output::Begin(metainfo) = output {
            let pieces = crate::sink::piece_count(&metainfo);
            swarm.begun(Bitfield::new(pieces), Duration::ZERO);
        }
    }
    (swarm, key)
}

/// A peer that has everything, and gives it.
fn serving(whole: &Metainfo) -> (Swarm, Key) {
    let (mut swarm, key) = greeted(whole);
    assert!(stays(&mut swarm, key, &[Message::HaveAll, Message::Unchoke]));
    (swarm, key)
}

/// That a peer refuses all that it is asked for.
fn refusals(swarm: &Swarm, key: Key) -> Vec<Message<'static>> {
    swarm.peers[&key].asked().iter().copied().map(Message::Reject).collect()
}

/// What messages lead to: whether the connection stays.
fn stays(swarm: &mut Swarm, key: Key, messages: &[Message<'_>]) -> bool {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.put(&mut bytes));
    swarm.receive(key, &bytes, Duration::ZERO, Duration::ZERO);
    swarm.peers.contains_key(&key)
}

#[test]
fn what_no_sound_peer_says_ends_the_connection() {
    let (whole, _) = content(Kind::V2, 9);
    let data = [0; BLOCK as usize];
    let block = |begin| Message::Piece { piece: 0, begin, data: &data };
    let unasked: Vec<Message<'_>> = (0..20).map(|number| block(number * BLOCK)).collect();
    let long = "d13:metadata_sizei99999999999e1:mi5ee";
    let talk = vec![Message::Interested; 100_000];
    let cases: [(&[Message<'_>], bool); 14] = [
        (&[Message::HaveAll, Message::HaveAll], false),
        (&[Message::Bitfield(&[0xff, 0x80]), Message::Have(8)], true),
        (&[Message::Bitfield(&[0xff, 0x80]), Message::HaveNone], false),
        (&[Message::Bitfield(&[0xff])], false),
        (&[Message::Bitfield(&[0xff, 0xff])], false),
        (&[Message::Have(9)], false),
        (&[Message::Have(u32::MAX)], false),
        (&unasked, false),
        (&[Message::AllowedFast(u32::MAX), Message::Unchoke], true),
        (&[Message::Reject(Block { piece: u32::MAX, begin: u32::MAX, length: 1 })], true),
        (&[Message::Extended { id: 0, payload: long.as_bytes() }], true),
        (&[Message::Extended { id: 2, payload: b"d5:added5:aaaaae" }], false),
        (&[Message::Extended { id: 3, payload: b"123" }], false),
        (&talk, false),
    ];
    for (number, (messages, expected)) in cases.into_iter().enumerate() {
        let (mut swarm, key) = greeted(&whole);
        assert_eq!(stays(&mut swarm, key, messages), expected, "case {number}");
    }
}

#[test]
fn a_block_of_another_length_bans() {
    let (whole, _) = content(Kind::V2, 9);
    let (mut swarm, key) = serving(&whole);
    let asked = swarm.peers[&key].asked()[0];
    let data = vec![0; asked.length as usize - 1];
    let wrong = Message::Piece { piece: asked.piece, begin: asked.begin, data: &data };
    assert!(!stays(&mut swarm, key, &[wrong]));
    assert!(swarm.book.is_banned(&at(1)));
}

#[test]
fn what_is_refused_is_not_asked_for_again() {
    let (whole, _) = content(Kind::V2, 9);
    let (mut swarm, key) = serving(&whole);
    for _ in 0..100 {
        let refused = refusals(&swarm, key);
        assert!(stays(&mut swarm, key, &refused));
    }
    assert!(swarm.peers[&key].asked().is_empty());
}

/// A peer answers each request once, those that were taken back too (BEP 6).
#[test]
fn what_was_taken_back_and_is_refused_may_be_asked_for_again() {
    let (whole, _) = content(Kind::V2, 1);
    let (mut swarm, key) = serving(&whole);
    let refused = refusals(&swarm, key);
    swarm.tick(SNUB);
    let again = next(&swarm, key).unwrap();
    assert!(refused.contains(&Message::Reject(again)));
    assert!(stays(&mut swarm, key, &refused));
    assert_eq!(next(&swarm, key), Some(again), "that was the answer to the first request");
    assert!(stays(&mut swarm, key, &[Message::Reject(again)]));
    assert_ne!(next(&swarm, key), Some(again));
}

/// A peer that answers each request, and nothing for two minutes but that.
#[test]
fn who_answers_what_was_taken_back_twice_is_not_taken_to_refuse() {
    let (whole, _) = content(Kind::V2, 1);
    let (mut swarm, key) = serving(&whole);
    for round in 1..5 {
        let refused = refusals(&swarm, key);
        swarm.tick(round * SNUB);
        assert!(stays(&mut swarm, key, &refused));
        assert!(swarm.peers[&key].has(0) && next(&swarm, key).is_some(), "round {round}");
    }
}

#[test]
fn who_does_not_answer_what_was_taken_back_is_believed_the_next_time() {
    let (whole, _) = content(Kind::V2, 1);
    let (mut swarm, key) = serving(&whole);
    swarm.tick(SNUB);
    let again = next(&swarm, key).unwrap();
    assert!(stays(&mut swarm, key, &[Message::Reject(again)]));
    assert_eq!(next(&swarm, key), Some(again), "that may have been the answer to the first request");
    swarm.tick(2 * SNUB);
    let again = next(&swarm, key).unwrap();
    assert!(stays(&mut swarm, key, &[Message::Reject(again)]));
    assert_ne!(next(&swarm, key), Some(again), "there was but one request that it could answer");
}

/// As Transmission did up to version 4.
#[test]
fn who_refuses_everything_and_then_chokes_has_what_it_had() {
    let (whole, _) = content(Kind::V2, 9);
    let (mut swarm, key) = serving(&whole);
    let mut last = refusals(&swarm, key);
    last.push(Message::Choke);
    assert!(stays(&mut swarm, key, &last));
    assert!((0..9).all(|piece| swarm.peers[&key].has(piece)));
    assert!(stays(&mut swarm, key, &[Message::Unchoke]));
    assert!(next(&swarm, key).is_some());
}

/// A peer past its handshake, told of by a tracker.
fn joins(swarm: &mut Swarm, number: u16) -> Key {
    let wire = swarm.wires()[0];
    swarm.found(vec![at(number)], &wire);
    let key = greet(swarm);
    assert!(stays(swarm, key, &[Message::HaveAll, Message::Unchoke]));
    key
}

/// Neither new ones nor one that was silent itself for a while.
#[test]
fn silent_peers_do_not_keep_the_last_block_from_others() {
    let whole = torrent(Kind::V2, 1 << 14, &[noise(7, 1 << 14)]);
    let (mut swarm, first) = serving(&whole);
    let silent = [first, joins(&mut swarm, 2), joins(&mut swarm, 3)];
    let willing = joins(&mut swarm, 4);
    assert!(silent.iter().all(|key| next(&swarm, *key).is_some()) && next(&swarm, willing).is_none());
    swarm.tick(SNUB);
    assert!(next(&swarm, willing).is_some());

    let (mut swarm, _) = serving(&whole);
    let willing = joins(&mut swarm, 2);
    swarm.peers.get_mut(&willing).unwrap().snubbed = true;
    let mut rounds = (1..5).filter(|round| {
        swarm.tick(*round * SNUB);
        next(&swarm, willing).is_some()
    });
    assert!(rounds.next().is_some());
}

/// Who is asked for hashes at a time.
fn asked_for_hashes(swarm: &mut Swarm, now: Duration) -> Vec<Key> {
    swarm.tick(now);
    let is_asked = |bytes: &[u8]| bytes.len() == 49 + 4 && bytes[4] == 21;
    let sent = std::iter::from_fn(|| swarm.poll());
    let asked = sent.filter_map(|output| match output {
        Output::Send(key, bytes) if is_asked(&bytes) => Some(key),
        _ => None,
    });
    asked.collect()
}

#[test]
fn silent_peers_do_not_keep_hashes_from_others() {
    let whole = torrent(Kind::V2, 1 << 14, &[noise(7, 100_000)]);
    let bare = Metainfo::without_layers(whole.info().clone());
    let mut swarm = Swarm::new(target(&bare), Options::default(), ID, 1).unwrap();
    let keys = [1, 2, 3].map(|number| joins(&mut swarm, number));
    let mut asked = Vec::new();
    for second in 0..60 {
        asked.extend(asked_for_hashes(&mut swarm, Duration::from_secs(second)));
    }
    assert_eq!(asked[..2], keys[1..], "before the first, which was asked when it came, is asked again");
}

#[test]
fn a_piece_that_nobody_left_would_give_goes_to_who_had_its_turn() {
    let (mut swarm, owner, other) = suspected();
    let chokes = |swarm: &mut Swarm, key: Key| {
        let refused = refusals(swarm, key);
        assert!(stays(swarm, key, &[&[Message::Choke], &refused[..]].concat()));
    };
    chokes(&mut swarm, owner);
    assert!(stays(&mut swarm, owner, &[Message::Unchoke]));
    assert_eq!(next(&swarm, owner), None, "it is the other one's turn");
    assert!(next(&swarm, other).is_some());
    chokes(&mut swarm, other);
    swarm.tick(STEP);
    assert!(next(&swarm, owner).is_some());
}

#[test]
fn who_comes_while_the_last_piece_is_verified_is_told_of_interest() {
    let whole = torrent(Kind::V2, 1 << 14, &[noise(7, 1 << 14)]);
    let (mut swarm, liar) = serving(&whole);
    let block = next(&swarm, liar).unwrap();
    assert!(stays(&mut swarm, liar, &[wrong(block)]));
    let honest = joins(&mut swarm, 2);
    swarm.wrong(0, Duration::ZERO);
    assert!(!swarm.peers.contains_key(&liar));
    assert!(swarm.peers[&honest].interested && next(&swarm, honest).is_some());
}

#[test]
fn who_is_banned_while_it_comes_back_is_not_let_in() {
    let (whole, _) = content(Kind::V2, 9);
    let (mut swarm, first) = greeted(&whole);
    swarm.peers.get_mut(&first).unwrap().useful = true;
    swarm.closed(first, End::Closed, Duration::ZERO);
    let dial = swarm.dial(Duration::from_secs(10)).unwrap();
    swarm.ban(dial.address, Duration::ZERO);
    swarm.joined(dial.key, Duration::from_secs(10));
    assert!(swarm.peers.is_empty());
    assert!(
        std::iter::from_fn(|| swarm.poll()).any(|out| matches!(out, Output::Close(key) if key == dial.key))
    );
}

#[test]
fn metadata_that_is_wrong_bans_and_too_much_of_it_is_not_taken() {
    let (whole, pieces) = content(Kind::V2, 3);
    let (other, _) = content(Kind::V2, 4);
    let wrong = Seed::new(other, pieces.clone());
    let target = || Target::Named(whole.info().hashes().collect());
    let mut world = World::new(target(), Options::default()).with([(wrong, 5)]);
    (0..10).for_each(|_| world.step());
    assert!(world.swarm.book.is_banned(&at(1)));
    world.seeds.insert(at(2), (Seed::new(whole.clone(), pieces.clone()), 5));
    let wire = world.swarm.wires()[0];
    world.swarm.found(vec![at(2)], &wire);
    world.has_all(&pieces);

    let mut swarm = Swarm::new(target(), Options::default(), ID, 1).unwrap();
    let wire = swarm.wires()[0];
    swarm.found(vec![at(1)], &wire);
    let key = swarm.dial(Duration::ZERO).unwrap().key;
    swarm.joined(key, Duration::ZERO);
    let reserved = Reserved::EXTENSION | Reserved::FAST;
    let theirs = Handshake { reserved, info_hash: wire, peer_id: [5; 20] };
    swarm.receive(key, &theirs.encode(), Duration::ZERO, Duration::ZERO);
    let hello = format!("d1:md11:ut_metadatai7ee13:metadata_sizei{}ee", MAX_LENGTH + 1);
    let hello = Message::Extended { id: extension::HANDSHAKE, payload: hello.as_bytes() };
    assert!(stays(&mut swarm, key, &[hello, Message::Have(u32::MAX)]));
    assert_eq!(swarm.peers[&key].metadata_length, None);
}

#[test]
fn a_private_torrent_leaves_those_that_peers_told_of() {
    let files = [noise(7, 100_000)];
    let mut hasher = Hasher::new(Kind::V1, PIECE);
    hasher.update(&files[0]);
    hasher.end_file();
    let file = NewFile { path: vec!["t".to_owned()], length: files[0].len() as u64 };
    let mut builder = Builder::new(Kind::V1, "t", PIECE, vec![file]);
    builder.private = true;
    let whole = builder.build(&hasher.finish()).unwrap();
    let info = whole.info().bytes();

    let mut swarm =
        Swarm::new(Target::Named(whole.info().hashes().collect()), Options::default(), ID, 1).unwrap();
    let wire = swarm.wires()[0];
    swarm.found(vec![at(1)], &wire);
    let key = greet(&mut swarm);
    let (ids, mut bytes) = (Extensions::OURS, Vec::new());
    let added = [2, 3].map(|number| Contact { address: at(number), flags: 0 });
    let payload = Pex { added: added.to_vec(), dropped: Vec::new() }.encode();
    Message::Extended { id: ids.ut_pex.unwrap(), payload: &payload }.put(&mut bytes);
    let hello = format!("d1:md11:ut_metadatai7ee13:metadata_sizei{}ee", info.len());
    Message::Extended { id: extension::HANDSHAKE, payload: hello.as_bytes() }.put(&mut bytes);
    swarm.receive(key, &bytes, Duration::ZERO, Duration::ZERO);
    let stranger = greet(&mut swarm);
    let dialed = swarm.dial(Duration::ZERO).unwrap().key;
    assert!(swarm.peers.contains_key(&stranger) && swarm.dialing.contains_key(&dialed));

    let payload = Part::answer(info, 0).encode();
    assert!(stays(&mut swarm, key, &[Message::Extended { id: ids.ut_metadata.unwrap(), payload: &payload }]));
    assert!(swarm.peers.keys().eq([&key]) && swarm.dialing.is_empty());
    let closed = std::iter::from_fn(|| swarm.poll());
    let closed: Vec<Key> =
        closed.filter_map(|output| if let Output::Close(key) = output { Some(key) } else { None }).collect();
    assert_eq!(closed, [stranger, dialed]);
    assert_eq!(swarm.dial(Duration::from_secs(86_400)), None);
}

static WRONG: [u8; BLOCK as usize] = [1; BLOCK as usize];

fn wrong(block: Block) -> Message<'static> {
    Message::Piece { piece: block.piece, begin: block.begin, data: &WRONG }
}

/// The block that a peer was asked for first.
fn next(swarm: &Swarm, key: Key) -> Option<Block> {
    swarm.peers[&key].asked().front().copied()
}

/// Two peers that have given a wrong piece together: the first has to give it alone.
fn suspected() -> (Swarm, Key, Key) {
    let length = 1 << 18;
    let whole = torrent(Kind::V2, length, &[noise(7, length as usize)]);
    let (mut swarm, first) = greeted(&whole);
    let wire = swarm.wires()[0];
    swarm.found(vec![at(2)], &wire);
    let second = greet(&mut swarm);
    for key in [first, second] {
        assert!(stays(&mut swarm, key, &[Message::HaveAll, Message::Unchoke]));
    }
    for key in [first, second].into_iter().cycle().take(100) {
        if let Some(block) = next(&swarm, key) {
            assert!(stays(&mut swarm, key, &[wrong(block)]));
        }
        let complete = std::iter::from_fn(|| swarm.poll()).any(|output| matches!(output, Output::Piece(_)));
        if complete {
            break;
        }
    }
    swarm.wrong(0, Duration::ZERO);
    let (owner, other) = if next(&swarm, first).is_some() { (first, second) } else { (second, first) };
    assert!(next(&swarm, owner).is_some() && next(&swarm, other).is_none());
    (swarm, owner, other)
}

#[test]
fn a_piece_that_one_peer_has_to_give_alone_is_had_from_another_when_it_chokes() {
    let (mut swarm, owner, other) = suspected();
    let mut last: Vec<Message<'_>> = swarm.peers[&owner].asked().iter().copied().map(wrong).collect();
    assert!(last.len() < 16, "it is not asked for all of the piece at once");
    last.push(Message::Choke);
    assert!(stays(&mut swarm, owner, &last));
    swarm.tick(Duration::from_secs(1));
    assert!(next(&swarm, other).is_some());
}

#[test]
fn a_piece_that_one_peer_has_to_give_alone_is_not_kept_by_a_block_now_and_then() {
    let (mut swarm, owner, other) = suspected();
    let turn =
        |swarm: &Swarm| if let Phase::Content(content) = &swarm.phase { content.turn(0) } else { SNUB };
    let first = turn(&swarm);
    let mut now = Duration::ZERO;
    while next(&swarm, other).is_none() {
        assert!(now < Duration::from_secs(120), "{now:?}");
        let (block, mut bytes) = (next(&swarm, owner).unwrap(), Vec::new());
        wrong(block).put(&mut bytes);
        swarm.receive(owner, &bytes, Duration::ZERO, now);
        // Soon enough not to count as silent.
        now += SNUB - Duration::from_secs(1);
        swarm.tick(now);
    }
    assert!(now >= Duration::from_secs(60), "it had its time");
    assert_eq!(next(&swarm, owner), None, "it does not get it back");
    // When the other one will not give it either, the slow one has another turn, which is twice as long.
    let refused = refusals(&swarm, other);
    assert!(stays(&mut swarm, other, &refused));
    swarm.tick(now);
    assert!(next(&swarm, owner).is_some());
    assert_eq!(turn(&swarm), 2 * first);
}

/// Silent peers take turns, those that came first too.
#[test]
fn a_piece_that_one_peer_has_to_give_alone_is_had_from_another_when_it_is_silent() {
    let (mut swarm, owner, other) = suspected();
    swarm.tick(SNUB);
    assert_eq!((next(&swarm, owner), next(&swarm, other).is_some()), (None, true));
    swarm.tick(2 * SNUB);
    assert_eq!((next(&swarm, owner), next(&swarm, other)), (None, None), "all had their turn");
    swarm.tick(2 * SNUB + STEP);
    assert!(next(&swarm, owner).is_some());
}

#[test]
fn a_piece_that_one_peer_had_to_give_alone_does_not_go_back_to_it_in_the_same_breath() {
    let (mut swarm, owner, other) = suspected();
    let refused = Message::Reject(next(&swarm, owner).unwrap());
    assert!(stays(&mut swarm, owner, &[refused, Message::Have(0)]));
    assert_eq!(next(&swarm, owner), None, "not for the other blocks of it either");
    assert!(next(&swarm, other).is_some());
}

#[test]
fn a_v1_handshake_may_be_answered_with_the_v2_info_hash() {
    let (whole, _) = content(Kind::Hybrid, 9);
    let [v2, v1] = target(&whole).wires()[..] else { panic!("it has two") };
    let v1_alone = Target::Named(vec![InfoHash::V1(whole.info().hash_v1().unwrap())]);
    // As libtorrent does, which then does not say that it could be asked to.
    let reserved = Reserved::EXTENSION | Reserved::FAST;
    let answered = |target: Target, info_hash| {
        let mut swarm = Swarm::new(target, Options::default(), ID, 1).unwrap();
        swarm.found(vec![at(1)], &v1);
        let dial = swarm.dial(Duration::ZERO).unwrap();
        assert_eq!(dial.approach, Approach { wire: v1, encrypted: false });
        swarm.joined(dial.key, Duration::ZERO);
        let theirs = Handshake { reserved, info_hash, peer_id: [5; 20] };
        swarm.receive(dial.key, &theirs.encode(), Duration::ZERO, Duration::ZERO);
        let takes = swarm.peers.get(&dial.key).is_some_and(|peer| peer.greeted && peer.gives_hashes);
        (takes, swarm)
    };
    assert!(answered(target(&whole), v2).0);
    assert!(answered(v1_alone, v2).0, "nobody can know the other one");
    // Another torrent is not taken, and the address is tried in another way at once.
    let (takes, mut swarm) = answered(target(&whole), [9; 20]);
    assert!(!takes);
    let ways: Vec<Approach> = std::iter::from_fn(|| {
        let dial = swarm.dial(Duration::ZERO)?;
        swarm.closed(dial.key, End::Closed, Duration::ZERO);
        Some(dial.approach)
    })
    .collect();
    assert_eq!(ways, [Approach { wire: v1, encrypted: true }, Approach { wire: v2, encrypted: false }]);
}

#[test]
fn who_has_failed_is_tried_again_and_not_waited_for() {
    let (whole, _) = content(Kind::V2, 9);
    let options = Options { alone: Duration::from_secs(20), ..Options::default() };
    let mut world = World::new(target(&whole), options);
    let wire = world.swarm.wires()[0];
    assert!(world.swarm.is_alone());
    world.swarm.found(vec![at(1)], &wire);
    let mut tried = 0;
    while world.outcome.is_none() {
        let before = world.swarm.last_key;
        world.step();
        tried += world.swarm.last_key - before;
    }
    assert_eq!((world.outcome.clone(), tried), (Some(Err(Failure::Alone)), 4));
    assert!((20..22).contains(&world.now.as_secs()), "{:?}", world.now);
}

#[test]
fn no_bytes_are_too_strange() {
    let (whole, pieces) = content(Kind::Hybrid, 9);
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut swarm, key) = greeted(&whole);
        let mut words = Seed::new(whole.clone(), pieces.clone());
        let theirs = Handshake { reserved: Reserved::FAST, info_hash: [1; 20], peer_id: [2; 20] };
        let mut bytes = words.hear(&theirs.encode()).unwrap();
        bytes.drain(..68);
        for piece in 0..3 {
            Message::Unchoke.put(&mut bytes);
            Message::Piece { piece, begin: 0, data: &pieces[0][..BLOCK as usize] }.put(&mut bytes);
        }
        for _ in 0..random.usize(1..20) {
            let place = random.usize(..bytes.len());
            bytes[place] = random.u8(..);
        }
        for part in bytes.chunks(random.usize(1..3000)) {
            swarm.receive(key, part, Duration::ZERO, Duration::from_secs(1));
        }
        swarm.tick(Duration::from_secs(500));
        while swarm.poll().is_some() {}
    }
}
