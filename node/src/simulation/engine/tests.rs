//! Whole runs, of small fleets.

use super::*;

/// An evening of two regions.
fn small() -> Settings {
    Settings {
        peers: 3000,
        nodes: 16,
        regions: 2,
        resources: 200,
        hours: 6,
        crowds: 1,
        crowd_peers: 300,
        preloaded_bytes: 32 << 30,
        cached_bytes: 16 << 30,
        ..Settings::quick()
    }
}

fn run(settings: &Settings) -> Report {
    let engine = Engine::new(settings, &[], None).unwrap();
    Report { wall: Wall::default(), ..engine.run(&mut |_, _| {}).unwrap() }
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_one_does_not() {
    let report = run(&small());
    assert_eq!(report, run(&small()));
    let other = run(&Settings { seed: 2, ..small() });
    assert_ne!(report.bytes, other.bytes);
    assert_eq!(report.peers.came, 3000);
    assert!(report.peers.done > 2800, "{report:?}");
}

#[test]
fn no_byte_is_lost_or_made_up() {
    let settings = small();
    let mut engine = Engine::new(&settings, &[], None).unwrap();
    for _ in 0..u64::from(settings.hours) * HOUR_MS / STEP_MS {
        engine.step().unwrap();
        if engine.now_ms.is_multiple_of(HOUR_MS / 4) {
            let unfinished = engine.peers.downloading.iter();
            let unfinished = unfinished.map(|place| engine.peers.all[*place as usize].got).sum();
            assert!(engine.tally.adds_up(unfinished, &engine.nodes), "after {} ms", engine.now_ms);
        }
    }
    let report = engine.report(0.0);
    let bytes = report.bytes;
    assert_eq!(bytes.delivered, bytes.near_nodes + bytes.far_nodes + bytes.peers);
    assert_eq!(bytes.origin, bytes.origin_pulled + bytes.origin_preloaded);
    assert_eq!(report.regions.iter().map(|region| region.bytes).sum::<u64>(), bytes.delivered - bytes.peers);
    assert!(bytes.peers > 0 && bytes.origin_preloaded > 0, "{bytes:?}");
}

#[test]
fn a_quick_run_spares_the_origin_and_nobody_is_faster_than_possible() {
    let report = run(&Settings::quick());
    assert!(report.offload > 0.5, "{report:?}");
    assert!(report.bytes.near_nodes > report.bytes.far_nodes, "{:?}", report.bytes);
    assert!(report.peers.done > 19_500 && report.peers.slowdown_p50 < 2.0, "{:?}", report.peers);
    let last = report.last_peer.unwrap();
    assert!(last.mean >= 1.0 && last.worst >= last.mean, "{last:?}");
    assert!(report.imbalance.bytes.max_over_mean >= 1.0, "{:?}", report.imbalance);
    // Some clients ask the selector, some the tracker, and most of them both.
    assert!(report.calls.routes > 14_000 && report.calls.announces > 30_000, "{:?}", report.calls);
    assert!(report.calls.plans > 1000, "{:?}", report.calls);
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    let settings = Settings { peers: 0, ..Settings::quick() };
    let error = crate::simulation::run(&settings, &[], None, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("number of peers"), "{error}");
}
