//! What goes on after an upgrade was answered: the connection is nobody's request any more, and still the
//! listener's that accepted it.

use std::io;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The right to take a connection over after 101; in the extensions of a request that came over a socket
/// and asks for it. It goes with the request from room to room.
#[derive(Debug, Clone)]
pub struct Takeover {
    upgrade: OnUpgrade,
    sessions: Sessions,
}

impl Takeover {
    pub(crate) fn new(upgrade: OnUpgrade, sessions: Sessions) -> Self {
        Self { upgrade, sessions }
    }

    /// Takes the right from a request that has it.
    pub fn of(request: &mut crate::Request) -> Option<Self> {
        request.extensions_mut().remove()
    }

    /// Where what goes on after the response is spawned.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Waits until the response is written.
    pub async fn connect(self) -> io::Result<TokioIo<Upgraded>> {
        self.upgrade.await.map(TokioIo::new).map_err(io::Error::other)
    }
}

/// The tasks on the connections that were taken over. The listener owns them: they end with it.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Sessions {
    /// Goes on with a connection after its request is answered.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(session));
    }

    /// Cuts those that still go on. A command's streams have no end that could be waited for.
    pub(crate) async fn end(&self) {
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::{Request, websocket};

    const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[tokio::test]
    async fn a_session_without_an_end_goes_on_after_its_answer_and_ends_with_the_listener() {
        let (begun, (held, released)) = (Arc::new(Notify::new()), oneshot::channel::<()>());
        let (tell, held) = (begun.clone(), std::sync::Mutex::new(Some(held)));
        let handler = move |mut request: Request| {
            let (response, pending) = websocket::accept(&mut request, &[""]).unwrap();
            let (tell, held) = (tell.clone(), held.lock().unwrap().take());
            pending.sessions().spawn(async move {
                let _socket = pending.connect().await.unwrap();
                tell.notify_one();
                std::future::pending::<()>().await;
                drop(held);
            });
            async move { response }.boxed()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(crate::serve(listener, None, Arc::new(handler), shutdown.clone()));
        client.write_all(HANDSHAKE).await.unwrap();
        begun.notified().await;
        shutdown.cancel();
        assert_eq!(serving.await.unwrap().late, 0);
        released.await.expect_err("what the session held is released when `serve` has returned");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
    }
}
