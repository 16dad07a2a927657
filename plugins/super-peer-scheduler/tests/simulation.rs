//! A day of a swarm in three regions, against random choice and round robin.
//!
//! Each region has two operators with two super-peers each. Peers come by the hour, in one evening
//! hour of the first region three times as many; they download at up to 20 Mbit/s, upload little,
//! and leave ten minutes after they are done. A peer asks for twelve others when it comes and every
//! five minutes, and takes up to 5 Mbit/s from each. Loads are those of the ten seconds before.

#![allow(clippy::print_stdout, reason = "the figures of a simulation are worth reading")]

use fastrand::Rng;
use skerry_policy_sdk::NEVER;
use skerry_policy_sdk::super_peer_scheduler::{Candidate, Request, Verdict};
use skerry_super_peer_scheduler::schedule_peers;

const REGIONS: u32 = 3;
const OPERATORS: [u32; 2] = [100, 200];
const SUPER_PEERS: usize = 12;
/// Ten seconds.
const TICKS: u64 = 8640;
const SUPER_PEER_KBPS: u32 = 200_000;
const UPLOAD_KBPS: u32 = 3000;
const DOWNLOAD_KBPS: u64 = 20_000;
const EACH_KBPS: u64 = 5000;
const FILE_KBIT: u64 = 4_000_000;
const WANTED: usize = 12;
const ASK_TICKS: u64 = 30;
const STAY_TICKS: u64 = 60;
/// Peers of a region in a tick when most come, in permille.
const PEAK: u64 = 800;
/// Demand by the hour, in permille of the peak.
const HOURS: [u64; 24] = [
    500, 350, 250, 180, 150, 150, 200, 300, 400, 450, 500, 550, 600, 600, 600, 650, 700, 800, 900, 1000,
    1000, 950, 850, 700,
];
const FLASH_HOUR: u64 = 20;

/// Sums over a day.
#[derive(Default)]
struct Day {
    done: u64,
    download_ticks: u64,
    kbit: u64,
    /// What came from the peer's own region, and from its own operator there.
    near_kbit: u64,
    own_kbit: u64,
    /// Calls in the flash hour and in all others, and those of them that asked for more copies.
    flash: (u64, u64),
    calm: (u64, u64),
}

impl Day {
    fn mean_seconds(&self) -> u64 {
        self.download_ticks * 10 / self.done
    }

    fn near_permille(&self) -> u64 {
        self.near_kbit * 1000 / self.kbit
    }

    fn own_permille(&self) -> u64 {
        self.own_kbit * 1000 / self.kbit
    }
}

/// One who sends: the super-peers, then all peers that ever came.
struct Sender {
    is_super: bool,
    region: u32,
    isp: u32,
    kbps: u32,
    /// What it was asked for in this tick, and sent in the one before.
    asked_kbps: u64,
    used_kbps: u32,
    got_kbit: u64,
    came: u64,
    done: Option<u64>,
    sources: Vec<usize>,
    asked_at: u64,
}

impl Sender {
    fn new(is_super: bool, region: u32, isp: u32, came: u64) -> Self {
        let (kbps, got_kbit) = if is_super { (SUPER_PEER_KBPS, FILE_KBIT) } else { (UPLOAD_KBPS, 0) };
        Self {
            is_super,
            region,
            isp,
            kbps,
            asked_kbps: 0,
            used_kbps: 0,
            got_kbit,
            came,
            done: None,
            sources: Vec::new(),
            asked_at: 0,
        }
    }

    fn row(&self, index: usize, to: &Sender, tick: u64) -> Candidate {
        Candidate {
            super_peer: u32::from(self.is_super),
            region: self.region,
            isp: self.isp,
            distance_us: [5000, 30_000, 60_000][self.region.abs_diff(to.region) as usize],
            used_kbps: if self.is_super { self.used_kbps } else { 0 },
            capacity_kbps: if self.is_super { self.kbps } else { 0 },
            health: 1000,
            held: (self.got_kbit * 1000 / FILE_KBIT) as u32,
            named_ms_ago: match to.sources.contains(&index) {
                true => ((tick - to.asked_at) * 10_000) as u32,
                false => NEVER,
            },
        }
    }
}

