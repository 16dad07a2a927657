//! A node from its start to its end: bind, run, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use prometheus::Registry;
use skerry_core::admin::{self, Admin, Remote};
use skerry_core::config::PublicConfig;
use skerry_core::lifecycle::{Ask, Lifecycle, Phase, Signals};
use skerry_core::metrics::{self, ConnectionMetrics};
use skerry_core::{Role, logging, notify, tls};
use skerry_store::Store;
use skerry_tracker::TrackerHttp;
use skerry_tracker::udp::{self, ConnectionIds, Server};
use tokio::runtime::Runtime;

use crate::VERSION;
use crate::config::{self, Config};
use crate::fleet::Https;
use crate::listeners::{self, Announced, Listeners};
use crate::reload::Reload;
use crate::roles::Roles;

/// Threads for work that belongs to no connection.
const BACKGROUND_THREADS: usize = 2;
/// Threads of the background that may wait for a disk at once.
const BLOCKING_THREADS: usize = 32;
/// How often gauges are brought up to date.
const METRICS_PERIOD: Duration = Duration::from_secs(5);
/// How often the certificate of the administration is read again: whoever renews it does so days before it ends.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(3600);
/// How long answers of the admin listeners may run when everything else has ended.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// How long background work may take to end, at the very end.
const BACKGROUND_END: Duration = Duration::from_secs(5);

/// Checks everything that can be checked without binding or writing, and says what would run.
pub fn dry_run(path: &Path) -> anyhow::Result<String> {
    let config = config::load(path)?;
    admin::token(&config.admin)?;
    if !config.public.tls_listen.is_empty() {
        tls::Reloadable::load(&config.public)?;
    }
    if !config.admin.tls_listen.is_empty() {
        Remote::load(config.administration())?;
    }
    if !config.registry.control_url.is_empty() {
        Https::new(&config.registry)?;
    }
    let mut text = format!("{}: ok\n", path.display());
    for (name, addresses) in [("public", &config.public.listen), ("tls", &config.public.tls_listen)] {
        for address in addresses {
            text.push_str(&format!("  would listen on {address} ({name})\n"));
        }
    }
    text.push_str(&format!("  would listen on {} (admin)\n", config.admin.listen));
    for address in &config.admin.tls_listen {
        text.push_str(&format!("  would listen on {address} (admin, TLS)\n"));
    }
    let peers = if config.superpeer.utp { "peers, TCP and uTP" } else { "peers" };
    for address in config.superpeer.listen.iter().filter(|_| config.superpeer.enabled) {
        text.push_str(&format!("  would listen on {address} ({peers})\n"));
    }
    for address in config.tracker.listen.iter().filter(|_| config.tracker.enabled) {
        text.push_str(&format!("  would listen on {address} (tracker, TCP and UDP)\n"));
    }
    if config.discovery.dht && config.superpeer.enabled {
        text.push_str(&format!("  would listen on {} (DHT, UDP)\n", config.discovery.dht_listen));
    }
    if config.discovery.lsd && config.superpeer.enabled {
        text.push_str("  would speak to the local network's peers (UDP port 6771)\n");
    }
    for (name, site) in &config.sites {
        text.push_str(&format!("  would cache {} as site {name}\n", site.origin));
    }
    text.push_str(&format!("  would keep its data in {}\n", config.node.data_dir.display()));
    Ok(text)
}

