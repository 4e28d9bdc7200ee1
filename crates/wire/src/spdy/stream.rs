//! A session over any pair of byte streams, and its streams.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::codec::{Decoder, Encoder, Flag, Frame, Headers, ResetStatus};

/// The window of a stream before anybody changes it (section 2.6.8).
const INITIAL_WINDOW: u32 = 64 * 1024;
/// Frames that wait in one stream for its reader; then the connection waits.
const STREAM_QUEUE: usize = 16;
/// Frames that wait for the socket; then writers wait.
const WRITE_QUEUE: usize = 32;
/// Streams that wait to be accepted.
const ACCEPT_QUEUE: usize = 16;
/// Streams open at once: 500 forwarded connections.
const STREAMS_MAX: usize = 1000;
/// Bytes that wait in all streams of a session; then the connection waits.
const QUEUED_MAX: u32 = 4 * 1024 * 1024;
/// Data is sent in frames of at most this length.
const DATA_FRAME_MAX: usize = 16 * 1024;

/// Speaks SPDY on `io` as the server. The future drives the session and ends
/// with the connection, or when the session and all its streams are dropped.
pub fn serve<S>(io: S) -> (Session, impl Future<Output = io::Result<()>> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (writes, queued) = mpsc::channel(WRITE_QUEUE);
    let (accepted, incoming) = mpsc::channel(ACCEPT_QUEUE);
    let windows = Windows { honoured: AtomicBool::new(false), initial: AtomicU32::new(INITIAL_WINDOW) };
    let reader = ReadLoop {
        decoder: Decoder::default(),
        streams: HashMap::new(),
        accepted: Some(accepted),
        // Weak, so that the write loop ends when nobody else can write.
        writes: writes.downgrade(),
        windows: Arc::new(windows),
        room: Arc::new(Semaphore::new(QUEUED_MAX as usize)),
        last_id: 0,
    };
    let drive = async move {
        let (read, write) = tokio::io::split(io);
        // Either end ends the session: what is dropped is half a frame of a
        // connection that nobody uses any more.
        tokio::select! {
            result = reader.run(read) => result,
            result = write_loop(queued, write) => result,
        }
    };
    (Session { incoming, _writes: writes }, drive)
}

/// The streams that a client opens.
#[derive(Debug)]
pub struct Session {
    incoming: mpsc::Receiver<Stream>,
    _writes: mpsc::Sender<Frame>,
}

impl Session {
    /// The next stream the client opened; `None` when it opens no more.
    /// The caller replies or resets. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }
}

/// One stream, both directions.
#[derive(Debug)]
pub struct Stream {
    /// What the client said it is for.
    pub headers: Headers,
    /// Bytes from the client.
    pub reader: StreamReader,
    /// Bytes to the client.
    pub writer: StreamWriter,
}

impl Stream {
    /// Tells the client that the stream is accepted.
    pub async fn reply(&self) -> io::Result<()> {
        let frame = Frame::SynReply { id: self.writer.id, headers: Headers::default(), flag: Flag::None };
        self.writer.frame(frame).await
    }

    /// Tells the client that it is not wanted.
    pub async fn refuse(mut self) -> io::Result<()> {
        self.writer.reset(ResetStatus::REFUSED_STREAM).await
    }
}

enum Received {
    /// With the room it takes in the session's queue.
    Data(Bytes, Option<OwnedSemaphorePermit>),
    Fin,
    Reset(ResetStatus),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct StreamReader {
    id: u32,
    queue: mpsc::Receiver<Received>,
    writes: mpsc::WeakSender<Frame>,
    /// Bytes taken since the last window update.
    consumed: u32,
    ended: bool,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data(bytes, _) => write!(f, "Data({})", bytes.len()),
            Self::Fin => f.write_str("Fin"),
            Self::Reset(status) => write!(f, "Reset({})", status.0),
        }
    }
}

