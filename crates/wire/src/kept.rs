//! The bytes of a connection, with what goes with them wherever they go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::connections::Place;

/// A client that takes nothing for so long does not get what waits for it.
const STALLED: Duration = Duration::from_secs(60);

/// A socket that keeps its [`Place`] as long as it lives, also when a handler has taken it over,
/// and that breaks when the client has stopped to read.
pub(crate) struct Kept {
    stream: TcpStream,
    _place: Place,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Kept {
    pub(crate) fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, _place: place, stalled: None }
    }

    /// Begins to count when a write has to wait, and ends when one need not.
    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Connections;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_to_read_is_cut_and_leaves_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let places = Connections::new(1);
        let place = places.enter().unwrap();
        let connection = place.0.clone();
        let _answering = connection.answer();
        let mut kept = Kept::new(stream, place);
        assert!(places.enter().is_none());
        // More than the kernel keeps for a client; the clock moves when nothing else does.
        let written = async {
            loop {
                kept.write_all(&[0; 64 * 1024]).await?;
            }
        };
        let written: io::Result<()> = written.await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(kept);
        assert!(places.enter().is_some());
    }
}
