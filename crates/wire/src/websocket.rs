//! The server side of WebSocket upgrades: Kubernetes' channel protocols, and a
//! byte tunnel for the SPDY framing that port-forward runs through it.
//!
//! ```text
//! accept(&mut request, &[…]) ─ Response 101 ─┐
//!            └ Pending ── connect().await ───┴─ WebSocket ─┬─ channels(): frames
//!                                                          └─ tunnel(): bytes
//! ```
//!
//! The handler answers with the response and gives `Pending` to a task of its
//! own; the connection exists only after the response has been written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::sessions::{Sessions, Takeover};
use crate::{Body, Request, Response};

/// Exec and attach, best first, as the API server prefers them.
pub const REMOTE_COMMAND: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// Port-forward by a SPDY session inside the WebSocket.
pub const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Port-forward, best first: the tunnel, then one pair of channels per port.
pub const PORT_FORWARD: &[&str] = &[PORT_FORWARD_TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// Logs and watches: a single stream of messages.
pub const SINGLE_STREAM: &[&str] = &["binary.k8s.io", "base64.binary.k8s.io", ""];

/// The channel number that closes another channel, since v5.
pub const CLOSE_CHANNEL: u8 = 255;
/// A client's message may be this long; kubectl sends at most 32 KiB.
const MESSAGE_MAX: usize = 1024 * 1024;

/// Why a request cannot become a WebSocket. Each answers with its status code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an upgrade to WebSocket at all.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    /// The handshake is incomplete.
    #[error("websocket: bad handshake: {0}")]
    BadHandshake(&'static str),
    /// None of the protocols offered is known here.
    #[error("websocket: no supported protocol: client offered {offered:?}")]
    Protocol {
        /// What the client offered.
        offered: Vec<String>,
    },
    /// The request did not come by a connection that can be taken over.
    #[error("the connection cannot be upgraded")]
    Connection,
}

impl Refused {
    /// The status code to answer with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAnUpgrade | Self::BadHandshake(_) => StatusCode::BAD_REQUEST,
            Self::Protocol { .. } => StatusCode::FORBIDDEN,
            Self::Connection => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Does the request ask for a WebSocket?
pub fn is_upgrade(request: &Request) -> bool {
    has_token(request, CONNECTION, "upgrade") && has_token(request, UPGRADE, "websocket")
}

/// Answers the handshake. `supported` is in order of preference; `""` there
/// also accepts a client that offers no protocol.
pub fn accept(request: &mut Request, supported: &[&'static str]) -> Result<(Response, Pending), Refused> {
    if !is_upgrade(request) {
        return Err(Refused::NotAnUpgrade);
    }
    if request.method() != Method::GET {
        return Err(Refused::BadHandshake("request method is not GET"));
    }
    if request.headers().get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(Refused::BadHandshake(
            "unsupported version: 13 not found in 'Sec-Websocket-Version' header",
        ));
    }
    let key = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .ok_or(Refused::BadHandshake("Sec-WebSocket-Key is missing"))?;
    let accept_key = accept_key(key.as_bytes());
    let protocol = choose(request, supported)?;
    let takeover = request.extensions_mut().remove::<Takeover>().ok_or(Refused::Connection)?;

    let mut response = http::Response::new(crate::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept_key);
    if !protocol.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, Pending { takeover, protocol }))
}

