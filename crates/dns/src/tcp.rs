//! Queries over a connection: each with its length before it (RFC 7766).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::Resolver;

/// A connection without a query this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Answers the queries of a connection one after another.
pub(crate) async fn serve(resolver: Arc<Resolver>, mut stream: TcpStream) {
    // A client that goes away or falls silent is no error of ours.
    while let Ok(Ok(query)) = timeout(IDLE, read(&mut stream)).await {
        let Some(answer) = resolver.answer(&query).await else { return };
        if !matches!(timeout(IDLE, write(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

async fn write(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), answer].concat()).await
}
