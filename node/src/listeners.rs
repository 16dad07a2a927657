//! The node's listening sockets, the threads that serve them, and the file that tells where they are.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use skerry_core::admin::Remote;
use skerry_core::config::PublicConfig;
use skerry_core::lifecycle::Lifecycle;
use skerry_core::listen::{Activated, Bound, bind};
use skerry_core::metrics::ConnectionMetrics;
use skerry_core::tls::Reloadable;
use skerry_core::worker::{self, Handler, Shared, Socket};
use skerry_tracker::udp::bind_udp;

use crate::config::Config;

/// Every socket of a node, bound and not yet served.
pub struct Listeners {
    public: Vec<Bound>,
    tls: Vec<Bound>,
    admin: Vec<Bound>,
    admin_tls: Vec<Bound>,
    peers: Vec<Bound>,
    /// On the ports of `peers`, for uTP.
    peers_udp: Vec<UdpSocket>,
    tracker: Vec<Bound>,
    /// For each worker, on the ports of `tracker`.
    tracker_udp: Vec<Vec<UdpSocket>>,
    /// The certificate of the TLS listeners, when there are any.
    pub certificate: Option<Reloadable>,
    /// Who may come in by the TLS listeners of the administration, when there are any.
    pub remote: Option<Remote>,
}

impl Listeners {
    /// Takes systemd's sockets by name (`public`, `tls`, `admin`, `admin-tls`, `peers`, `tracker`), else binds what
    /// is configured.
    pub fn bind(config: &Config, workers: usize) -> anyhow::Result<Self> {
        let mut activated = Activated::from_environment().context("cannot take the sockets of systemd")?;
        let mut bound = |name: &str,
                         addresses: &[SocketAddr],
                         workers: usize,
                         key: &'static str|
         -> anyhow::Result<Vec<Bound>> {
            let given =
                activated.take(name, workers).with_context(|| format!("cannot take the sockets `{name}`"))?;
            if !given.is_empty() {
                return Ok(given);
            }
            let made: Result<Vec<_>, _> =
                addresses.iter().map(|address| bind(*address, workers, key)).collect();
            Ok(made?)
        };
        let public = bound("public", &config.public.listen, workers, "public.listen")?;
        let tls = bound("tls", &config.public.tls_listen, workers, "public.tls_listen")?;
        let admin = bound("admin", &[config.admin.listen], 1, "admin.listen")?;
        let beyond = admin.iter().find(|bound| !bound.address.ip().is_loopback());
        if let Some(bound) = beyond
            && config.admin.token_file.as_os_str().is_empty()
        {
            anyhow::bail!(
                "the admin listener {} is not on loopback: `admin.token_file` must name a file",
                bound.address
            );
        }
        let admin_tls = bound("admin-tls", &config.admin.tls_listen, 1, "admin.tls_listen")?;
        let peers = match config.superpeer.enabled {
            true => bound("peers", &config.superpeer.listen, workers, "superpeer.listen")?,
            false => Vec::new(),
        };
        let mut peers_udp = Vec::new();
        for one in peers.iter().filter(|_| config.superpeer.utp) {
            peers_udp.push(skerry_superpeer::utp::bind(one.address)?);
        }
        let trackers = match config.tracker.workers {
            0 => workers,
            chosen => chosen,
        };
        let mut tracker = Vec::new();
        let mut tracker_udp: Vec<Vec<UdpSocket>> = (0..trackers).map(|_| Vec::new()).collect();
        if config.tracker.enabled {
            tracker = bound("tracker", &config.tracker.listen, trackers, "tracker.listen")?;
            for one in &tracker {
                for (share, socket) in tracker_udp.iter_mut().zip(bind_udp(one.address, trackers)?) {
                    share.push(socket);
                }
            }
        }
        let certificate = if tls.is_empty() { None } else { Some(Reloadable::load(&config.public)?) };
        let remote = if admin_tls.is_empty() { None } else { Some(Remote::load(config.administration())?) };
        Ok(Self {
            public,
            tls,
            admin,
            admin_tls,
            peers,
            peers_udp,
            tracker,
            tracker_udp,
            certificate,
            remote,
        })
    }

