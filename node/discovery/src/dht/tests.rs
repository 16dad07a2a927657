//! Against a DHT of `mainline`'s own nodes, on loopback.

use std::net::Ipv4Addr;

use mainline::Testnet;
use prometheus::Registry;
use tokio::sync::watch;

use super::*;

const FILM: [u8; 20] = [1; 20];
const SONG: [u8; 20] = [2; 20];

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < BOUND, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_found_and_what_others_hold_is_looked_up() {
    let testnet = tokio::task::spawn_blocking(|| Testnet::builder(5).build()).await.unwrap().unwrap();
    let config = DiscoveryConfig {
        dht: true,
        dht_listen: "127.0.0.1:0".parse().unwrap(),
        dht_bootstrap: testnet.bootstrap.clone(),
        dht_server: true,
        ..DiscoveryConfig::default()
    };
    let own = Own { listening: vec!["127.0.0.1:7001".parse().unwrap()], loopback: true };
    let peers = Arc::new(Peers::new(own.clone()));
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let (node, socket) = Node::bind(&config, &own, peers.clone(), metrics.clone()).unwrap();
    let (_held, listed) = watch::channel(Listed::from([FILM]));
    let running = tokio::spawn(node.clone().run(socket, listed));

    until("an announce", || metrics.announces(By::Dht) == 1).await;
    assert!(metrics.dht_nodes.get() > 0);
    let other = testnet.nodes[0].clone().as_async();
    let mut answers = pin!(other.get_peers(Id::from(FILM)));
    let found = timeout(BOUND, answers.next()).await.unwrap().unwrap();
    assert_eq!(found, [SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7001)]);

    // The node's own address is in no answer, and who announces itself is.
    node.look_up(FILM, BOUND).await;
    assert!(peers.of(&FILM, Instant::now().into_std()).is_empty());
    other.announce_peer(Id::from(SONG), Some(7002)).await.unwrap();
    node.look_up(SONG, BOUND).await;
    let expected = SocketAddr::from((Ipv4Addr::LOCALHOST, 7002));
    assert_eq!(peers.of(&SONG, Instant::now().into_std()), [expected]);
    let told = node.told();
    assert!(told.is_server && told.address.port() > 0);
    assert_eq!((told.round, metrics.look_ups.get()), (config.round(), 2));

    // The port is free again when it has ended.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    node.stop();
    until("the port", || UdpSocket::bind(told.address).is_ok()).await;
}
