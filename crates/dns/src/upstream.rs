//! The node's own resolvers, for names that are not the cluster's.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::reply::Way;

/// A resolver that is there answers sooner; the next gets its turn while the client still waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// The C library reads no more servers either.
const SERVERS_MAX: usize = 3;
const PACKET: usize = 4096;

/// Resolvers as `resolv.conf` names them, read again when the file changes.
#[derive(Debug)]
pub(crate) struct Upstream {
    file: PathBuf,
    /// Our own addresses: a node whose resolver is the cluster's would ask in a circle.
    own: Vec<SocketAddr>,
    read: Mutex<Option<(Stamp, Vec<SocketAddr>)>>,
}

/// Tells one state of a file from the next.
type Stamp = (u64, i64, i64, u64);

impl Upstream {
    pub(crate) fn new(file: PathBuf, own: Vec<SocketAddr>) -> Self {
        Upstream { file, own, read: Mutex::default() }
    }

    /// The servers now. Looking at the file costs a microsecond and is done for each query.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let stamp =
            fs::metadata(&self.file).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()));
        let Ok(stamp) = stamp else { return Vec::new() };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, servers)) = &*read
            && *known == stamp
        {
            return servers.clone();
        }
        let servers = parse(&fs::read_to_string(&self.file).unwrap_or_default(), &self.own);
        *read = Some((stamp, servers.clone()));
        servers
    }

    /// Asks one server after the other; `None` when nobody answers, at once when there is nobody.
    pub(crate) async fn ask(&self, query: &[u8], way: Way) -> Option<Vec<u8>> {
        let mut last = None;
        for server in self.servers() {
            let asked = match way {
                Way::Packet => timeout(PATIENCE, by_packet(server, query)).await,
                Way::Stream => timeout(PATIENCE, by_stream(server, query)).await,
            };
            match asked {
                Ok(Ok(answer)) if is_final(&answer) => return Some(answer),
                Ok(Ok(answer)) => last = Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%server, "a resolver does not answer"),
            }
        }
        last
    }
}

/// Another server may know better than one that failed or refused.
fn is_final(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(0, |byte| u16::from(byte & 0xf));
    code != u16::from(ResponseCode::ServFail) && code != u16::from(ResponseCode::Refused)
}

fn parse(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let word = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().map(str::to_owned)).flatten()
    };
    let servers = text.lines().filter_map(word).filter_map(|word| word.parse::<IpAddr>().ok());
    let servers = servers.map(|ip| SocketAddr::new(ip, 53)).filter(|server| !own.contains(server));
    servers.take(SERVERS_MAX).collect()
}

async fn by_packet(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port and an id of its own for each query: an answer cannot be guessed.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (asked, id) = with_new_id(query)?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; PACKET];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(&buffer[..length], id, query) {
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (asked, id) = with_new_id(query)?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), &asked[..]].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    matching(&buffer, id, query).ok_or_else(|| io::Error::other("the answer is to another question"))
}

fn with_new_id(query: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let id = Message::query().metadata.id.to_be_bytes();
    let mut asked = query.to_vec();
    asked.get_mut(..2).ok_or_else(|| io::Error::other("no query"))?.copy_from_slice(&id);
    Ok((asked, id))
}

/// The answer with the query's own id, if it is one to this query.
fn matching(answer: &[u8], id: [u8; 2], query: &[u8]) -> Option<Vec<u8>> {
    let is_answer = answer.len() >= 12 && answer[..2] == id && answer[2] & 0x80 != 0;
    // A server that cannot read the question leaves it out.
    let has_question = answer.get(4..6) == Some(&[0, 1]);
    if !is_answer || has_question && question(answer)? != question(query)? {
        return None;
    }
    let mut answer = answer.to_vec();
    answer[..2].copy_from_slice(&query[..2]);
    Some(answer)
}

/// The first question, in lower case: name, type and class as they are in the message.
fn question(message: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    while let length @ 1..=63 = usize::from(*message.get(at)?) {
        at += 1 + length;
    }
    Some(message.get(12..at + 5)?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_again_when_it_changes_and_our_own_address_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let upstream = Upstream::new(file.clone(), vec!["10.43.0.10:53".parse().unwrap()]);
        assert!(upstream.servers().is_empty());
        fs::write(&file, "# x\nnameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n")
            .unwrap();
        assert_eq!(upstream.servers(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(&file, "search a\nnameserver 192.0.2.2\nnameserver ::1\n").unwrap();
        assert_eq!(upstream.servers(), ["192.0.2.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }

    #[test]
    fn only_an_answer_to_the_same_question_counts() {
        let query = Message::query();
        let mut query = query.to_vec().unwrap();
        query[5] = 1;
        query.extend(b"\x01a\x00\x00\x01\x00\x01");
        let mut answer = query.clone();
        answer[..2].copy_from_slice(&[7, 7]);
        assert_eq!(matching(&answer, [7, 7], &query), None, "it is a query");
        answer[2] |= 0x80;
        assert_eq!(matching(&answer, [7, 7], &query).unwrap()[..2], query[..2]);
        assert_eq!(matching(&answer, [7, 8], &query), None);
        answer[13] = b'A';
        assert!(matching(&answer, [7, 7], &query).is_some(), "case does not count");
        answer[13] = b'b';
        assert_eq!(matching(&answer, [7, 7], &query), None);
    }
}