    /// Addresses by listener, with their real ports: what `/status` and `listeners.json` tell.
    pub fn addresses(&self) -> serde_json::Value {
        let texts = |bound: &[Bound]| bound.iter().map(|one| one.address.to_string()).collect::<Vec<_>>();
        let admin = self.admin.first().map(|one| one.address.to_string());
        serde_json::json!({
            "public": texts(&self.public),
            "tls": texts(&self.tls),
            "admin": admin,
            "admin_tls": texts(&self.admin_tls),
            "peers": texts(&self.peers),
            "tracker": texts(&self.tracker),
        })
    }

    /// One line for each listener.
    pub fn log(&self) {
        let all = [
            ("public", &self.public),
            ("tls", &self.tls),
            ("admin", &self.admin),
            ("admin-tls", &self.admin_tls),
            ("peers", &self.peers),
            ("tracker", &self.tracker),
        ];
        for (name, listeners) in all {
            for one in listeners {
                log::info!(listener:% = name, address:% = one.address; "listening");
            }
        }
    }

    /// Where peers connect to.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        self.peers.iter().map(|one| one.address).collect()
    }

    /// Takes the tracker's sockets: a share of HTTP and one of UDP for every one of its workers.
    pub fn take_tracker(&mut self) -> Vec<(Vec<Socket>, Vec<UdpSocket>)> {
        let udp = std::mem::take(&mut self.tracker_udp);
        let mut shares: Vec<Vec<Socket>> = (0..udp.len()).map(|_| Vec::new()).collect();
        for bound in std::mem::take(&mut self.tracker) {
            deal(&mut shares, bound.sockets.into_iter().map(|listener| Socket { listener, tls: None }));
        }
        shares.into_iter().zip(udp).collect()
    }

    /// Takes the sockets of the peer wire: a share for every worker.
    pub fn take_peers(&mut self, workers: usize) -> Vec<Vec<TcpListener>> {
        let mut shares: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for bound in std::mem::take(&mut self.peers) {
            deal(&mut shares, bound.sockets);
        }
        shares
    }

    /// Takes the peer wire's sockets for uTP, all for one thread.
    pub fn take_utp(&mut self) -> Vec<UdpSocket> {
        std::mem::take(&mut self.peers_udp)
    }

    /// Takes the sockets of the administration over TLS.
    pub fn take_admin_tls(&mut self) -> Vec<Socket> {
        let tls = self.remote.as_ref().map(Remote::tls);
        let sockets = std::mem::take(&mut self.admin_tls).into_iter().flat_map(|bound| bound.sockets);
        sockets.map(|listener| Socket { listener, tls: tls.clone() }).collect()
    }

    /// The sockets of every worker, and those of the admin thread.
    pub fn split(self, workers: usize) -> (Vec<Vec<Socket>>, Vec<Socket>) {
        let mut shares: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
        for (listeners, certificate) in [(self.public, None), (self.tls, self.certificate)] {
            for bound in listeners {
                let socket = |listener| Socket { listener, tls: certificate.clone() };
                deal(&mut shares, bound.sockets.into_iter().map(socket));
            }
        }
        let admin = self.admin.into_iter().flat_map(|bound| bound.sockets);
        (shares, admin.map(|listener| Socket { listener, tls: None }).collect())
    }
}

/// Gives each socket to the worker that has the fewest: there may be more of them than workers, and none must be
/// forgotten.
fn deal<T>(shares: &mut [Vec<T>], sockets: impl IntoIterator<Item = T>) {
    for socket in sockets {
        if let Some(share) = shares.iter_mut().min_by_key(|share| share.len()) {
            share.push(socket);
        }
    }
}

/// What the threads of one listener share.
pub fn shared<H: Handler>(
    handler: Arc<H>,
    config: PublicConfig,
    lifecycle: Lifecycle,
    metrics: ConnectionMetrics,
) -> Arc<Shared<H>> {
    Arc::new(Shared { handler, config, lifecycle, metrics, open: AtomicUsize::new(0) })
}

