//! Services and names of this node: the proxy and the DNS server, on the same informers.
//!
//! ```text
//! NetworkPolicies, Pods ────┐
//! Services, EndpointSlices ─┼─ proxy ─ nftables: 10.43.x.y → Pods; 10.43.0.10 → the bridge's address;
//!                           │          who may reach whom
//!                           └─ dns ─── the bridge's address, port 53
//! ```
//!
//! Neither holds up the start: the node becomes Ready while their informers sync.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use client::events::Recorder;
use client::{Client, Informers};
use k8s_openapi::api::core::v1::Pod;
use proxy::Programmed;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::instance::{Cidr, Ranges};
use crate::rooms::Rooms;

/// The domain of all names in the cluster.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// By convention the tenth address of the Services' range is that of the DNS server.
const DNS_ADDRESS: u32 = 10;
const DNS_PORT: u16 = 53;

/// What this room is told.
pub(crate) struct Config<'a> {
    pub(crate) instance: String,
    pub(crate) node: &'a str,
    pub(crate) ranges: &'a Ranges,
    /// What the proxy says of its table.
    pub(crate) programmed: Programmed,
    /// Services, EndpointSlices and what policies are about come from it.
    pub(crate) informers: Informers,
    /// Writes the proxy's Events.
    pub(crate) client: Client,
    /// Writes the Service of the DNS server.
    pub(crate) manager: Client,
}

/// Where Pods ask for names.
pub(crate) fn dns_address(ranges: &Ranges) -> IpAddr {
    ranges.services.address(DNS_ADDRESS).into()
}

/// Starts both.
pub(crate) fn start(rooms: &mut Rooms, config: Config<'_>, shutdown: CancellationToken) -> Result<()> {
    let sockets = listen(config.ranges.pods.address(1))?;
    let listening = dns::Listening { udp: sockets.udp.local_addr()?, tcp: sockets.tcp.local_addr()? };
    let instance = proxy::Instance {
        // As the runtime calls its bridge.
        link: Some(format!("mp{}", config.instance)),
        id: config.instance,
        node: config.node.to_owned(),
        // The proxy reads it from the Node itself.
        zone: None,
        pod_cidrs: vec![range(config.ranges.pods)],
        service_cidrs: vec![range(config.ranges.services)],
        // Policies let names through by the labels of Pods, which this server is not.
        dns: Some(proxy::policy::Dns {
            address: listening.udp.ip(),
            udp: listening.udp.port(),
            tcp: listening.tcp.port(),
        }),
    };
    let service = config.ranges.services.address(DNS_ADDRESS);
    let names = dns::Config {
        domain: CLUSTER_DOMAIN.to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
        own: vec![listening.udp, SocketAddr::new(service.into(), DNS_PORT)],
        ranges: vec![config.ranges.pods.to_string(), config.ranges.services.to_string()],
    };
    let (manager, programmed) = (config.manager, config.programmed);
    let (services, slices) = (config.informers.of(), config.informers.of());
    let mut recording = JoinSet::new();
    let recorder =
        Recorder::spawn(config.client, "kube-proxy", &instance.node, &mut recording, shutdown.clone());
    rooms.run("Events of the proxy", client::tasks::finish(recording));
    let proxy = proxy::run(config.informers, instance, programmed, recorder, shutdown.clone());
    rooms.run("proxy", proxy);
    rooms.run("DNS", async move {
        let publish = dns::publish(manager, service, listening, shutdown.clone());
        tokio::join!(publish, dns::run(services, slices, names, sockets, shutdown));
    });
    Ok(())
}

fn range(cidr: Cidr) -> proxy::Range {
    proxy::Range::new(cidr.address(0).into(), cidr.bits())
}

/// Port 53 of the bridge's address, or another when a DNS server of the host holds it: Pods
/// ask the Service's address, and the Service leads to any port.
fn listen(address: Ipv4Addr) -> Result<dns::Sockets> {
    let context = || format!("cannot listen on {address} for DNS");
    Ok(dns::Sockets {
        udp: first_free(address, udp_socket).with_context(context)?,
        tcp: first_free(address, tcp_listener).with_context(context)?,
    })
}

fn first_free<T>(address: Ipv4Addr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(SocketAddr::new(address.into(), DNS_PORT)) {
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => bind(SocketAddr::new(address.into(), 0)),
        other => other,
    }
}

/// The bridge's address may be gone for a moment; a socket on it must not fail then.
fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(socket.into())
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// The proxies of this process as the node knows them.
pub(crate) struct Confirmed {
    pub(crate) programmed: Programmed,
    /// `None`: no Ingress is served.
    pub(crate) ingresses: Option<ingress::Served>,
}

impl node::ConfirmEndpoints for Confirmed {
    fn withdrawn(&self, pod: &Pod, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (of_services, ingresses) = (self.programmed.withdrawn(pod, at_most), self.ingresses.clone());
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let both = async move {
            // After the proxy: what it has programmed is known to all readers of the one set of informers, and
            // whoever asks after that gets a table made in that knowledge.
            of_services.await;
            if let Some(ingresses) = ingresses {
                ingresses.withdrawn(&uid).await;
            }
        };
        Box::pin(async move {
            if tokio::time::timeout(at_most, both).await.is_err() {
                tracing::warn!(?at_most, "a Pod that leaves still has requests whose answer has not begun");
            }
        })
    }
}

impl node::ConfirmPolicies for Confirmed {
    fn admitted(
        &self,
        pod: Arc<Pod>,
        addresses: Vec<IpAddr>,
        at_most: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        Box::pin(self.programmed.admitted(pod, addresses, at_most))
    }
}
