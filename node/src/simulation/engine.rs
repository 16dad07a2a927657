//! The time itself, step by step: heartbeats and plans, who comes and who leaves, what is sent.

mod ask;
mod transfer;

use std::path::PathBuf;
use std::time::Instant;

use fastrand::Rng;
use skerry_wire::tracker::Event;

use super::arrivals::{Arrival, Crowd, arrivals, crowds};
use super::catalogue::Catalogue;
use super::control::Control;
use super::flow::{ALL, Senders};
use super::map::{Map, OPERATORS};
use super::nodes::{BEAT_MS, LINKS, Nodes};
use super::peers::{Client, Peer, Peers};
use super::report::{self, CrowdReport, Imbalance, LastPeer, RegionReport, Report, Wall};
use super::settings::Settings;
use super::tally::{Source, Tally};
use super::{Given, PLAN_SECONDS, START_MS, STEP_MS};

const HOUR_MS: u64 = 3_600_000;
/// Nodes ask for their lists in so many turns, a part of them at each.
const TURNS: u64 = 4;
const TURN_MS: u64 = PLAN_SECONDS * 1000 / TURNS;
/// How often it is looked for wishes, on which all nodes ask for their lists.
const WISHES_MS: u64 = 60_000;
/// Parts of the swarms that are swept in a step: all of them in a minute.
const SWEEPS: usize = 9;
/// When a peer asks again first, and at least, where nothing has got better.
const ASK_MS: u64 = 60_000;
const LONGEST_ASK_MS: u64 = 900_000;

