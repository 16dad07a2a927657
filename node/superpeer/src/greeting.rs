//! The handshake: which torrent, in the plain or encrypted, and whether it is held.

use std::io;
use std::sync::Arc;

use skerry_store::{Catalogue, StoreError};
use skerry_wire::mse::{Acceptor, Cipher, Method, Methods, Random};
use skerry_wire::peer::{HANDSHAKE_LENGTH, Handshake, Reserved};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::Encryption;
use crate::node::Node;
use crate::swarm::Swarm;

/// Bytes read at once.
const READ: usize = 2048;
/// Padding of the key exchange, bytes: so that its length tells nothing.
const PAD: u16 = 512;

/// A peer whose torrent is held.
pub(crate) struct Greeted {
    pub(crate) swarm: Arc<Swarm>,
    /// What it said.
    pub(crate) handshake: Handshake,
    pub(crate) incoming: Cipher,
    pub(crate) outgoing: Cipher,
    /// What came after its handshake.
    pub(crate) rest: Vec<u8>,
}

/// Why a peer is let go before any data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("nothing of that torrent is held")]
    Unknown,
    #[error("it took too long")]
    TimedOut,
    #[error("it closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Encryption(skerry_wire::mse::Error),
    #[error("plain connections are refused by `superpeer.encryption`")]
    Plain,
    #[error("{0}")]
    Protocol(#[from] skerry_wire::peer::Error),
    #[error("the info-hash within the encrypted stream is another than that of its key")]
    Mismatch,
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Refused {
    /// What it is counted as.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Encryption(skerry_wire::mse::Error::UnknownInfoHash) => "unknown",
            Self::Encryption(_) | Self::Plain | Self::Mismatch => "encryption",
            _ => "handshake",
        }
    }
}

/// Takes a peer's handshake and answers it. Its torrent is looked up before anything is said but what
/// the key exchange needs.
pub(crate) async fn accept(
    node: &Arc<Node>,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Greeted, Refused> {
    let methods = match node.config.encryption {
        Encryption::Accept | Encryption::Refuse => Methods::ANY,
        Encryption::Require => Methods::RC4,
    };
    let mut acceptor = Acceptor::new(Random::draw(PAD, fastrand::fill), methods, Method::Plain);
    let mut read = [0; READ];
    let established = loop {
        let count = stream.read(&mut read).await?;
        if count == 0 {
            return Err(Refused::Closed);
        }
        let mut answer = Vec::new();
        let step = if acceptor.stays_plain(&read[..count]) {
            acceptor.receive(&read[..count], &mut answer, |_| None)
        } else {
            let unseal = move |catalogue: &Catalogue| {
                let behind = |keyed: &[u8; 20]| catalogue.behind(keyed).ok().flatten();
                let step = acceptor.receive(&read[..count], &mut answer, behind);
                (acceptor, answer, step)
            };
            let (back, said, step) = node.unseal(unseal).await?;
            (acceptor, answer) = (back, said);
            step
        };
        let step = step.map_err(Refused::Encryption)?;
        if !answer.is_empty() {
            if node.config.encryption == Encryption::Refuse {
                return Err(Refused::Encryption(skerry_wire::mse::Error::Synchronisation));
            }
            stream.write_all(&answer).await?;
        }
        if let Some(established) = step {
            break established;
        }
    };
    let is_encrypted = established.info_hash.is_some();
    if !is_encrypted && node.config.encryption == Encryption::Require {
        return Err(Refused::Plain);
    }
    let (mut incoming, mut outgoing) = (established.reading, established.writing);
    let mut received = established.received;
    let handshake = loop {
        if let Some(handshake) = Handshake::parse(&received)? {
            break handshake;
        }
        let count = stream.read(&mut read).await?;
        if count == 0 {
            return Err(Refused::Closed);
        }
        incoming.apply(&mut read[..count]);
        received.extend_from_slice(&read[..count]);
    };
    if established.info_hash.is_some_and(|named| named != handshake.info_hash) {
        return Err(Refused::Mismatch);
    }
    // Who names a hybrid torrent by its v1 hash may say that the v2 one will do as an answer (BEP 52). It has
    // to be that one for libtorrent: when its tracker names the same address for the other hash while the
    // handshake is on its way, it does not take its own v1 hash back.
    let takes_v2 = handshake.reserved.contains(Reserved::V2);
    let swarm = node.swarm(handshake.info_hash, takes_v2).await?.ok_or(Refused::Unknown)?;
    let ours = Handshake { reserved: Reserved::OURS, info_hash: swarm.info_hash, peer_id: node.peer_id };
    let mut words = ours.encode();
    outgoing.apply(&mut words);
    stream.write_all(&words).await?;
    let rest = received.split_off(HANDSHAKE_LENGTH);
    Ok(Greeted { swarm, handshake, incoming, outgoing, rest })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use skerry_wire::mse::Initiator;
    use tokio::io::duplex;

    use super::*;
    use crate::config::SuperPeerConfig;
    use crate::node::tests::{all_unsealing, holding};

    #[tokio::test]
    async fn an_encrypted_handshake_waits_for_its_turn_and_a_plain_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (node, info_hash) = holding(folder.path(), SuperPeerConfig::default(), &[7; 1000]);
        let hello = Handshake { reserved: Reserved::FAST, info_hash, peer_id: [1; 20] }.encode().to_vec();
        let turns = all_unsealing(&node);

        let (mut ours, mut theirs) = duplex(4096);
        theirs.write_all(&hello).await.unwrap();
        let greeted = accept(&node, &mut ours).await.unwrap();
        assert_eq!((greeted.handshake.info_hash, greeted.outgoing.is_plain()), (info_hash, true));

        let (mut ours, mut theirs) = duplex(4096);
        let mut words = Vec::new();
        let random = Random::draw(PAD, fastrand::fill);
        let mut peer = Initiator::start(random, info_hash, Methods::RC4, hello, &mut words).unwrap();
        theirs.write_all(&words).await.unwrap();
        let mut accepting = pin!(accept(&node, &mut ours));
        let mut idle = Context::from_waker(Waker::noop());
        assert!(accepting.as_mut().poll(&mut idle).is_pending());
        let mut read = [0; READ];
        assert!(pin!(theirs.read(&mut read)).poll(&mut idle).is_pending(), "nothing is answered yet");

        drop(turns);
        let meeting = async {
            loop {
                let count = theirs.read(&mut read).await.unwrap();
                words.clear();
                let over = peer.receive(&read[..count], &mut words).unwrap().is_some();
                theirs.write_all(&words).await.unwrap();
                if over {
                    break;
                }
            }
        };
        let (greeted, ()) = tokio::join!(accepting, meeting);
        let greeted = greeted.unwrap();
        assert_eq!((greeted.handshake.info_hash, greeted.outgoing.is_plain()), (info_hash, false));
    }
}
