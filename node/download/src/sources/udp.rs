//! Announces over UDP (BEP 15), with the path of the tracker's address (BEP 41).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use skerry_wire::tracker::compact;
use skerry_wire::tracker::udp::{Announce, Request, Response, push_url_data};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Ask, SILENT, UNKNOWN_LEFT};

/// How long each try waits for its answer. A tracker is asked by tens of thousands; whoever downloads has
/// others to ask.
const TRIES: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(5), Duration::from_secs(7)];
/// How long one address may take for both steps.
const LONGEST: Duration = Duration::from_secs(15);
/// Longest packet: more peers than anybody asks for.
const MOST_PACKET: usize = 4096;

/// Announces a download: peers, and seconds until the next time.
pub(super) async fn announce(
    url: &str,
    ask: &Ask,
    key: u32,
    wanted: u32,
) -> Result<(Vec<SocketAddr>, u32), String> {
    let rest = url.get(6..).ok_or("it is no address")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let failed = |error: io::Error| error.to_string();
    let addresses: Vec<SocketAddr> = lookup_host(authority).await.map_err(failed)?.collect();
    let mut options = Vec::new();
    push_url_data(&mut options, path.as_bytes());
    // One of each family: it may know other peers there. At once, so that one that is silent does not make
    // the other late.
    let four = addresses.iter().find(|address| address.is_ipv4());
    let six = addresses.iter().find(|address| address.is_ipv6());
    let (four, six) = tokio::join!(
        announce_in_time(four, ask, key, wanted, &options),
        announce_in_time(six, ask, key, wanted, &options),
    );
    let (mut peers, mut interval, mut failure) = (Vec::new(), None, "it has no address".to_owned());
    for answer in [four, six].into_iter().flatten() {
        match answer {
            Ok((found, seconds)) => {
                peers.extend(found);
                interval = Some(interval.map_or(seconds, |other: u32| other.min(seconds)));
            }
            Err(reason) => failure = reason,
        }
    }
    interval.map(|interval| (peers, interval)).ok_or(failure)
}

/// `None` when there is no address.
async fn announce_in_time(
    address: Option<&SocketAddr>,
    ask: &Ask,
    key: u32,
    wanted: u32,
    options: &[u8],
) -> Option<Result<(Vec<SocketAddr>, u32), String>> {
    let announced = announce_to(*address?, ask, key, wanted, options);
    Some(timeout(LONGEST, announced).await.unwrap_or_else(|_| Err(SILENT.to_owned())))
}

async fn announce_to(
    address: SocketAddr,
    ask: &Ask,
    key: u32,
    wanted: u32,
    options: &[u8],
) -> Result<(Vec<SocketAddr>, u32), String> {
    let failed = |error: io::Error| error.to_string();
    let own = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(own).await.map_err(failed)?;
    // What others send is not heard.
    socket.connect(address).await.map_err(failed)?;
    let mut packet = vec![0; MOST_PACKET];
    let transaction = fastrand::u32(..);
    let length = exchange(&socket, &Request::Connect { transaction }, transaction, &mut packet).await?;
    let connection = match Response::parse(&packet[..length]).map_err(|error| error.to_string())? {
        Response::Connect { connection, .. } => connection,
        other => return Err(refusal(&other)),
    };
    let transaction = fastrand::u32(..);
    let announce = Announce {
        info_hash: ask.info_hash,
        peer_id: ask.peer_id,
        downloaded: ask.downloaded,
        left: ask.left.unwrap_or(UNKNOWN_LEFT),
        uploaded: 0,
        event: ask.event,
        address: Ipv4Addr::UNSPECIFIED,
        key,
        wanted: Some(wanted),
        port: ask.port,
        options,
    };
    let request = Request::Announce { connection, transaction, announce };
    let length = exchange(&socket, &request, transaction, &mut packet).await?;
    match Response::parse(&packet[..length]).map_err(|error| error.to_string())? {
        Response::Announce { interval, peers, .. } => {
            let peers =
                if address.is_ipv4() { compact::v4(peers).collect() } else { compact::v6(peers).collect() };
            Ok((peers, interval))
        }
        other => Err(refusal(&other)),
    }
}

/// Sends a request until its answer has come: its length in `packet`.
async fn exchange(
    socket: &UdpSocket,
    request: &Request<'_>,
    transaction: u32,
    packet: &mut [u8],
) -> Result<usize, String> {
    let failed = |error: io::Error| error.to_string();
    let mut sent = Vec::new();
    request.write(&mut sent);
    for wait in TRIES {
        socket.send(&sent).await.map_err(failed)?;
        let until = Instant::now() + wait;
        while let Ok(received) = timeout_at(until, socket.recv(packet)).await {
            let length = received.map_err(failed)?;
            // Every answer has the transaction behind its action.
            if packet[..length].get(4..8).is_some_and(|own| own == transaction.to_be_bytes()) {
                return Ok(length);
            }
        }
    }
    Err(SILENT.to_owned())
}

fn refusal(response: &Response<'_>) -> String {
    match response {
        Response::Error { message, .. } => {
            format!("it refuses: {}", String::from_utf8_lossy(&message[..message.len().min(200)]))
        }
        _ => "it answers something else".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use skerry_wire::tracker::udp::{url_data, write_announce, write_connect, write_error};
    use skerry_wire::tracker::{Counts, Event};

    use super::*;

    const ASK: Ask = Ask {
        info_hash: [1; 20],
        peer_id: [2; 20],
        port: 1,
        event: Event::Started,
        downloaded: 5,
        left: Some(7),
        alone: false,
    };

    /// A tracker on loopback that answers each packet with what `answer` makes of it.
    async fn tracker(mut answer: impl FnMut(&Request<'_>) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let answer = answer(&Request::parse(&packet[..length]).unwrap());
                socket.send_to(b"something else", from).await.unwrap();
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_tracker_is_asked_in_two_steps() {
        let address = tracker(|request| {
            let mut out = Vec::new();
            match request {
                Request::Connect { transaction } => write_connect(&mut out, *transaction, 99),
                Request::Announce { connection: 99, transaction, announce } => {
                    assert_eq!(url_data(announce.options).unwrap(), b"/announce?x=1");
                    assert_eq!((announce.info_hash, announce.left, announce.wanted), ([1; 20], 7, Some(50)));
                    write_announce(&mut out, *transaction, 900, &Counts::default());
                    compact::push(&mut out, "192.0.2.1:6881".parse().unwrap());
                }
                other => panic!("{other:?}"),
            }
            out
        });
        let url = format!("udp://{}/announce?x=1", address.await);
        let (peers, interval) = announce(&url, &ASK, 3, 50).await.unwrap();
        assert_eq!((peers, interval), (vec!["192.0.2.1:6881".parse().unwrap()], 900));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_tracker_s_words() {
        let address = tracker(|request| {
            let Request::Connect { transaction } = request else { panic!("{request:?}") };
            let mut out = Vec::new();
            write_error(&mut out, *transaction, "closed today");
            out
        });
        let error = announce(&format!("udp://{}", address.await), &ASK, 3, 50).await.unwrap_err();
        assert_eq!(error, "it refuses: closed today");
        assert!(announce("udp://nobody at all", &ASK, 3, 50).await.is_err());
    }
}
