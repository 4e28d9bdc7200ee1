//! port-forward: SPDY streams, inside a WebSocket or not, and the older WebSocket channels.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::websocket::{self, Frame, PORT_FORWARD_TUNNEL};
use wire::{Request, Response, spdy};

use super::{Query, text};
use crate::shared::Shared;

/// Bytes read from the Pod at once.
const CHUNK: usize = 32 * 1024;
/// Parts on their way to one port: a slow program holds its client up.
const QUEUE: usize = 8;

/// One connection of a client.
#[derive(Clone)]
struct Forward {
    node: Arc<Shared>,
    sandbox: String,
}

/// Answers the upgrade; the session goes on until its connection ends, or the listener.
pub(super) fn start(node: Arc<Shared>, mut request: Request, sandbox: String, query: &Query) -> Response {
    let forward = Forward { node, sandbox };
    if websocket::is_upgrade(&request) {
        let ports: Vec<u16> = query
            .all("ports")
            .iter()
            .chain(&query.all("port"))
            .flat_map(|list| list.split(','))
            .filter_map(|port| port.parse().ok())
            .collect();
        // Which of the two protocols it is, the handshake decides; only the older one needs the ports here.
        return match websocket::accept(&mut request, websocket::PORT_FORWARD) {
            Ok((response, pending)) => {
                pending.sessions().spawn(async move { ended(forward.over_websocket(pending, ports).await) });
                response
            }
            Err(refused) => text(refused.status(), refused.to_string()),
        };
    }
    if spdy::is_upgrade(&request) {
        return match spdy::accept(&mut request, spdy::PORT_FORWARD) {
            Ok((response, pending)) => {
                let sessions = pending.sessions();
                let serve = async move { forward.over_spdy(pending.connect().await?).await };
                sessions.spawn(async move { ended(serve.await) });
                response
            }
            Err(refused) => refused,
        };
    }
    text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request")
}

fn ended(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a port-forward broke");
    }
}

impl Forward {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let connected = self.node.runtime.port_forward(&self.sandbox, port).await;
        connected.map_err(|err| {
            // The Pod is its sandbox here, without a uid: containerd's words, which users know.
            format!("error forwarding port {port} to pod {}, uid : {err}", self.sandbox)
        })
    }

    async fn over_websocket(self, pending: websocket::Pending, ports: Vec<u16>) -> io::Result<()> {
        let socket = pending.connect().await?;
        if socket.protocol() == PORT_FORWARD_TUNNEL {
            return self.over_spdy(socket.tunnel()).await;
        }
        self.over_channels(socket, ports).await
    }

    /// Streams come in pairs, data and error, with the same request id.
    async fn over_spdy<S>(self, io: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut session, connection) = spdy::serve(io);
        let mut connections = JoinSet::new();
        let mut single: HashMap<String, spdy::Stream> = HashMap::new();
        let accept = async {
            while let Some(stream) = session.accept().await {
                stream.reply().await?;
                let request = stream.headers.get("requestid").unwrap_or_default().to_string();
                // Clients open the error stream first by custom, and may do otherwise.
                let Some(other) = single.remove(&request) else {
                    single.insert(request, stream);
                    continue;
                };
                let is_error = stream.headers.get("streamtype") == Some("error");
                let (data, error) = if is_error { (other, stream) } else { (stream, other) };
                connections.spawn(self.clone().pair(data, error));
            }
            io::Result::Ok(())
        };
        // Dropping the set ends the connections with their session.
        tokio::select! {
            done = accept => done,
            broken = connection => broken,
        }
    }

    async fn pair(self, data: spdy::Stream, mut error: spdy::Stream) {
        let port = data.headers.get("port").and_then(|port| port.parse().ok()).unwrap_or_default();
        let spdy::Stream { mut reader, mut writer, .. } = data;
        let message = match self.connect(port).await {
            Err(message) => Some(message),
            Ok(stream) => {
                let (mut from, mut to) = stream.into_split();
                let upload = async {
                    while let Some(Ok(bytes)) = reader.next().await {
                        to.write_all(&bytes).await?;
                    }
                    to.shutdown().await
                };
                let download = async {
                    loop {
                        let bytes = read_some(&mut from).await?;
                        if bytes.is_empty() {
                            return io::Result::Ok(());
                        }
                        writer.send(bytes).await?;
                    }
                };
                // The program's end is the end; a client that has sent all still reads.
                tokio::pin!(upload, download);
                let mut uploaded = false;
                let done = loop {
                    tokio::select! {
                        done = &mut download => break done,
                        _ = &mut upload, if !uploaded => uploaded = true,
                    }
                };
                done.err().map(|err| err.to_string())
            }
        };
        if let Some(message) = message {
            let _ = error.writer.send(message.into()).await;
        }
        // The client may have closed both already.
        let _ = error.writer.finish().await;
        let _ = writer.finish().await;
    }

    /// Channel 2n carries the data of the n-th port, 2n+1 its errors; each begins with the port.
    async fn over_channels<S>(self, socket: websocket::WebSocket<S>, ports: Vec<u16>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut reader, mut writer) = socket.channels();
        let (output, mut to_client) = mpsc::channel::<(u8, Bytes)>(QUEUE);
        let mut inputs = Vec::new();
        let mut connections = JoinSet::new();
        for (index, port) in ports.into_iter().enumerate() {
            // A byte names the channel: more ports than fit are the client's mistake, and share the last.
            let channel = u8::try_from(index * 2).unwrap_or(u8::MAX - 1);
            writer.send(channel, &port.to_le_bytes()).await?;
            writer.send(channel + 1, &port.to_le_bytes()).await?;
            let (input, received) = mpsc::channel(QUEUE);
            inputs.push(input);
            connections.spawn(self.clone().channel(port, channel, received, output.clone()));
        }
        // The tasks hold the others: when all ports are closed, there is nothing more to send.
        drop(output);
        let receive = async {
            while let Some(Ok(frame)) = reader.next().await {
                if let Frame::Data { channel, bytes } = frame
                    && channel % 2 == 0
                    && let Some(input) = inputs.get(usize::from(channel / 2))
                {
                    // A port that is closed reads no more; the others go on.
                    let _ = input.send(bytes).await;
                }
            }
        };
        let send = async {
            while let Some((channel, bytes)) = to_client.recv().await {
                writer.send(channel, &bytes).await?;
            }
            writer.close().await
        };
        tokio::select! {
            sent = send => sent,
            () = receive => Ok(()),
        }
    }

    async fn channel(
        self,
        port: u16,
        channel: u8,
        mut input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<(u8, Bytes)>,
    ) {
        let mut stream = match self.connect(port).await {
            Ok(stream) => stream,
            Err(message) => {
                let _ = output.send((channel + 1, message.into())).await;
                return;
            }
        };
        let (mut from, mut to) = stream.split();
        loop {
            tokio::select! {
                // Cancel-safe: a part is taken or stays.
                bytes = input.recv() => match bytes {
                    Some(bytes) if to.write_all(&bytes).await.is_ok() => {}
                    _ => return,
                },
                // Cancel-safe: nothing is read before it is returned.
                read = read_some(&mut from) => match read {
                    Ok(bytes) if !bytes.is_empty() => {
                        if output.send((channel, bytes)).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    }
}

async fn read_some(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut buffer = vec![0; CHUNK];
    let read = from.read(&mut buffer).await?;
    buffer.truncate(read);
    Ok(buffer.into())
}
