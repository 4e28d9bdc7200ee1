//! The loop that answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use client::Informer;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, Record};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::reply::{Reply, Way, failure, query_for, reply, with_alias};
use crate::upstream::Upstream;
use crate::{Zone, tcp};

/// Longer queries are no queries.
const PACKET: usize = 4096;
/// Queries that wait for the node's resolvers at the same time; more are refused, so that a
/// resolver that does not answer cannot fill the memory.
const FORWARDED_MAX: usize = 256;
/// Connections at the same time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cluster.local`.
    pub domain: String,
    /// Names the resolvers for all other names.
    pub resolv_conf: PathBuf,
    /// Addresses of this server, which are never asked.
    pub own: Vec<SocketAddr>,
    /// Ranges whose addresses only the cluster gives out: `10.42.0.0/16`.
    pub ranges: Vec<String>,
}

/// Where a server listens.
#[derive(Debug)]
pub struct Sockets {
    /// For packets.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

/// Answers until `shutdown`.
pub async fn run(
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    config: Config,
    sockets: Sockets,
    shutdown: CancellationToken,
) {
    let ready = async {
        // "No such name" must not be said of what is not known yet; queries wait in the sockets.
        services.synced().await;
        slices.synced().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let upstream = Upstream::new(config.resolv_conf.clone(), config.own.clone());
    let resolver = Arc::new(Resolver { services, slices, config, zone: Mutex::default(), upstream });
    // Cancel-safe: what is not answered is asked again.
    shutdown.run_until_cancelled(serve(&resolver, sockets)).await;
}

async fn serve(resolver: &Arc<Resolver>, sockets: Sockets) {
    let Sockets { udp, tcp } = sockets;
    let udp = Arc::new(udp);
    let (mut services, mut slices) = (resolver.services.subscribe(), resolver.slices.subscribe());
    let (mut forwarded, mut connections) = (JoinSet::new(), JoinSet::new());
    let mut buffer = vec![0; PACKET];
    loop {
        // Every arm is cancel-safe: sockets, channels and sets keep what was not taken.
        tokio::select! {
            received = udp.recv_from(&mut buffer) => match received {
                Ok((length, from)) => take_packet(resolver, &udp, &buffer[..length], from, &mut forwarded).await,
                // The error is an earlier reply's that did not arrive.
                Err(error) => tracing::debug!(%error, "a DNS reply did not arrive"),
            },
            accepted = tcp.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(tcp::serve(resolver.clone(), stream)); }
                Err(error) => tracing::debug!(%error, "a DNS connection was lost"),
            },
            change = services.next() => if change.is_some() { resolver.forget() } else { return },
            change = slices.next() => if change.is_some() { resolver.forget() } else { return },
            Some(_) = forwarded.join_next() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn take_packet(
    resolver: &Arc<Resolver>,
    socket: &Arc<UdpSocket>,
    packet: &[u8],
    from: SocketAddr,
    forwarded: &mut JoinSet<()>,
) {
    let pending = match reply(&resolver.zone(), packet, Way::Packet) {
        Reply::Nothing => return,
        Reply::Now(bytes) => return send(socket, &bytes, from).await,
        Reply::Forward(request) => Pending { request, aliased: None },
        Reply::Alias(request, aliases, name) => Pending { request, aliased: Some((aliases, name)) },
    };
    if forwarded.len() >= FORWARDED_MAX {
        return send(socket, &failure(&pending.request, Way::Packet), from).await;
    }
    let (resolver, socket, packet) = (resolver.clone(), socket.clone(), packet.to_vec());
    forwarded.spawn(async move {
        send(&socket, &resolver.elsewhere(pending, &packet, Way::Packet).await, from).await;
    });
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%to, %error, "a DNS reply was not sent");
    }
}

/// A query that others must answer.
struct Pending {
    request: Box<Message>,
    aliased: Option<(Vec<Record>, Name)>,
}

/// What answers.
#[derive(Debug)]
pub(crate) struct Resolver {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    config: Config,
    /// Made when somebody asks, forgotten when something changes: a rollout that nobody asks
    /// about costs nothing.
    zone: Mutex<Option<Arc<Zone>>>,
    upstream: Upstream,
}

impl Resolver {
    fn zone(&self) -> Arc<Zone> {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let Config { domain, ranges, .. } = &self.config;
            Arc::new(Zone::new(domain, ranges, &self.services.list(), &self.slices.list()))
        };
        zone.get_or_insert_with(make).clone()
    }

    fn forget(&self) {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Answers a query that came over a connection; `None`: it is none.
    pub(crate) async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let pending = match reply(&self.zone(), query, Way::Stream) {
            Reply::Nothing => return None,
            Reply::Now(bytes) => return Some(bytes),
            Reply::Forward(request) => Pending { request, aliased: None },
            Reply::Alias(request, aliases, name) => Pending { request, aliased: Some((aliases, name)) },
        };
        Some(self.elsewhere(pending, query, Way::Stream).await)
    }

    async fn elsewhere(&self, pending: Pending, query: &[u8], way: Way) -> Vec<u8> {
        let Pending { request, aliased } = pending;
        let found = match &aliased {
            None => self.upstream.ask(query, way).await,
            Some((_, name)) => match query_for(&request, name) {
                Some(query) => self.upstream.ask(&query, way).await,
                None => None,
            },
        };
        match (found, aliased) {
            (None, _) => failure(&request, way),
            (Some(found), None) => found,
            (Some(found), Some((aliases, _))) => with_alias(&request, aliases, &found, way),
        }
    }
}