impl StreamReader {
    /// The next bytes; `None` when the client sends no more.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        match self.queue.recv().await {
            Some(Received::Data(bytes, _room)) => {
                self.open_window(bytes.len()).await;
                Some(Ok(bytes))
            }
            Some(Received::Fin) => {
                self.ended = true;
                None
            }
            Some(Received::Reset(status)) => {
                self.ended = true;
                let text = format!("stream reset with status {}", status.0);
                Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, text)))
            }
            None => {
                self.ended = true;
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }

    async fn open_window(&mut self, length: usize) {
        self.consumed = self.consumed.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
        if self.consumed < INITIAL_WINDOW / 2 {
            return;
        }
        if let Some(writes) = self.writes.upgrade() {
            let delta = std::mem::take(&mut self.consumed);
            // An error means that the connection is gone; the queue says so too.
            let _ = writes.send(Frame::WindowUpdate { id: self.id, delta }).await;
        }
    }
}

/// The sending half of a stream. Dropped without [`StreamWriter::finish`], it
/// cancels the stream.
#[derive(Debug)]
pub struct StreamWriter {
    id: u32,
    writes: mpsc::Sender<Frame>,
    windows: Arc<Windows>,
    window: Arc<Semaphore>,
    finished: bool,
}

impl StreamWriter {
    /// The stream's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends bytes, waiting for the socket and for the peer's window.
    pub async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let granted = self.take_window(bytes.len().min(DATA_FRAME_MAX)).await?;
            let piece = bytes.split_to(granted);
            self.frame(Frame::Data { id: self.id, bytes: piece, flag: Flag::None }).await?;
        }
        Ok(())
    }

    /// Says that no more bytes come.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        self.frame(Frame::Data { id: self.id, bytes: Bytes::new(), flag: Flag::Fin }).await
    }

    /// Cuts the stream.
    pub async fn reset(&mut self, status: ResetStatus) -> io::Result<()> {
        self.finished = true;
        self.frame(Frame::RstStream { id: self.id, status }).await
    }

    /// How many of `wanted` bytes may go now: at least one, so that a window
    /// smaller than a frame does not stop the stream.
    async fn take_window(&self, wanted: usize) -> io::Result<usize> {
        if !self.windows.honoured.load(Ordering::Relaxed) {
            self.window.forget_permits(wanted);
            return Ok(wanted);
        }
        let first = self.window.acquire().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        first.forget();
        Ok(1 + self.window.forget_permits(wanted - 1))
    }

    async fn frame(&self, frame: Frame) -> io::Result<()> {
        self.writes.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.finished {
            // With a full queue the connection is stuck anyway.
            let _ = self.writes.try_send(Frame::RstStream { id: self.id, status: ResetStatus::CANCEL });
        }
    }
}

#[derive(Debug)]
struct Windows {
    /// Has the peer shown that it keeps windows?
    honoured: AtomicBool,
    initial: AtomicU32,
}

struct Open {
    queue: mpsc::Sender<Received>,
    window: Arc<Semaphore>,
}

struct ReadLoop {
    decoder: Decoder,
    streams: HashMap<u32, Open>,
    accepted: Option<mpsc::Sender<Stream>>,
    writes: mpsc::WeakSender<Frame>,
    windows: Arc<Windows>,
    room: Arc<Semaphore>,
    last_id: u32,
}