fn choose(request: &Request, supported: &[&'static str]) -> Result<&'static str, Refused> {
    let offered = tokens(request, SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() && supported.contains(&"") {
        return Ok("");
    }
    let known = supported.iter().find(|name| offered.iter().any(|offer| offer == *name));
    known.copied().ok_or(Refused::Protocol { offered })
}

fn tokens(request: &Request, name: HeaderName) -> Vec<String> {
    let values = request.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}

fn has_token(request: &Request, name: HeaderName, token: &str) -> bool {
    tokens(request, name).iter().any(|t| t.eq_ignore_ascii_case(token))
}

fn accept_key(key: &[u8]) -> HeaderValue {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::from_str(&STANDARD.encode(context.finish())).expect("base64 is a valid header value")
}

/// An accepted handshake whose response is not yet on the wire.
#[derive(Debug)]
pub struct Pending {
    takeover: Takeover,
    protocol: &'static str,
}

impl Pending {
    /// The protocol chosen, empty when the client offered none.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Where the session goes on.
    pub fn sessions(&self) -> Sessions {
        self.takeover.sessions()
    }

    /// Waits until the response is written and takes the connection over.
    pub async fn connect(self) -> io::Result<WebSocket<TokioIo<Upgraded>>> {
        Ok(WebSocket::new(self.takeover.connect().await?, self.protocol).await)
    }
}

/// An open WebSocket, server side.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: WebSocketStream<S>,
    protocol: &'static str,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Speaks WebSocket over `stream`, whose handshake is done.
    pub async fn new(stream: S, protocol: &'static str) -> Self {
        // The library's 128 KiB read buffer would be most of a session's memory.
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(MESSAGE_MAX * 2)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        Self { stream: WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await, protocol }
    }

    /// The protocol chosen at the handshake.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Reads and writes numbered channels.
    pub fn channels(self) -> (ChannelReader<S>, ChannelWriter<S>) {
        let encoding = if self.protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
        let closes_channels = self.protocol.starts_with("v5.");
        let (sink, stream) = self.stream.split();
        (ChannelReader { stream, encoding, closes_channels }, ChannelWriter { sink, encoding })
    }

    /// Sends a body, and reads nothing, until the body ends or the client leaves: logs and watches.
    /// The first message is empty and says that the stream is up, except for lines.
    pub async fn send_body(self, body: Body, messages: Messages) -> io::Result<()> {
        let base64 = self.protocol.contains("base64");
        let (mut sink, mut stream) = self.stream.split();
        let send = async {
            if messages == Messages::Parts {
                sink.send(message(Bytes::new(), messages, base64)).await.map_err(to_io)?;
            }
            send_parts(&mut sink, body, messages, base64).await?;
            close(&mut sink).await
        };
        let left = async {
            while let Some(Ok(message)) = stream.next().await {
                if message.is_close() {
                    return;
                }
            }
        };
        tokio::select! {
            sent = send => sent,
            () = left => Ok(()),
        }
    }

    /// Reads and writes bytes; message borders mean nothing.
    pub fn tunnel(self) -> Tunnel<S> {
        Tunnel { stream: self.stream, unread: Bytes::new() }
    }
}

/// How a body becomes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// A binary message for each part, as it comes; text for base64 protocols.
    Parts,
    /// A text message for each line, with its line feed.
    Lines,
}

async fn send_parts<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    mut body: Body,
    messages: Messages,
    base64: bool,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut unsent = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() else { continue };
        if messages == Messages::Parts {
            sink.send(message(bytes, messages, base64)).await.map_err(to_io)?;
            continue;
        }
        unsent.extend_from_slice(&bytes);
        while let Some(end) = unsent.iter().position(|byte| *byte == b'\n') {
            let line = unsent.split_to(end + 1).freeze();
            sink.send(message(line, messages, base64)).await.map_err(to_io)?;
        }
    }
    Ok(())
}

fn message(bytes: Bytes, messages: Messages, base64: bool) -> Message {
    if base64 {
        return Message::Text(STANDARD.encode(&bytes).into());
    }
    match messages {
        Messages::Parts => Message::Binary(bytes),
        Messages::Lines => Message::Text(String::from_utf8_lossy(&bytes).into_owned().into()),
    }
}