/// Runs a node until it is told to stop and has drained.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let token = admin::token(&config.admin)?;
    logging::init(&config.log)?;
    tls::install_provider();
    let background = background()?;
    let signals = {
        let _context = background.enter();
        Signals::new().context("cannot catch signals")?
    };
    let workers = match config.node.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        chosen => chosen,
    };
    // What a renewal left half done is done before the listeners read it.
    skerry_registry::role::settle(&config.registry);
    // Sockets before the store: a port in use leaves no trace on the disk.
    let mut listeners = Listeners::bind(&config, workers)?;
    let registry = Registry::new();
    metrics::register_build_info(&registry, VERSION)?;
    let roles = Roles::new(&config, &registry, background.handle(), &listeners.peer_addresses())?;
    // The store's lock is ours, so whatever stands there is of a node that is gone.
    Announced::clear(&config.node.data_dir);

    let addresses = listeners.addresses();
    listeners.log();
    let drain = Duration::from_secs(config.node.drain_seconds);
    let lifecycle = Lifecycle::default();
    // The admin listeners have a phase of their own: they tell of the drain, so they end after it.
    let admin_lifecycle = Lifecycle::default();
    let reload = Reload {
        path: path.to_owned(),
        started: config.clone(),
        certificate: listeners.certificate.clone(),
        remote: listeners.remote.clone(),
        cache: roles.cache.clone(),
        policies: roles.policies.clone(),
    };
    let admin = Arc::new(Admin {
        identity: identity(&config, &addresses),
        registry: registry.clone(),
        roles: roles.list(),
        lifecycle: lifecycle.clone(),
        drain,
        token,
        remote: listeners.remote.clone(),
    });
    let public = listeners::shared(
        roles.cache.clone(),
        config.public.clone(),
        lifecycle.clone(),
        ConnectionMetrics::new(&registry, "public")?,
    );
    // Each has its connections to itself: whoever takes those of the one is none the nearer to the other.
    let administration = |name: &str| -> anyhow::Result<_> {
        let (limits, metrics) = (listeners::admin_limits(), ConnectionMetrics::new(&registry, name)?);
        Ok(listeners::shared(admin.clone(), limits, admin_lifecycle.clone(), metrics))
    };

    let tracker_metrics = ConnectionMetrics::new(&registry, "tracker")?;
    let peer_sockets = listeners.take_peers(workers);
    let utp_sockets = listeners.take_utp();
    let tracker_sockets = listeners.take_tracker();
    let (remote, admin_tls_sockets) = (listeners.remote.clone(), listeners.take_admin_tls());
    let (shares, admin_sockets) = listeners.split(workers);
    let node = (lifecycle.clone(), drain);
    let mut administrating = Vec::new();
    for (name, sockets) in [("admin", admin_sockets), ("admin-tls", admin_tls_sockets)] {
        if !sockets.is_empty() {
            let thread = listeners::serve(name.into(), administration(name)?, sockets, node.clone());
            administrating.push(thread.with_context(|| format!("cannot start the {name} thread"))?);
        }
    }
    let mut serving = Vec::new();
    let mut started = Ok(());
    for (number, sockets) in shares.into_iter().enumerate() {
        match listeners::serve(format!("worker-{number}"), public.clone(), sockets, node.clone()) {
            Ok(thread) => serving.push(thread),
            Err(error) => started = Err(error).context("cannot start a worker"),
        }
    }
    if let Some(superpeer) = &roles.superpeer {
        for (number, sockets) in peer_sockets.into_iter().enumerate() {
            let (superpeer, phase) = (superpeer.clone(), lifecycle.clone());
            let run = move || superpeer.run(sockets, phase, number == 0);
            match listeners::start(format!("peers-{number}"), node.clone(), run) {
                Ok(thread) => serving.push(thread),
                Err(error) => started = Err(error).context("cannot start a thread for peers"),
            }
        }
        if !utp_sockets.is_empty() {
            let (superpeer, phase) = (superpeer.clone(), lifecycle.clone());
            let run = move || superpeer.run_utp(utp_sockets, phase);
            match listeners::start("peers-utp".into(), node.clone(), run) {
                Ok(thread) => serving.push(thread),
                Err(error) => started = Err(error).context("cannot start the thread for uTP"),
            }
        }
    }
    if let Some(tracker) = &roles.tracker {
        let handler = Arc::new(TrackerHttp::new(tracker.clone()));
        // Addresses of announces are believed; nobody is to write them into a header.
        let limits = PublicConfig { proxy_protocol: false, ..config.public.clone() };
        let http = listeners::shared(handler, limits, lifecycle.clone(), tracker_metrics);
        let ids = Arc::new(ConnectionIds::default());
        for (number, (http_sockets, udp_sockets)) in tracker_sockets.into_iter().enumerate() {
            let name = format!("tracker-{number}");
            let mut threads = vec![listeners::serve(name, http.clone(), http_sockets, node.clone())];
            for socket in udp_sockets {
                let (server, phase) = (Server::new(tracker.clone(), ids.clone()), lifecycle.clone());
                let run = move || udp::serve(&socket, server, &phase);
                threads.push(listeners::start(format!("tracker-udp-{number}"), node.clone(), run));
            }
            for thread in threads {
                match thread {
                    Ok(thread) => serving.push(thread),
                    Err(error) => started = Err(error).context("cannot start a thread for the tracker"),
                }
            }
        }
    }
    let announced = started.and_then(|()| {
        lifecycle.running();
        Announced::write(&config.node.data_dir, &addresses)
    });
    if announced.is_ok() {
        maintain(&background, &roles, &lifecycle);
        remote.into_iter().for_each(|remote| follow_certificate(&background, remote));
        notify::ready("serving");
        background.block_on(until_drained(signals, &reload, &lifecycle, drain));
    } else {
        lifecycle.drain(Duration::ZERO);
    }

    log::info!(within_seconds = drain.as_secs(); "draining");
    notify::stopping("draining");
    for role in roles.list() {
        role.drain();
    }
    let mut sound = true;
    for thread in serving {
        sound &= listeners::joined(thread);
    }
    admin_lifecycle.drain(ADMIN_DRAIN);
    for thread in administrating {
        sound &= listeners::joined(thread);
    }
    background.block_on(roles.registry.left());
    background.block_on(roles.cache.settled(BACKGROUND_END));
    close(&background, &roles.store);
    background.shutdown_timeout(BACKGROUND_END);
    drop(announced?);
    ensure!(sound, "a thread of the node failed; the log names it");
    log::info!("ended");
    Ok(())
}