fn simulate(mut choose: impl FnMut(&Request, &[Candidate]) -> (Vec<usize>, u32)) -> Day {
    let mut rng = Rng::with_seed(20_260_103);
    let mut day = Day::default();
    let mut all: Vec<Sender> = (0..SUPER_PEERS as u32)
        .map(|at| Sender::new(true, at % REGIONS + 1, OPERATORS[at as usize / 3 % 2], 0))
        .collect();
    let mut alive: Vec<usize> = (0..SUPER_PEERS).collect();
    for tick in 0..TICKS {
        let hour = tick / 360;
        for region in 1..=REGIONS {
            let crowd = if region == 1 && hour == FLASH_HOUR { 3 } else { 1 };
            let expected = PEAK * HOURS[hour as usize] / 1000 * crowd;
            for _ in 0..expected / 1000 + u64::from(rng.u64(0..1000) < expected % 1000) {
                alive.push(all.len());
                all.push(Sender::new(false, region, OPERATORS[rng.usize(0..2)], tick));
            }
        }

        let loads = |at: usize| all[at].got_kbit < FILE_KBIT;
        let downloading: Vec<usize> = alive.iter().copied().filter(|&at| loads(at)).collect();
        let demand: u64 = alive.iter().filter(|&&at| all[at].is_super).map(|&at| all[at].asked_kbps).sum();
        for &at in &downloading {
            if !(tick - all[at].came).is_multiple_of(ASK_TICKS) {
                continue;
            }
            let rows: Vec<usize> = alive.iter().copied().filter(|&other| other != at).collect();
            let candidates: Vec<_> = rows.iter().map(|&row| all[row].row(row, &all[at], tick)).collect();
            let request = Request {
                client: at as u64,
                region: all[at].region,
                isp: all[at].isp,
                size_bytes: FILE_KBIT * 125,
                have: (all[at].got_kbit * 1000 / FILE_KBIT) as u32,
                wanted: WANTED as u32,
                downloading: downloading.len() as u32,
                demand_kbps: demand as u32,
                seed: rng.u64(..),
            };
            let (named, more_copies) = choose(&request, &candidates);
            let calls = if hour == FLASH_HOUR { &mut day.flash } else { &mut day.calm };
            calls.0 += 1;
            calls.1 += u64::from(more_copies > 0);
            all[at].sources = named.into_iter().map(|row| rows[row]).collect();
            all[at].asked_at = tick;
        }

        for &at in &alive {
            all[at].asked_kbps = 0;
        }
        // Who has nothing yet, or has left, sends nothing.
        let sends = |all: &[Sender], source: usize| {
            all[source].got_kbit > 0 && all[source].done.is_none_or(|done| done + STAY_TICKS > tick)
        };
        for &at in &downloading {
            for source in all[at].sources.clone() {
                if sends(&all, source) {
                    all[source].asked_kbps += EACH_KBPS;
                }
            }
        }
        for &at in &downloading {
            let gives = |source: usize| {
                let asked = all[source].asked_kbps.max(1);
                let share = EACH_KBPS * u64::from(all[source].kbps).min(asked) / asked;
                if sends(&all, source) { share } else { 0 }
            };
            let granted: Vec<_> = all[at].sources.iter().map(|&source| (source, gives(source))).collect();
            let total: u64 = granted.iter().map(|(_, kbps)| kbps).sum();
            for (source, kbps) in granted {
                let kbit = 10 * if total > DOWNLOAD_KBPS { kbps * DOWNLOAD_KBPS / total } else { kbps };
                let near = all[source].region == all[at].region;
                day.kbit += kbit;
                day.near_kbit += if near { kbit } else { 0 };
                day.own_kbit += if near && all[source].isp == all[at].isp { kbit } else { 0 };
                all[at].got_kbit += kbit;
            }
            if all[at].got_kbit >= FILE_KBIT {
                all[at].got_kbit = FILE_KBIT;
                all[at].done = Some(tick);
                day.done += 1;
                day.download_ticks += tick + 1 - all[at].came;
            }
        }
        for &at in &alive {
            all[at].used_kbps = u64::from(all[at].kbps).min(all[at].asked_kbps) as u32;
        }
        alive.retain(|&at| all[at].done.is_none_or(|done| done + STAY_TICKS > tick));
    }
    day
}

#[test]
fn a_day_of_a_swarm() {
    let policy = simulate(|request, candidates| match schedule_peers(request, candidates) {
        Verdict::Scheduled(schedule) => {
            (schedule.peers.iter().map(|choice| choice.row as usize).collect(), schedule.more_copies)
        }
        other => panic!("{other:?}"),
    });

    let mut rng = Rng::with_seed(1);
    let random = simulate(|_, candidates| {
        let mut rows: Vec<usize> = (0..candidates.len()).collect();
        rng.shuffle(&mut rows);
        rows.truncate(WANTED);
        (rows, 0)
    });

    let mut turn = 0;
    let round_robin = simulate(|_, candidates| {
        turn += WANTED;
        ((0..WANTED.min(candidates.len())).map(|row| (turn + row) % candidates.len()).collect(), 0)
    });

    for (name, day) in [("policy", &policy), ("random", &random), ("round robin", &round_robin)] {
        println!(
            "{name:>12}: {} downloads, {:>4} s each, {:>4} of 1000 bytes from the region, {:>4} from the operator",
            day.done,
            day.mean_seconds(),
            day.near_permille(),
            day.own_permille(),
        );
    }
    println!(
        "calls, and those that ask for copies: {:?} in the flash hour, {:?} else",
        policy.flash, policy.calm
    );

    for other in [&random, &round_robin] {
        assert!(policy.mean_seconds() * 3 < other.mean_seconds() * 2);
        assert!(policy.near_permille() > other.near_permille() * 2);
        assert!(policy.own_permille() * 2 > other.own_permille() * 5);
    }
    // 200 s is what a peer's own line allows.
    assert!(policy.mean_seconds() < 220);
    assert!(policy.flash.1 * 10 > policy.flash.0 * 9, "{:?}", policy.flash);
    assert!(policy.calm.1 * 100 < policy.calm.0, "{:?}", policy.calm);
}
