//! A day of a region with four nodes and 600 films, against random choice and round robin.
//!
//! Films are asked for by Zipf's law; every hour some that hardly anybody knew become popular and
//! push others down. The nodes hold a fifth of all films together, and each can fetch a third of its
//! storage in an hour. Plans are made from counts alone, as a node would; nobody sees what will be
//! asked for next.

#![allow(clippy::print_stdout, reason = "the figures of a simulation are worth reading")]

use fastrand::Rng;
use skerry_policy_sdk::preload_planner::{Item, Request, Verdict};
use skerry_preload_planner::plan;

const NODES: usize = 4;
const FILMS: usize = 600;
const CAPACITY_BYTES: u64 = 60_000_000_000;
const WINDOW_BYTES: u64 = 20_000_000_000;
const REQUESTS_PER_HOUR: u64 = 1500;
/// Films that become popular in an hour.
const RISING: usize = 3;

/// Sums over a day, in bytes.
#[derive(Default)]
struct Day {
    asked: u64,
    /// Answered by a node of the region.
    saved: u64,
    moved: u64,
}

impl Day {
    fn saved_permille(&self) -> u64 {
        self.saved * 1000 / self.asked
    }

    /// What the origin was spared, less what it was asked for in advance.
    fn net_permille(&self) -> u64 {
        self.saved.saturating_sub(self.moved) * 1000 / self.asked
    }
}

/// What people ask for: films by rank, and the cumulated weights of the ranks.
struct Audience {
    rng: Rng,
    films: Vec<usize>,
    weights: Vec<u64>,
}

impl Audience {
    fn new() -> Self {
        let mut rng = Rng::with_seed(20_260_102);
        let mut films: Vec<usize> = (0..FILMS).collect();
        for rank in (1..FILMS).rev() {
            films.swap(rank, rng.usize(0..=rank));
        }
        let weights = (1..=FILMS as u64)
            .scan(0, |sum, rank| {
                *sum += 1_000_000 / rank;
                Some(*sum)
            })
            .collect();
        Self { rng, films, weights }
    }

    fn next(&mut self) -> usize {
        let drawn = self.rng.u64(0..self.weights[FILMS - 1]);
        self.films[self.weights.partition_point(|&sum| sum <= drawn)]
    }

    fn an_hour_passes(&mut self) {
        for _ in 0..RISING {
            let (from, to) = (self.rng.usize(100..FILMS), self.rng.usize(0..50));
            self.films[to..=from].rotate_right(1);
        }
    }
}

fn simulate(mut plan: impl FnMut(usize, &Request, &[Item]) -> Vec<u32>) -> Day {
    let mut audience = Audience::new();
    let mut day = Day::default();
    let sizes: Vec<u64> = (0..FILMS).map(|_| (1 + audience.rng.u64(0..40)) * 100_000_000).collect();
    let mut demand = vec![0u64; FILMS];
    let mut here = vec![[0u64; NODES]; FILMS];
    let mut listed = vec![[usize::MAX; NODES]; FILMS];
    for hour in 0..48 {
        // The first day only counts.
        let counts_only = hour < 24;
        for node in (0..NODES).filter(|_| !counts_only) {
            let complete = |film: usize, at: usize| here[film][at] == sizes[film];
            let items: Vec<Item> = (0..FILMS)
                .map(|film| Item {
                    size_bytes: sizes[film],
                    demand_near: demand[film],
                    copies_near: (0..NODES).filter(|&at| at != node && complete(film, at)).count() as u32,
                    held: (here[film][node] * 1000 / sizes[film]) as u32,
                    listed_seconds: match listed[film][node] {
                        usize::MAX => 0,
                        since => (hour - since) as u32 * 3600,
                    },
                    age_seconds: u32::MAX,
                    ..Item::default()
                })
                .collect();
            let request = Request {
                region: 1,
                capacity_bytes: CAPACITY_BYTES,
                window_bytes: WINDOW_BYTES,
                window_seconds: 3600,
                seed: audience.rng.u64(..),
            };
            let list: Vec<usize> = plan(node, &request, &items).into_iter().map(|row| row as usize).collect();
            let mut window = WINDOW_BYTES;
            for &film in &list {
                let missing = (sizes[film] - here[film][node]).min(window);
                window -= missing;
                day.moved += missing;
                here[film][node] += missing;
                listed[film][node] = listed[film][node].min(hour);
            }
            for film in (0..FILMS).filter(|film| !list.contains(film)) {
                here[film][node] = 0;
                listed[film][node] = usize::MAX;
            }
            let stored: u64 = here.iter().map(|film| film[node]).sum();
            assert!(stored <= CAPACITY_BYTES, "{stored} bytes on node {node}");
        }
        let mut asked = vec![0u64; FILMS];
        for _ in 0..REQUESTS_PER_HOUR {
            let film = audience.next();
            asked[film] += 1;
            if !counts_only {
                day.asked += sizes[film];
                if here[film].contains(&sizes[film]) {
                    day.saved += sizes[film];
                }
            }
        }
        for (demand, asked) in demand.iter_mut().zip(asked) {
            // Half after each day.
            *demand = (*demand * 9715 + asked * 1000 * 285) / 10_000;
        }
        audience.an_hour_passes();
    }
    day
}

/// Names `rows` in their order while they fit.
fn fitting(request: &Request, items: &[Item], rows: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let (mut room, mut window) = (request.capacity_bytes, request.window_bytes);
    let mut list = Vec::new();
    for row in rows {
        let missing = items[row].size_bytes * u64::from(1000 - items[row].held) / 1000;
        if items[row].size_bytes <= room && missing <= window {
            room -= items[row].size_bytes;
            window -= missing;
            list.push(row as u32);
        }
    }
    list
}

#[test]
fn a_day_of_six_hundred_films() {
    let policy = simulate(|_, request, items| match plan(request, items) {
        Verdict::Ranked(choices) => choices.iter().map(|choice| choice.row).collect(),
        other => panic!("{other:?}"),
    });

    // Keeps what it has, and fills up with whatever comes.
    let mut rng = Rng::with_seed(1);
    let random = simulate(|_, request, items| {
        let mut rows: Vec<usize> = (0..items.len()).collect();
        rng.shuffle(&mut rows);
        rows.sort_by_key(|&row| items[row].held == 0);
        fitting(request, items, rows)
    });

    // The next films in turn, in place of those that have been there longest.
    let mut turns = [0; NODES];
    let round_robin = simulate(|node, request, items| {
        let start = turns[node] + node * FILMS / NODES;
        let list = fitting(request, items, (0..FILMS).map(|turn| (start + turn) % FILMS));
        turns[node] += 5;
        list
    });

    for (name, day) in [("policy", &policy), ("random", &random), ("round robin", &round_robin)] {
        println!(
            "{name:>12}: {:>4} of 1000 bytes saved, {:>4} net of what was moved; {:>4} GB moved",
            day.saved_permille(),
            day.net_permille(),
            day.moved / 1_000_000_000,
        );
    }

    for other in [&random, &round_robin] {
        assert!(policy.saved_permille() > other.saved_permille() * 3);
        assert!(policy.net_permille() > other.net_permille() * 3);
    }
    // The nodes begin empty; lists that changed with every count would move this every few hours.
    assert!(policy.moved < 2 * NODES as u64 * CAPACITY_BYTES);
}