fn background() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .context("cannot start the background threads")
}

/// Who this node is, for `/status`.
fn identity(config: &Config, addresses: &serde_json::Value) -> serde_json::Value {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    serde_json::json!({
        "name": config.node.name,
        "version": VERSION,
        "pid": std::process::id(),
        "started": started,
        "listeners": addresses,
    })
}

/// Gauges, and signs of life for systemd's watchdog. Ends with the background runtime.
fn maintain(background: &Runtime, roles: &Roles, lifecycle: &Lifecycle) {
    let store = roles.store.clone();
    background.spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_PERIOD);
        loop {
            ticks.tick().await;
            store.refresh_metrics();
        }
    });
    let Some(period) = notify::watchdog_period() else { return };
    let (roles, lifecycle) = (roles.list(), lifecycle.clone());
    background.spawn(async move {
        let mut ticks = tokio::time::interval(period);
        loop {
            ticks.tick().await;
            // A node that drains is busy ending, and its deadline ends it.
            let draining = matches!(lifecycle.phase(), Phase::Draining { .. });
            if draining || roles.iter().all(|role: &Arc<dyn Role>| role.ready().is_ok()) {
                notify::alive();
            }
        }
    });
}

/// Takes up a certificate of the administration that was renewed: a member of a fleet renews its own. Ends with
/// the background runtime.
fn follow_certificate(background: &Runtime, remote: Remote) {
    background.spawn(async move {
        let mut ticks = tokio::time::interval(CERTIFICATE_PERIOD);
        // The first is at once, and it was just read.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let remote = remote.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || remote.refresh()).await {
                log::warn!("the administration keeps its certificate: {error}");
            }
        }
    });
}

/// Serves signals until the node drains, whoever asked for it.
async fn until_drained(mut signals: Signals, reload: &Reload, lifecycle: &Lifecycle, drain: Duration) {
    loop {
        tokio::select! {
            ask = signals.next() => match ask {
                Ask::Stop => lifecycle.drain(drain),
                Ask::Reload => reload.again(),
            },
            _ = lifecycle.draining() => return,
        }
    }
}

fn close(background: &Runtime, store: &Store) {
    if let Err(error) = background.block_on(store.close()) {
        log::error!("the store could not be flushed: {error}");
    }
}