/// All that there is.
pub(super) struct Engine<'a> {
    settings: &'a Settings,
    given: &'a [Given],
    map: Map,
    catalogue: Catalogue,
    crowds: Vec<Crowd>,
    arrivals: Vec<Arrival>,
    /// The next of them.
    next: usize,
    control: Control,
    nodes: Nodes,
    peers: Peers,
    senders: Senders,
    tally: Tally,
    random: Rng,
    /// By resource: whether the planner knows where it comes from.
    known: Vec<bool>,
    /// Milliseconds since the start.
    now_ms: u64,
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        given: &'a [Given],
        worker: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let mut random = Rng::with_seed(settings.seed);
        let map = Map::new(settings.regions);
        let catalogue = Catalogue::new(settings, &mut random);
        let crowds = crowds(settings, &map, &catalogue);
        let arrivals = arrivals(settings, &map, &crowds, &mut random);
        let nodes = Nodes::new(settings, &map, &mut random, START_MS);
        let control = Control::new(settings, &map, &catalogue, given, worker)?;
        control.hear(nodes.all.iter().map(|node| node.said.clone()).collect());
        Ok(Self {
            senders: Senders::new((0..nodes.all.len() * LINKS).map(|_| settings.link_kbps)),
            peers: Peers::new(arrivals.len()),
            tally: Tally::new(&crowds),
            known: vec![false; catalogue.len()],
            next: 0,
            now_ms: 0,
            settings,
            given,
            map,
            catalogue,
            crowds,
            arrivals,
            control,
            nodes,
            random,
        })
    }

    /// Runs to the end.
    pub(super) fn run(mut self, progress: &mut dyn FnMut(u64, u64)) -> anyhow::Result<Report> {
        let (began, end_ms) = (Instant::now(), u64::from(self.settings.hours) * HOUR_MS);
        while self.now_ms < end_ms {
            self.step()?;
            progress(self.now_ms, end_ms);
        }
        Ok(self.report(began.elapsed().as_secs_f64()))
    }

    fn step(&mut self) -> anyhow::Result<()> {
        self.control.set_time(self.now_ms);
        self.beat();
        self.plan()?;
        (0..SWEEPS).for_each(|_| self.control.sweep());
        while let Some(place) = self.peers.next_over(self.now_ms) {
            self.depart(place);
        }
        self.ask_again();
        let came = self.arrive();
        let end_ms = self.now_ms + STEP_MS;
        self.control.set_time(end_ms);
        self.fetch(end_ms)?;
        for (place, at_ms) in self.transfer() {
            self.finish(place, at_ms);
        }
        // Who came within this step begins with the next.
        self.peers.downloading.extend(came);
        self.now_ms = end_ms;
        Ok(())
    }

    /// Heartbeats and reports of those nodes whose time it is.
    fn beat(&mut self) {
        let (now_ms, beats) = (START_MS + self.now_ms, BEAT_MS / STEP_MS);
        let step = self.now_ms / STEP_MS;
        let due = |place: &usize| (step + *place as u64).is_multiple_of(beats);
        let due: Vec<usize> = (0..self.nodes.all.len()).filter(due).collect();
        self.control.hear(due.iter().map(|place| self.nodes.all[*place].beat(now_ms)).collect());
        for place in due {
            if self.nodes.all[place].reports(now_ms) {
                let holdings = self.nodes.holdings(place, &self.catalogue);
                self.control.holds(&self.nodes.all[place].said.id, &holdings);
            }
        }
    }

    /// Nodes whose turn it is ask for their lists; all of them when something is wished for.
    fn plan(&mut self) -> anyhow::Result<()> {
        let anew = self.now_ms.is_multiple_of(WISHES_MS) && self.control.wishes_anew();
        let turn = self.now_ms.is_multiple_of(TURN_MS).then_some(self.now_ms / TURN_MS % TURNS);
        for place in 0..self.nodes.all.len() {
            if anew || self.now_ms == 0 || turn == Some(place as u64 % TURNS) {
                let list = self.control.list(&self.nodes.all[place].said.id)?;
                self.nodes.listed(place, &list, &self.catalogue, START_MS + self.now_ms);
            }
        }
        Ok(())
    }

    /// Those who come in this step, each at its time.
    fn arrive(&mut self) -> Vec<u32> {
        let mut came = Vec::new();
        while let Some(&Arrival { at_ms, region, crowd }) = self.arrivals.get(self.next) {
            let at_ms = u64::from(at_ms);
            if at_ms >= self.now_ms + STEP_MS {
                break;
            }
            self.control.set_time(at_ms);
            let resource = match self.crowds.get(usize::from(crowd)) {
                Some(crowd) => crowd.resource,
                None => self.catalogue.draw(&mut self.random),
            };
            let (number, operator) = (self.next as u32, self.random.u8(..OPERATORS));
            let wanted = self.catalogue.get(resource);
            self.control.count(wanted, self.map.name(region));
            let peer = Peer {
                crowd,
                resource,
                length: wanted.length,
                came_ms: at_ms,
                announced_ms: at_ms,
                ask_ms: at_ms + ASK_MS,
                ..Peer::new(number, region, operator, self.settings.idle_permille, &mut self.random)
            };
            self.tally.comes(&peer);
            let uplink_kbps = peer.uplink_kbps;
            let place = self.peers.enter(peer);
            self.senders.enter(place, uplink_kbps, number);
            self.ask(place, Event::Started);
            came.push(place);
            self.next += 1;
        }
        came
    }

    /// Those ask again who get less than half of what they could, after ever longer times; and all whom the
    /// tracker would forget.
    fn ask_again(&mut self) {
        let (peers, now_ms) = (&self.peers, self.now_ms);
        let due = |place: &u32| peers.all[*place as usize].ask_ms <= now_ms;
        let due: Vec<u32> = peers.downloading.iter().copied().filter(due).collect();
        for place in due {
            let peer = self.peers.at(place);
            peer.asked += 1;
            peer.ask_ms = now_ms + (ASK_MS << peer.asked.min(4)).min(LONGEST_ASK_MS);
            let slow = peer.rate_kbps < f64::from(peer.downlink_kbps) / 2.0;
            if slow || now_ms - peer.announced_ms >= LONGEST_ASK_MS {
                self.ask(place, Event::None);
            }
        }
    }

    /// What comes from the origin in this step. Of what a node has first, the planner learns the source.
    fn fetch(&mut self, end_ms: u64) -> anyhow::Result<()> {
        for (node, resource) in self.nodes.fetch(&self.catalogue, START_MS + end_ms) {
            if !std::mem::replace(&mut self.known[resource as usize], true) {
                self.control.learn(&self.nodes.all[node].said.id, self.catalogue.get(resource))?;
            }
        }
        Ok(())
    }

    /// A peer has everything: it stays when it uploads.
    fn finish(&mut self, place: u32, at_ms: u64) {
        let peer = self.peers.at(place);
        self.tally.done(peer, at_ms);
        let (client, uploads) = (peer.client, peer.uplink_kbps > 0);
        for connection in std::mem::take(&mut peer.connections) {
            if self.senders.link(&connection).is_some() {
                self.nodes.close(connection.of, START_MS + at_ms);
            }
        }
        if client != Client::Browser {
            self.announce(place, Event::Completed);
        }
        if uploads {
            self.senders.peer(place).has = ALL;
            self.peers.stay(place, at_ms, &mut self.random);
        } else {
            self.depart(place);
        }
    }

    fn depart(&mut self, place: u32) {
        if self.peers.at(place).client != Client::Browser {
            self.announce(place, Event::Stopped);
        }
        let sender = self.senders.peer(place);
        (sender.number, sender.has) = (u32::MAX, 0);
        self.peers.leave(place);
    }

    fn report(mut self, seconds: f64) -> Report {
        let slowdowns = &mut self.tally.slowdowns;
        slowdowns.sort_by(f32::total_cmp);
        let slowdown = |percent| report::at(slowdowns, percent).map_or(0.0, f64::from);
        let peers = report::Peers {
            came: self.next as u64,
            done: slowdowns.len() as u64,
            slowdown_p50: slowdown(50),
            slowdown_p99: slowdown(99),
        };
        let (tally, nodes) = (&self.tally, &self.nodes);
        let bytes = report::Bytes {
            delivered: tally.delivered(),
            near_nodes: tally.from(Source::Near),
            far_nodes: tally.from(Source::Far),
            peers: tally.from(Source::Peer),
            origin: nodes.pulled + nodes.preloaded,
            origin_pulled: nodes.pulled,
            origin_preloaded: nodes.preloaded,
        };
        let crowds: Vec<CrowdReport> = (0..self.crowds.len()).map(|number| self.crowd(number)).collect();
        let regions: Vec<RegionReport> = (0..self.map.regions() as u8)
            .map(|region| {
                let of = nodes.all.iter().filter(|node| node.region == region);
                let hours: Vec<&[u64]> = of.map(|node| node.hours.as_slice()).collect();
                RegionReport::of(self.map.name(region), &hours, self.settings.link_kbps * LINKS as u64)
            })
            .collect();
        let name = |given: &Given| {
            let manifest = &given.package.manifest;
            format!("{} {}", manifest.name, manifest.version)
        };
        let control = &self.control;
        Report {
            settings: self.settings.clone(),
            policies: self.given.iter().map(name).collect(),
            catalogue_bytes: self.catalogue.bytes(),
            peers,
            bytes,
            offload: 1.0 - bytes.origin as f64 / bytes.delivered.max(1) as f64,
            last_peer: LastPeer::of(&crowds),
            crowds,
            imbalance: Imbalance::of(&regions),
            regions,
            calls: report::Calls {
                routes: control.routes.count,
                announces: control.announces.count,
                lists: control.lists.count,
                plans: control.plans(),
            },
            decisions: control.decisions(),
            wall: Wall {
                seconds,
                routes_seconds: control.routes.took.as_secs_f64(),
                announces_seconds: control.announces.took.as_secs_f64(),
                lists_seconds: control.lists.took.as_secs_f64(),
            },
        }
    }

    fn crowd(&self, number: usize) -> CrowdReport {
        let (crowd, tally) = (&self.crowds[number], &self.tally.crowds[number]);
        let length = self.catalogue.get(crowd.resource).length;
        let links = self.settings.link_kbps * (LINKS * self.nodes.all.len()) as u64;
        let since_ms = |at_ms: u64| at_ms.saturating_sub(crowd.at_ms) as f64;
        let bits = length as f64 * 8.0 * f64::from(tally.came);
        // Bits by kilobits a second are milliseconds.
        let bound_ms = since_ms(tally.line_ms).max(bits / (links + tally.uplinks_kbps) as f64);
        let ended = tally.done == crowd.peers;
        CrowdReport {
            region: crowd.region.map(|region| self.map.name(region).to_owned()),
            peers: u64::from(tally.came),
            done: u64::from(tally.done),
            length,
            seconds: ended.then(|| since_ms(tally.last_ms) / 1000.0),
            bound_seconds: bound_ms / 1000.0,
            over_bound: ended.then(|| since_ms(tally.last_ms) / bound_ms.max(1.0)),
        }
    }
}

#[cfg(test)]
mod tests;
