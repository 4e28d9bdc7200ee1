//! Bytes of connections and files: tunnels, layers, DNS, the shim's protocol, the store's file.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::BytesMut;
use dns::Zone;
use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Service;
use runtime::image::{Limits, fuzzing};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::websocket::WebSocket;

/// A connection whose other end has said all it says, and takes what it is told.
struct Said<'a>(&'a [u8]);

impl AsyncRead for Said<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames of a WebSocket, in both ways to write channels.
pub(crate) fn websocket(bytes: &[u8]) {
    for protocol in ["v5.channel.k8s.io", "base64.channel.k8s.io"] {
        let read = async {
            let (mut reader, _writer) = WebSocket::new(Said(bytes), protocol).await.channels();
            while let Some(Ok(_)) = reader.next().await {}
        };
        read.now_or_never().expect("a connection that never waits is read to its end");
    }
}

/// Frames of SPDY, cut in two at each place that the first byte says.
pub(crate) fn spdy(bytes: &[u8]) {
    let Some((at, bytes)) = bytes.split_first() else { return };
    let mut decoder = wire::spdy::Decoder::default();
    let mut input = BytesMut::new();
    for part in bytes.chunks(usize::from(*at).max(1)) {
        input.extend_from_slice(part);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// The protocol between daemon and shim.
pub(crate) fn shim(bytes: &[u8]) {
    let mut decoder = shim::codec::Decoder::default();
    for part in bytes.chunks(64) {
        decoder.push(part);
        loop {
            match decoder.next_message() {
                Ok(Some(Ok(message))) => drop(shim::codec::encode(&message)),
                Ok(Some(Err(_))) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A layer, unpacked for real. Nothing of it may appear outside its directory.
pub(crate) fn layer(bytes: &[u8]) {
    let outside = tempfile::tempdir().expect("a temporary directory can be made");
    let into = outside.path().join("layer");
    std::fs::create_dir(&into).expect("a directory can be made");
    let limits = Limits { entries: 64, bytes: 1 << 20, archive_entries: 64 };
    fuzzing::layer(bytes, &into, &limits);
    let there = std::fs::read_dir(outside.path()).expect("the directory is there").count();
    assert_eq!(there, 1, "a layer made something beside its directory");
}

/// What may be compressed with gzip or zstd, or not at all.
pub(crate) fn compressed(bytes: &[u8]) {
    const MOST: u64 = 4 << 20;
    assert!(fuzzing::decompressed(bytes, MOST) <= MOST);
}

/// A query, and behind two bytes of length what a resolver elsewhere says.
pub(crate) fn dns(bytes: &[u8]) {
    static ZONE: LazyLock<Zone> = LazyLock::new(|| {
        let service = serde_json::json!({"metadata": {"name": "web", "namespace": "a"},
            "spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}});
        let elsewhere = serde_json::json!({"metadata": {"name": "out", "namespace": "a"},
            "spec": {"type": "ExternalName", "externalName": "example.com"}});
        let services =
            [service, elsewhere].map(|it| serde_json::from_value::<Service>(it).expect("a Service").into());
        Zone::new("cluster.local", &["10.42.0.0/16".to_owned()], &services, &[])
    });
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (query, elsewhere) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
    dns::fuzzing::message(&ZONE, query, elsewhere);
}

/// The store's file: as it is, and as frames whose checksums are right.
pub(crate) fn store(bytes: &[u8]) {
    store::fuzzing::file(bytes);
    if let Some(([high, low, change], recipe)) = bytes.split_first_chunk::<3>() {
        store::fuzzing::frames(u16::from_be_bytes([*high, *low]), *change, recipe);
    }
}
