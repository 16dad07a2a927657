//! Hot files: every server answers from memory, each size in turn, in clear or by TLS.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::client::{Connection, request};
use crate::load::Driver;
use crate::process::wait_for;
use crate::report::{Case, Kind, median};
use crate::scratch::{Object, name_size};
use crate::servers::{Server, Which, ceiling, nginx, node};

/// The node's memory tier, in bytes: all hot files fit many times over.
const MEMORY_TIER: u64 = 512 << 20;

/// Files up to this size are driven at half load too.
const PACED: u64 = 64 * 1024;

/// How much of everything.
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Seconds of one drive at full load.
    pub(crate) seconds: u64,
}

/// Drives nginx, the node and the ceiling in turn, for every kind that was asked for.
pub(crate) fn run(driver: &Driver<'_>, kinds: &[Kind], effort: &Effort) -> Result<Vec<Case>> {
    let mut servers = [
        nginx(driver.tools, driver.scratch)?,
        node(driver.tools, driver.scratch, "node-hot", MEMORY_TIER)?,
        ceiling(driver.tools, driver.scratch)?,
    ];
    let mut cases = Vec::new();
    for &kind in kinds {
        for object in driver.scratch.hot() {
            cases.push(case(driver, &mut servers, kind, &object, effort)?);
        }
    }
    Ok(cases)
}

fn case(
    driver: &Driver<'_>,
    servers: &mut [Server],
    kind: Kind,
    object: &Object,
    effort: &Effort,
) -> Result<Case> {
    let tls = kind == Kind::Tls;
    let size = name_size(object.size);
    for server in servers.iter_mut() {
        warm(driver, server, object, tls)?;
        driver.wrk(server, object, tls, 1, 0)?;
    }

    let mut case = Case::new(kind, object.size);
    for round in 0..effort.rounds {
        // Another one goes first in each round, so that nobody always follows the same server.
        servers.rotate_left(1);
        for server in servers.iter_mut() {
            let sample = driver.wrk(server, object, tls, effort.seconds, round)?;
            eprintln!(
                "{kind} {size}, round {}: {:7} {:9.0} requests/s, {:8.1} us of CPU each",
                round + 1,
                server.which,
                sample.per_second(),
                sample.cpu_per_request()
            );
            case.samples.push(sample);
        }
    }

    if object.size <= PACED {
        let full = median(
            case.samples
                .iter()
                .filter(|sample| sample.server == Which::Nginx)
                .map(|sample| sample.per_second()),
        );
        let rate = full.unwrap_or_default() / 2.0;
        ensure!(rate > 0.0, "nginx answered nothing to halve");
        for round in 0..effort.rounds.min(3) {
            servers.rotate_left(1);
            for server in servers.iter_mut() {
                let paced = driver.paced(server, object, tls, rate, effort.seconds, round)?;
                eprintln!(
                    "{kind} {size}, half load: {:7} {:9.0} requests/s, p50 {:6.0} us, p99 {:6.0} us",
                    server.which, paced.achieved, paced.p50_us, paced.p99_us
                );
                case.paced.push(paced);
            }
        }
    }
    Ok(case)
}

/// Asks for the file until the server has it at hand: the node must call it a hit twice running.
/// What comes is compared with the file, byte by byte.
fn warm(driver: &Driver<'_>, server: &mut Server, object: &Object, tls: bool) -> Result<()> {
    let expected = driver.scratch.contents(object)?;
    let request = request(&object.path);
    let mut connection = Connection::open(server.address(tls), driver.trust(tls))?;
    let mut hits = 0;
    let what = format!("{} to have {} at hand", server.which, object.path);
    wait_for(&what, Duration::from_secs(30), || {
        server.process.ensure_running()?;
        let mut got = Vec::with_capacity(expected.len());
        let answer = connection.fetch(&request, |piece| got.extend_from_slice(piece))?;
        ensure!(got == expected, "{} answers {} with other bytes than the file's", server.which, object.path);
        hits = if answer.hit { hits + 1 } else { 0 };
        Ok((hits == 2 || server.which != Which::Node).then_some(()))
    })
}