async fn close<S>(sink: &mut SplitSink<WebSocketStream<S>, Message>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    match sink.send(Message::Close(Some(normal))).await {
        Ok(()) | Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Ok(()),
        Err(error) => Err(to_io(error)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// The first byte is the channel's number.
    Binary,
    /// The first character is the channel's digit, the rest base64.
    Base64,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for a channel.
    Data {
        /// The channel's number.
        channel: u8,
        /// What was sent.
        bytes: Bytes,
    },
    /// The client will write no more to this channel (v5).
    Close {
        /// The channel's number.
        channel: u8,
    },
}

/// The receiving half of a channel connection.
#[derive(Debug)]
pub struct ChannelReader<S> {
    stream: SplitStream<WebSocketStream<S>>,
    encoding: Encoding,
    closes_channels: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelReader<S> {
    /// The next frame, `None` after an orderly close. Pings are answered on
    /// the way. Cancel-safe: a frame is taken only when it is complete.
    pub async fn next(&mut self) -> Option<io::Result<Frame>> {
        loop {
            let payload = match self.stream.next().await? {
                Ok(Message::Binary(payload)) => payload,
                Ok(Message::Text(text)) => text.into(),
                Ok(Message::Close(_)) => return None,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => return None,
                Err(error) => return Some(Err(to_io(error))),
            };
            // An empty message is how a client says hello.
            if !payload.is_empty() {
                return Some(decode(payload, self.encoding, self.closes_channels));
            }
        }
    }
}

fn decode(mut payload: Bytes, encoding: Encoding, closes_channels: bool) -> io::Result<Frame> {
    let malformed = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let first = payload.get_u8();
    match encoding {
        Encoding::Binary if first == CLOSE_CHANNEL && closes_channels => {
            let channel =
                *payload.first().ok_or_else(|| malformed("close of a channel without its number"))?;
            Ok(Frame::Close { channel })
        }
        Encoding::Binary => Ok(Frame::Data { channel: first, bytes: payload }),
        Encoding::Base64 => {
            let channel = first.checked_sub(b'0').filter(|c| *c < 10);
            let channel = channel.ok_or_else(|| malformed("channel is not a digit"))?;
            let bytes = STANDARD.decode(&payload).map_err(|_| malformed("message is not base64"))?;
            Ok(Frame::Data { channel, bytes: bytes.into() })
        }
    }
}

/// The sending half of a channel connection.
#[derive(Debug)]
pub struct ChannelWriter<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    encoding: Encoding,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelWriter<S> {
    /// Sends bytes on a channel; an empty slice is a message too.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let message = match self.encoding {
            Encoding::Binary => {
                let mut framed = BytesMut::with_capacity(bytes.len() + 1);
                framed.put_u8(channel);
                framed.put_slice(bytes);
                Message::Binary(framed.freeze())
            }
            Encoding::Base64 => {
                let mut text = String::with_capacity(bytes.len() / 3 * 4 + 5);
                text.push(char::from(b'0' + channel % 10));
                STANDARD.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        };
        self.sink.send(message).await.map_err(to_io)
    }

    /// Asks the peer whether it is there; its pong is read by the reader.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.sink.send(Message::Ping(Bytes::new())).await.map_err(to_io)
    }

    /// Ends the connection in order.
    pub async fn close(&mut self) -> io::Result<()> {
        close(&mut self.sink).await
    }
}

/// A WebSocket used as a plain stream of bytes.
#[derive(Debug)]
pub struct Tunnel<S> {
    stream: WebSocketStream<S>,
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(text))) => self.unread = text.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(to_io)?;
        let length = buf.len().min(MESSAGE_MAX);
        let message = Message::Binary(Bytes::copy_from_slice(&buf[..length]));
        Pin::new(&mut self.stream).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_close(cx)) {
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) | Ok(()) => {
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(to_io(error))),
        }
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn handshake(protocols: &str) -> Request {
        let mut builder = http::Request::get("/exec")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        if !protocols.is_empty() {
            builder = builder.header("Sec-WebSocket-Protocol", protocols);
        }
        builder.body(crate::empty()).unwrap()
    }

    async fn pair(protocol: &'static str) -> (WebSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (server, client) = duplex(64 * 1024);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        (WebSocket::new(server, protocol).await, client)
    }

    #[test]
    fn the_best_protocol_that_both_know_is_chosen_whatever_the_client_order() {
        let offer = "v4.channel.k8s.io, v5.channel.k8s.io";
        assert_eq!(choose(&handshake(offer), REMOTE_COMMAND).unwrap(), "v5.channel.k8s.io");
        assert_eq!(choose(&handshake(""), REMOTE_COMMAND).unwrap(), "");
        assert!(matches!(choose(&handshake("chat"), REMOTE_COMMAND), Err(Refused::Protocol { .. })));
        assert!(choose(&handshake(""), PORT_FORWARD).is_err());
    }

    #[test]
    fn the_accept_key_is_that_of_rfc_6455() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_without_a_connection_to_take_over_is_refused() {
        assert_eq!(accept(&mut handshake(""), REMOTE_COMMAND).unwrap_err(), Refused::Connection);
    }

    #[tokio::test]
    async fn version_five_closes_a_channel_and_version_four_takes_it_for_data() {
        for (protocol, expected) in [
            ("v5.channel.k8s.io", Frame::Close { channel: 0 }),
            ("v4.channel.k8s.io", Frame::Data { channel: 255, bytes: Bytes::from_static(&[0]) }),
        ] {
            let (server, mut client) = pair(protocol).await;
            client.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
            assert_eq!(server.channels().0.next().await.unwrap().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_body_goes_out_in_parts_or_in_lines() {
        let parts =
            || crate::body_from_stream(futures_util::stream::iter(["a\nb", "c\n"].map(|s| Ok(s.into()))));
        let (binary, text) = (|s: &'static str| Message::binary(s), |s: &str| Message::text(s));
        for (protocol, messages, expected) in [
            ("", Messages::Parts, vec![binary(""), binary("a\nb"), binary("c\n")]),
            ("base64.binary.k8s.io", Messages::Parts, vec![text(""), text("YQpi"), text("Ywo=")]),
            ("", Messages::Lines, vec![text("a\n"), text("bc\n")]),
        ] {
            let (server, mut client) = pair(protocol).await;
            server.send_body(parts(), messages).await.unwrap();
            let mut received = Vec::new();
            loop {
                match client.next().await.unwrap().unwrap() {
                    Message::Close(_) => break,
                    message => received.push(message),
                }
            }
            assert_eq!(received, expected, "{protocol}");
        }
    }

    #[tokio::test]
    async fn base64_channels_are_text_with_a_digit_in_front() {
        let (server, mut client) = pair("base64.channel.k8s.io").await;
        let (mut reader, mut writer) = server.channels();
        writer.send(1, b"hi").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("1aGk="));
        client.send(Message::text("0aGk=")).await.unwrap();
        let frame = Frame::Data { channel: 0, bytes: Bytes::from_static(b"hi") };
        assert_eq!(reader.next().await.unwrap().unwrap(), frame);
    }

    #[tokio::test]
    async fn a_ping_is_answered_while_reading_and_a_close_ends_the_stream() {
        let (server, mut client) = pair("v5.channel.k8s.io").await;
        let (mut reader, _writer) = server.channels();
        client.send(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
        let reading = tokio::spawn(async move { reader.next().await.is_none() });
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"x")));
        client.close(None).await.unwrap();
        assert!(reading.await.unwrap());
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes_over_message_borders() {
        let (server, mut client) = pair(PORT_FORWARD_TUNNEL).await;
        let mut tunnel = server.tunnel();
        client.send(Message::Binary(Bytes::from_static(b"ab"))).await.unwrap();
        client.send(Message::Binary(Bytes::from_static(b"cd"))).await.unwrap();
        let mut buffer = [0; 4];
        tunnel.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"abcd");
        tunnel.write_all(b"xyz").await.unwrap();
        tunnel.flush().await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"xyz")));
    }
}