impl ReadLoop {
    async fn run(mut self, mut read: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut input = BytesMut::with_capacity(8 * 1024);
        loop {
            let frame = self.decoder.decode(&mut input);
            match frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Some(frame) => self.take(frame).await,
                None if read.read_buf(&mut input).await? == 0 => return Ok(()),
                None => {}
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, headers, flag } => self.open(id, headers, flag).await,
            Frame::Data { id, bytes, flag } => self.data(id, bytes, flag).await,
            Frame::Headers { id, flag, .. } | Frame::SynReply { id, flag, .. } => {
                self.data(id, Bytes::new(), flag).await;
            }
            Frame::RstStream { id, status } => {
                if let Some(open) = self.streams.remove(&id) {
                    open.window.close();
                    let _ = open.queue.send(Received::Reset(status)).await;
                }
            }
            // Even numbers are our own pings coming back; we send none.
            Frame::Ping(id) if id % 2 == 1 => self.write(Frame::Ping(id)).await,
            Frame::Ping(_) => {}
            Frame::GoAway { .. } => self.accepted = None,
            Frame::Settings { initial_window } => self.settings(initial_window),
            Frame::WindowUpdate { id, delta } => self.window_update(id, delta),
        }
    }

    async fn open(&mut self, id: u32, headers: Headers, flag: Flag) {
        self.streams.retain(|_, open| !open.queue.is_closed());
        let in_order = id % 2 == 1 && id > self.last_id;
        let writes = self.writes.upgrade();
        let (Some(accepted), Some(writes), true) = (self.accepted.clone(), writes, in_order) else {
            let status = if in_order { ResetStatus::REFUSED_STREAM } else { ResetStatus::PROTOCOL_ERROR };
            return self.write(Frame::RstStream { id, status }).await;
        };
        self.last_id = id;
        if self.streams.len() >= STREAMS_MAX {
            return self.write(Frame::RstStream { id, status: ResetStatus::REFUSED_STREAM }).await;
        }
        let (queue, received) = mpsc::channel(STREAM_QUEUE);
        let window = Arc::new(Semaphore::new(self.windows.initial.load(Ordering::Relaxed) as usize));
        let reader = StreamReader {
            id,
            queue: received,
            writes: self.writes.clone(),
            consumed: 0,
            ended: flag == Flag::Fin,
        };
        let writer = StreamWriter {
            id,
            writes,
            windows: self.windows.clone(),
            window: window.clone(),
            finished: false,
        };
        self.streams.insert(id, Open { queue, window });
        // When the session is gone, dropping the stream cancels it.
        let _ = accepted.send(Stream { headers, reader, writer }).await;
    }

    async fn data(&mut self, id: u32, bytes: Bytes, flag: Flag) {
        let Some(open) = self.streams.get(&id) else {
            // Bytes that were on their way when the stream was cut.
            return;
        };
        if !bytes.is_empty() {
            // A frame has its length in three bytes, and the decoder allows less than that.
            let room = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(QUEUED_MAX);
            let queue = open.queue.clone();
            // A stream whose reader is gone gives back what it held, so the wait has an end.
            let room = tokio::select! {
                room = Arc::clone(&self.room).acquire_many_owned(room) => room.ok(),
                () = queue.closed() => return,
            };
            let _ = queue.send(Received::Data(bytes, room)).await;
        }
        if flag == Flag::Fin {
            let _ = open.queue.send(Received::Fin).await;
        }
    }

    fn settings(&mut self, initial_window: Option<u32>) {
        let Some(initial) = initial_window else { return };
        self.windows.honoured.store(true, Ordering::Relaxed);
        let before = self.windows.initial.swap(initial, Ordering::Relaxed);
        for open in self.streams.values() {
            let (grown, shrunk) = (initial.saturating_sub(before), before.saturating_sub(initial));
            grow(&open.window, grown);
            open.window.forget_permits(shrunk as usize);
        }
    }

    fn window_update(&mut self, id: u32, delta: u32) {
        self.windows.honoured.store(true, Ordering::Relaxed);
        // The window of the whole connection is as wide as its streams' together.
        if let Some(open) = self.streams.get(&id) {
            grow(&open.window, delta);
        }
    }

    async fn write(&self, frame: Frame) {
        if let Some(writes) = self.writes.upgrade() {
            // An error means that the write loop ended, and with it this one.
            let _ = writes.send(frame).await;
        }
    }
}

fn grow(window: &Semaphore, delta: u32) {
    // The protocol's own limit of a window; a semaphore panics far above it.
    let room = 0x7fff_ffff_usize.saturating_sub(window.available_permits());
    window.add_permits((delta as usize).min(room));
}