/// The limits of either admin listener: few connections, small headers.
pub fn admin_limits() -> PublicConfig {
    PublicConfig {
        listen: Vec::new(),
        max_connections: 256,
        max_header_bytes: 16 * 1024,
        ..PublicConfig::default()
    }
}

/// Starts a thread that serves `sockets` until its listener has drained.
///
/// When it ends before that, by an error or a panic, `node` drains: a node that lost a part of
/// itself is not left half alive.
pub fn serve<H: Handler>(
    name: String,
    shared: Arc<Shared<H>>,
    sockets: Vec<Socket>,
    node: (Lifecycle, Duration),
) -> std::io::Result<Thread> {
    start(name, node, move || worker::run(shared, sockets))
}

/// Starts a thread that is a part of the node, as [`serve`] does.
pub fn start(
    name: String,
    node: (Lifecycle, Duration),
    run: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<Thread> {
    let ends = Ends { lifecycle: node.0, within: node.1 };
    std::thread::Builder::new().name(name).spawn(move || {
        let _ends = ends;
        run()
    })
}

/// A thread that serves.
pub type Thread = JoinHandle<std::io::Result<()>>;

/// Waits for such a thread; false when it did not end in order.
pub fn joined(thread: Thread) -> bool {
    let name = thread.thread().name().unwrap_or("a thread").to_owned();
    match thread.join() {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            log::error!("{name} cannot serve: {error}");
            false
        }
        Err(_) => {
            log::error!("{name} panicked");
            false
        }
    }
}

/// Drains the node when its thread ends; changes nothing when it drains already.
struct Ends {
    lifecycle: Lifecycle,
    within: Duration,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.lifecycle.drain(self.within);
    }
}

/// `listeners.json` in the data directory: there while the node serves, gone when it has ended.
pub struct Announced(PathBuf);

impl Announced {
    /// Removes what a node that was killed left behind.
    pub fn clear(data_dir: &Path) {
        let _ = std::fs::remove_file(Self::path(data_dir));
    }

    /// Writes process id and addresses, so that a reader sees all of it or nothing.
    pub fn write(data_dir: &Path, addresses: &serde_json::Value) -> anyhow::Result<Self> {
        let mut value = addresses.clone();
        value["pid"] = std::process::id().into();
        let path = Self::path(data_dir);
        let part = path.with_extension("json.part");
        std::fs::write(&part, value.to_string())
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("listeners.json")
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_socket_of_every_address() {
        let mut config = Config::default();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        config.public.listen = vec![free, free];
        config.admin.listen = free;
        let listeners = Listeners::bind(&config, 3).unwrap();
        let addresses = listeners.addresses();
        assert_eq!(addresses["public"].as_array().unwrap().len(), 2);
        assert_eq!(addresses["tls"].as_array().unwrap().len(), 0);
        assert_eq!(addresses["admin_tls"].as_array().unwrap().len(), 0);
        assert!(addresses["admin"].as_str().unwrap().starts_with("127.0.0.1:"));
        let (shares, admin) = listeners.split(3);
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(admin.len(), 1);
    }

    #[test]
    fn sockets_beyond_the_number_of_workers_are_served_too() {
        let mut shares = vec![Vec::new(); 3];
        deal(&mut shares, 0..7);
        assert_eq!(shares, [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
    }

    #[test]
    fn utp_has_the_ports_of_the_peer_wire_where_it_is_wanted() {
        let mut config = Config::default();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        (config.public.listen, config.admin.listen) = (vec![free], free);
        (config.superpeer.enabled, config.superpeer.listen) = (true, vec![free, "[::1]:0".parse().unwrap()]);
        assert!(Listeners::bind(&config, 1).unwrap().take_utp().is_empty());
        config.superpeer.utp = true;
        let mut listeners = Listeners::bind(&config, 1).unwrap();
        let addresses: Vec<_> =
            listeners.take_utp().iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, listeners.peer_addresses());
    }
}
