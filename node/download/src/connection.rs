//! The sockets: a task for each connection, which moves bytes and knows nothing of them.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use skerry_wire::mse::{Cipher, Established, Initiator, Methods, Random};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::End;
use crate::peer::Key;
use crate::sink::Limit;
use crate::swarm::Dial;

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// How long a peer may take for a few bytes: all that it is sent is requests.
const WRITE: Duration = Duration::from_secs(30);
/// Longest pads of an encrypted handshake, bytes; they need not be as long as they may be.
const PAD: u16 = 64;

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// It was made.
    Joined,
    /// Bytes came. For the time that is told none are read.
    Received(Bytes, Duration),
    /// It is over.
    Closed(End),
}

/// What a connection is made with.
pub(crate) struct Plug {
    /// Where to, and how.
    pub(crate) dial: Dial,
    /// Takes what happens.
    pub(crate) events: mpsc::Sender<(Key, Event)>,
    /// Gives what is to be sent.
    pub(crate) orders: mpsc::Receiver<Vec<u8>>,
    /// Longest waits for a connection and for an encrypted handshake.
    pub(crate) connect: Duration,
    pub(crate) handshake: Duration,
    /// How fast bytes may come.
    pub(crate) limit: Limit,
}

/// A stream that is ready for the peer wire.
struct Open {
    stream: TcpStream,
    reading: Cipher,
    writing: Cipher,
    /// What came with an encrypted handshake.
    received: Vec<u8>,
}

/// Connects, and moves bytes until one side has had enough; tells how it ended.
pub(crate) async fn run(plug: Plug) {
    let Plug { dial, events, orders, connect, handshake, limit } = plug;
    let end = match open(&dial, connect, handshake).await {
        Ok(open) => {
            if events.send((dial.key, Event::Joined)).await.is_err() {
                return;
            }
            let Open { stream, reading, writing, received } = open;
            let (read, write) = stream.into_split();
            let reader = Reader { read, reading, key: dial.key, events: events.clone(), limit };
            tokio::select! {
                end = reader.run(received) => end,
                end = write_all(write, writing, orders) => end,
            }
        }
        Err(end) => end,
    };
    // Nobody hears it when the download is over.
    let _ = events.send((dial.key, Event::Closed(end))).await;
}

async fn open(dial: &Dial, connect: Duration, handshake: Duration) -> Result<Open, End> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(connect, TcpStream::connect(dial.address)).await;
    let stream = stream.unwrap_or_else(|_| Err(late())).map_err(End::Connect)?;
    // Requests are small, and each of them is waited for.
    stream.set_nodelay(true).map_err(End::Connect)?;
    if !dial.approach.encrypted {
        let plain = || Cipher::Plain;
        return Ok(Open { stream, reading: plain(), writing: plain(), received: Vec::new() });
    }
    timeout(handshake, encrypt(stream, dial.approach.wire)).await.unwrap_or(Err(End::Silent))
}

/// The key exchange of message stream encryption.
async fn encrypt(mut stream: TcpStream, wire: [u8; 20]) -> Result<Open, End> {
    let mut output = Vec::new();
    let random = Random::draw(PAD, fastrand::fill);
    let mut initiator = Initiator::start(random, wire, Methods::ANY, Vec::new(), &mut output)?;
    let mut input = [0; 1024];
    loop {
        stream.write_all(&output).await?;
        output.clear();
        let count = stream.read(&mut input).await?;
        if count == 0 {
            return Err(End::Closed);
        }
        if let Some(established) = initiator.receive(&input[..count], &mut output)? {
            stream.write_all(&output).await?;
            let Established { reading, writing, received, .. } = established;
            return Ok(Open { stream, reading, writing, received });
        }
    }
}

struct Reader {
    read: OwnedReadHalf,
    reading: Cipher,
    key: Key,
    events: mpsc::Sender<(Key, Event)>,
    limit: Limit,
}

impl Reader {
    /// Passes on what came already, and then what comes.
    async fn run(mut self, received: Vec<u8>) -> End {
        if !received.is_empty() && self.pass_on(received.into()).await.is_err() {
            return End::Closed;
        }
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            match self.read.read_buf(&mut buffer).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) => return End::Io(error),
            }
            let mut came = buffer.split();
            self.reading.apply(&mut came);
            if self.pass_on(came.freeze()).await.is_err() {
                return End::Closed;
            }
        }
    }

    /// Fails when nobody listens any more. While it waits nothing is read, so the peer waits too.
    async fn pass_on(&mut self, bytes: Bytes) -> Result<(), ()> {
        let wait = (self.limit)(bytes.len() as u64);
        self.events.send((self.key, Event::Received(bytes, wait))).await.map_err(drop)?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

/// Sends what is ordered.
async fn write_all(
    mut write: OwnedWriteHalf,
    mut writing: Cipher,
    mut orders: mpsc::Receiver<Vec<u8>>,
) -> End {
    while let Some(mut bytes) = orders.recv().await {
        writing.apply(&mut bytes);
        match timeout(WRITE, write.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Io(error),
            Err(_) => return End::Deaf,
        }
    }
    End::Closed
}