async fn write_loop(mut queued: mpsc::Receiver<Frame>, mut write: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut out = BytesMut::new();
    while let Some(frame) = queued.recv().await {
        encoder.encode(&frame, &mut out).map_err(io::Error::other)?;
        // What else is there goes in the same write, up to a frame's worth.
        while out.len() < DATA_FRAME_MAX
            && let Ok(frame) = queued.try_recv()
        {
            encoder.encode(&frame, &mut out).map_err(io::Error::other)?;
        }
        write.write_all(&out).await?;
        write.flush().await?;
        out.clear();
    }
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    struct Client {
        io: DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
        input: BytesMut,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut out = BytesMut::new();
            self.encoder.encode(&frame, &mut out).unwrap();
            self.io.write_all(&out).await.unwrap();
        }

        async fn open(&mut self, id: u32) {
            let headers = Headers(vec![("streamType".into(), "data".into()), ("port".into(), "80".into())]);
            self.send(Frame::SynStream { id, headers, flag: Flag::None }).await;
        }

        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    fn start() -> (Client, Session, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, server) = duplex(256 * 1024);
        let (session, drive) = serve(server);
        let client = Client {
            io: client,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            input: BytesMut::new(),
        };
        (client, session, tokio::spawn(drive))
    }

    #[tokio::test]
    async fn a_stream_is_accepted_by_its_headers_and_carries_bytes_both_ways() {
        let (mut client, mut session, driver) = start();
        client.open(1).await;
        let mut stream = session.accept().await.unwrap();
        assert_eq!(
            (stream.headers.get("streamType"), stream.headers.get("port")),
            (Some("data"), Some("80"))
        );
        stream.reply().await.unwrap();
        client.send(Frame::Data { id: 1, bytes: Bytes::from_static(b"ping"), flag: Flag::Fin }).await;
        assert_eq!(stream.reader.next().await.unwrap().unwrap(), "ping");
        assert!(stream.reader.next().await.is_none());
        stream.writer.send(Bytes::from_static(b"pong")).await.unwrap();
        stream.writer.finish().await.unwrap();
        assert!(matches!(client.next().await.unwrap(), Frame::SynReply { id: 1, .. }));
        assert!(matches!(client.next().await.unwrap(), Frame::Data { bytes, .. } if bytes == "pong"));
        assert!(matches!(client.next().await.unwrap(), Frame::Data { flag: Flag::Fin, .. }));
        drop((stream, session));
        assert!(client.next().await.is_none());
        driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_without_windows_gets_everything_and_one_with_windows_only_its_share() {
        let (mut client, mut session, _driver) = start();
        client.open(1).await;
        let mut silent = session.accept().await.unwrap();
        silent.writer.send(Bytes::from(vec![0; 3 * INITIAL_WINDOW as usize])).await.unwrap();
        silent.writer.finish().await.unwrap();
        while !matches!(client.next().await.unwrap(), Frame::Data { flag: Flag::Fin, .. }) {}

        client.send(Frame::Settings { initial_window: Some(10) }).await;
        client.open(3).await;
        let mut careful = session.accept().await.unwrap();
        let sending =
            tokio::spawn(async move { careful.writer.send(Bytes::from_static(b"0123456789ab")).await });
        assert!(matches!(client.next().await.unwrap(), Frame::Data { bytes, .. } if bytes == "0123456789"));
        client.send(Frame::Ping(7)).await;
        assert_eq!(client.next().await.unwrap(), Frame::Ping(7), "nothing is sent beyond the window");
        client.send(Frame::WindowUpdate { id: 3, delta: 2 }).await;
        assert!(matches!(client.next().await.unwrap(), Frame::Data { bytes, .. } if bytes == "ab"));
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn reading_opens_the_clients_window_again() {
        let (mut client, mut session, _driver) = start();
        client.open(1).await;
        let mut stream = session.accept().await.unwrap();
        let half = Bytes::from(vec![0; INITIAL_WINDOW as usize / 2]);
        client.send(Frame::Data { id: 1, bytes: half, flag: Flag::None }).await;
        stream.reader.next().await.unwrap().unwrap();
        assert_eq!(client.next().await.unwrap(), Frame::WindowUpdate { id: 1, delta: INITIAL_WINDOW / 2 });
    }

    #[tokio::test]
    async fn a_dropped_stream_is_cancelled_and_a_reset_one_is_an_error() {
        let (mut client, mut session, _driver) = start();
        client.open(1).await;
        drop(session.accept().await.unwrap());
        assert_eq!(client.next().await.unwrap(), Frame::RstStream { id: 1, status: ResetStatus::CANCEL });
        client.open(3).await;
        let mut stream = session.accept().await.unwrap();
        client.send(Frame::RstStream { id: 3, status: ResetStatus::CANCEL }).await;
        assert!(stream.reader.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_stream_number_that_goes_back_is_a_protocol_error() {
        let (mut client, mut session, _driver) = start();
        client.open(5).await;
        let _stream = session.accept().await.unwrap();
        client.open(3).await;
        assert_eq!(
            client.next().await.unwrap(),
            Frame::RstStream { id: 3, status: ResetStatus::PROTOCOL_ERROR }
        );
    }
}
