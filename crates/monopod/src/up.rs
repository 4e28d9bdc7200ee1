//! Builds the rooms, joins them, drains them.
//!
//! ```text
//! ground (directories, lock, ranges) → pki → store → server → listeners   "the API answers"
//!                                                        ├→ runtime → node "the node is Ready"
//!                                                        └→ scheduler, controllers, proxy, dns, ingress
//! TERM → root token cancelled → each room ends → who was late is named
//! a room ends unasked → the same, and exit code 1
//! ```
//!
//! The order is what a client may rely on: the API answers only when everything a
//! fresh cluster holds is there, so the first Pod can be created at once.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api::quantity::Quantity;
use client::{Client, InProcess, Informers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use node::{Node, Pulses};
use proxy::Programmed;
use store::{Embedded, History, Store};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::Handler;
use wire::pki::{Authority, ServingCertificate};

use crate::config::{AuditSettings, Settings};
use crate::health::Health;
use crate::instance::{self, Ranges, Running, canonical, need_root};
use crate::names::Names;
use crate::network::Confirmed;
use crate::rooms::{LocalNode, Rooms};
use crate::{access, ingresses, kubeconfig, logging, metrics, network, notify, pull, say, watchdog};

/// The version of Kubernetes whose API is served.
pub(crate) const KUBERNETES_VERSION: &str = "v1.36.2";
/// Where the API listens unless told otherwise.
// Upstream's, so that what people have written down for a cluster fits.
const DEFAULT_PORT: u16 = 6443;
/// How many ports after the default are tried when another instance has it.
const PORTS_TRIED: u16 = 64;
/// Where the instances of this host take turns; the file itself is empty and belongs to none of them.
const CHOOSING: &str = "/run/monopod-ranges.lock";
/// A room that has not ended this long after the signal is named and left.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the instance until it is told to stop.
pub(crate) fn run(settings: Settings) -> Result<()> {
    let started = Instant::now();
    logging::start(settings.log_level, settings.log_format);
    need_root("up", "it makes namespaces, mounts and cgroups for Pods")?;
    sys::limits::raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // What takes long waits for the kernel, not for the processor: more threads would cost memory for
        // nothing. Files that hang (their server is gone) have threads of their own, beside these.
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(up(&settings, started));
    // A read of a file system that hangs would keep the program for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The order of what follows is the module's promise to clients. What can fail for a reason of the host (a port,
/// a disk, a damaged file) comes before anything is served, so that it is said in one sentence and leaves nothing.
async fn up(settings: &Settings, started: Instant) -> Result<()> {
    // Before there is anything to drain: until then a signal ends the program as it ends any other.
    let mut signals = Signals::take()?;
    // Held until the addresses chosen are on a bridge, where other instances see them.
    let choosing = instance::choosing(Path::new(CHOOSING))?;
    let (ground, listener) = Ground::prepare(settings).await?;
    let address = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let mut rooms = Rooms::new(shutdown.clone());
    // Empty for now: the server is built before the node, which needs the server to say what it is.
    let local_node = Arc::new(LocalNode::new(&settings.node_name));
    let store = Arc::new(open_store(&ground)?);
    let (programmed, pulses) = (Programmed::default(), Pulses::default());
    let health = Health::new(store.clone(), &ground.data_dir, &pulses, programmed.pulse());
    let server = start_server(&ground, store.clone(), &health, address, local_node.clone()).await?;
    let kinds = server.registry().subscribe();
    let server: Arc<dyn Handler> = server;
    let tls = ground.authority.server_config(ground.certificate.clone())?;
    rooms.serve("API", listener, tls.clone(), server.clone());
    rooms.keep_fresh(ground.certificate.clone(), ground.names.clone());
    if let Some(within) = watchdog::asked_for() {
        rooms.run("watchdog", watchdog::run(server.clone(), within, shutdown.clone()));
    }
    // Before it is said that the API answers: scripts wait for the line and read the file.
    write_kubeconfig(settings, &ground.authority, address)?;
    let kubeconfig = settings.kubeconfig.display();
    say(&format!(
        "API answers at https://{address} after {} ms; kubeconfig: {kubeconfig}",
        started.elapsed().as_millis()
    ))?;

    // After the API: adopting many Pods takes a while, and what is there can be looked at meanwhile.
    let native = open_runtime(settings, &ground.data_dir, &ground.ranges).await?;
    drop(choosing);
    if !address.ip().is_unspecified() {
        // Pods reach no loopback address of the host; one that listens everywhere listens there already.
        let for_pods = SocketAddr::new(gateway(&ground.ranges), address.port());
        rooms.serve("API for Pods", listen_for_pods(for_pods)?, tls, server.clone());
    }
    let client =
        |user: &str, groups: &[&str]| Client::new(Arc::new(InProcess::new(server.clone(), user, groups)));
    // Upstream gives each controller an account of its own; these share one process and one identity.
    let manager = client("system:kube-controller-manager", &["system:masters"]);
    let informers = informers(&mut rooms, manager.clone(), &shutdown);
    // While these are held, the node's part of Pods and Nodes is served from them: one copy of each.
    let _whole = (informers.of::<Pod>(), informers.of::<NodeObject>());
    // Rooms of upstream's names have upstream's rights and no more: what they may not do fails here, too.
    let scheduler = client("system:kube-scheduler", &[]);
    rooms.run("scheduler", scheduler::run(scheduler, informers.clone(), shutdown.clone()));
    let volumes = controllers::Config {
        authority_pem: ground.authority.certificate_pem().to_owned(),
        sign: crate::signer::of(ground.authority.clone()),
        volumes_dir: ground.data_dir.join("volumes"),
        // Handed in: `controllers` may not know the system, and the trees are of whoever the Pods ran as.
        remove_tree: |path| sys::beneath::remove_tree(path).map_err(|error| error.to_string()),
    };
    let controllers = controllers::run(manager.clone(), kinds, informers.clone(), volumes, shutdown.clone());
    rooms.run("controllers", controllers);
    let services = network::Config {
        instance: instance::id(&ground.data_dir),
        node: &settings.node_name,
        ranges: &ground.ranges,
        programmed: programmed.clone(),
        informers: informers.clone(),
        client: client("system:kube-proxy", &[]),
        manager: manager.clone(),
    };
    network::start(&mut rooms, services, shutdown.clone())?;
    let authority = ground.authority.clone();
    let ingresses =
        ingresses::start(&mut rooms, settings, authority, manager, informers.clone(), shutdown.clone())?;
    let node_client = client(&format!("system:node:{}", settings.node_name), &["system:nodes"]);
    let mut config = node_config(settings, &ground, address);
    // The node asks the proxies of its own process before it stops, or starts, what they send to.
    let confirmed = Arc::new(Confirmed { programmed, ingresses });
    config.endpoints = Some(confirmed.clone());
    config.policies = Some(confirmed);
    config.not_ready = Some(Arc::new(health));
    config.pulses = pulses;
    rooms.run("archives", crate::archives::watch(ground.data_dir.clone(), native.images(), shutdown.clone()));
    let mut node = Node::start(node_client, informers, Arc::new(native), config);
    local_node.set(node.handler());
    let mut ready = node.ready();
    let told = async {
        // Only a node that has ended would close the channel, and then this is dropped.
        let _ = ready.wait_for(|ready| *ready).await;
        say(&format!("node {} is Ready after {} ms", settings.node_name, started.elapsed().as_millis()))?;
        notify::ready();
        std::future::pending().await
    };
    // What is left when one arm is taken is dropped with nothing lost: rooms and node are drained below.
    let outcome = tokio::select! {
        () = signals.end() => Ok(()),
        told = told => told,
        why = rooms.ended() => Err(anyhow::anyhow!("{why}")),
        () = node.ended() => Err(anyhow::anyhow!("the node ended by itself")),
        () = store.ended() => Err(anyhow::anyhow!("the store's committer died")),
    };
    notify::stopping();
    match &outcome {
        Ok(()) => tracing::info!("stopping; the Pods keep running"),
        Err(err) => {
            tracing::error!(%err, "stopping, because a part of the program is gone; the Pods keep running")
        }
    }
    // At once: each waits for its own, and what they need of each other is answered until the store closes.
    tokio::join!(rooms.drain(DRAIN), node.shutdown());
    // Only what may be late is lost without it: renewals of Leases and the last second of Events.
    if let Err(err) = store.close().await {
        tracing::error!(%err, "the last heartbeats are not on disk");
    }
    outcome
}

/// What all rooms of this process read objects from. They are in one process with the store, so one
/// identity reads for all of them; each writes as itself.
fn informers(rooms: &mut Rooms, client: Client, shutdown: &CancellationToken) -> Informers {
    let mut reflectors = JoinSet::new();
    let informers = Informers::spawn(client, &mut reflectors, shutdown.clone());
    rooms.run("informers", client::tasks::finish(reflectors));
    informers
}

/// What must be there before anything starts.
struct Ground {
    data_dir: std::path::PathBuf,
    _running: Running,
    ranges: Ranges,
    authority: Arc<Authority>,
    certificate: Arc<ServingCertificate>,
    names: Names,
    audit: Option<Arc<server::Audit>>,
}

impl Ground {
    /// The listener is its own: it moves into the task that serves it.
    async fn prepare(settings: &Settings) -> Result<(Self, TcpListener)> {
        let data_dir = prepare_directories(&settings.data_dir)?;
        let state = data_dir.join("state");
        // First of all: what follows reads and writes files that another daemon may hold.
        let running = instance::lock(&state)?;
        let id = instance::id(&data_dir);
        instance::refuse_range_of_host("--pod-cidr", settings.pod_cidr, &id)?;
        instance::refuse_range_of_host("--service-cidr", settings.service_cidr, &id)?;
        let ranges =
            instance::choose_ranges(&state, settings.pod_cidr, settings.service_cidr, settings.max_pods)?;
        // Before the certificate, which names the address it is served at.
        let listener = listen_beside(settings.listen, access::noted(&state), gateway(&ranges)).await?;
        access::note(&state, listener.local_addr()?)?;
        let authority = Arc::new(Authority::open(&data_dir.join("pki"), "kubernetes", Timestamp::now())?);
        let names = Names {
            node: settings.node_name.clone(),
            more: settings.tls_san.clone(),
            ranges: ranges.clone(),
            listening: listener.local_addr()?,
        };
        let now = Timestamp::now();
        let certificate = ServingCertificate::issue(authority.clone(), "kube-apiserver", names.now(), now)?;
        let audit = settings.audit.as_ref().map(open_audit).transpose()?;
        let ground = Ground { data_dir, _running: running, ranges, authority, certificate, names, audit };
        Ok((ground, listener))
    }
}

/// Makes the data directory, for root's eyes only: it holds keys and Secrets.
fn prepare_directories(data_dir: &Path) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    for part in ["", "state", "pki", "pods", "archives"] {
        let dir = data_dir.join(part);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(canonical(data_dir))
}

/// A listener whose port can be had for Pods, too. A port that was left to the kernel may be one of the many
/// that connections from the bridge's address have just given back.
async fn listen_beside(
    asked: Option<SocketAddr>,
    before: Option<SocketAddr>,
    gateway: std::net::IpAddr,
) -> Result<TcpListener> {
    let any = asked.is_some_and(|asked| asked.port() == 0);
    let mut tries = 1..=PORTS_TRIED;
    loop {
        let listener = listen(asked, before).await?;
        let for_pods = SocketAddr::new(gateway, listener.local_addr()?.port());
        let is_had = || listener.local_addr().is_ok_and(|own| own.ip().is_unspecified());
        if !any || tries.next().is_none() || is_had() || listen_for_pods(for_pods).is_ok() {
            return Ok(listener);
        }
    }
}

/// The address asked for, else that of the last start, which kubeconfigs name by now, else the default with
/// the next free port.
async fn listen(asked: Option<SocketAddr>, before: Option<SocketAddr>) -> Result<TcpListener> {
    // An address that was asked for is meant: another instead would be a surprise.
    if let Some(address) = asked {
        return TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"));
    }
    match before {
        Some(address) if is_default(address) => match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(err) => tracing::warn!(%address, %err, "the address of the last start cannot be had"),
        },
        _ => {}
    }
    for port in DEFAULT_PORT..DEFAULT_PORT + PORTS_TRIED {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return Ok(listener),
            Err(err) if err.kind() == std::io::ErrorKind::AddrInUse => {
                tracing::warn!(port, "the port is in use, trying the next");
            }
            Err(err) => return Err(err).with_context(|| format!("cannot listen on 127.0.0.1:{port}")),
        }
    }
    anyhow::bail!(
        "ports {DEFAULT_PORT} to {} of 127.0.0.1 are all in use: give --listen",
        DEFAULT_PORT + PORTS_TRIED - 1
    )
}

/// Whether an address was chosen here: one that was asked for by a flag goes with the flag.
fn is_default(address: SocketAddr) -> bool {
    address.ip().is_loopback() && (DEFAULT_PORT..DEFAULT_PORT + PORTS_TRIED).contains(&address.port())
}

/// Pods reach the API at the bridge's address, which may not exist yet.
fn listen_for_pods(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        rustix::net::sockopt::set_ip_freebind(&socket, true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    bind().with_context(|| format!("cannot listen on {address}, where Pods reach the API"))
}

/// Opens the runtime, which adopts the Pods that still run.
async fn open_runtime(settings: &Settings, data_dir: &Path, ranges: &Ranges) -> Result<runtime::Native> {
    let mut config = runtime_config(data_dir, ranges)?;
    config.pulls_at_once = settings.pulls_at_once;
    config.pod_max_pids = settings.pod_max_pids;
    let reserved = |name: &str, value: fn(&Quantity) -> i64| {
        settings.reserved.get(name).and_then(|amount| u64::try_from(value(amount)).ok()).unwrap_or_default()
    };
    config.reserved = runtime::Reserved {
        milli_cpu: reserved("cpu", Quantity::milli_value),
        memory: reserved("memory", Quantity::value),
        pids: reserved("pid", Quantity::value),
    };
    config.registries = pull::registries(&settings.registry_mirrors, &settings.insecure_registries);
    Ok(runtime::Native::open(config).await?)
}

/// The same for a daemon and for those who take down what it has left: names in the kernel come from it.
fn runtime_config(data_dir: &Path, ranges: &Ranges) -> Result<runtime::Config> {
    let mut config =
        runtime::Config::new(data_dir, instance::id(data_dir), ranges.node().to_string().parse()?);
    config.cluster_cidr = ranges.pods.to_string().parse()?;
    config.service_cidr = Some(ranges.services.to_string().parse()?);
    Ok(config)
}

/// Removes all that this instance made on the host, and names it.
pub(crate) fn remove_everything(data_dir: &Path) -> Result<Vec<String>> {
    let state = data_dir.join("state");
    // Not even a lock is made in a directory that was never ours.
    let mut removed = match state.exists() && is_writable(data_dir) {
        true => remove_pods(data_dir, &state)?,
        false => Vec::new(),
    };
    // Also when nothing else is left: a `down` may have been killed just before, or the files be gone that
    // name what there is.
    removed.extend(unmount_volumes(&data_dir.join("pods"))?);
    let config = runtime_config(data_dir, &Ranges::first())?;
    if runtime::Native::has_traces(&config)? {
        removed.extend(runtime::sweep(&config)?);
    }
    let instance = instance::id(data_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if runtime.block_on(proxy::cleanup(&instance))? {
        removed.push(format!("nftables table {}", proxy::table_name(&instance)));
    }
    Ok(removed)
}

/// A read-only disk keeps its files as they are, whatever becomes of the Pods.
fn is_writable(data_dir: &Path) -> bool {
    let disk = rustix::fs::statvfs(data_dir);
    disk.is_ok_and(|disk| !disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Ends the Pods in order: each has what it needs to say that it ended.
fn remove_pods(data_dir: &Path, state: &Path) -> Result<Vec<String>> {
    let _running = instance::lock(state)?;
    // What the ranges were does not matter to what is removed; a damaged file must not keep it.
    let ranges = instance::ranges(state).ok().flatten().unwrap_or_else(Ranges::first);
    let config = runtime_config(data_dir, &ranges)?;
    // Opening makes what it needs (groups, a bridge): not for the sake of removing it again.
    if !runtime::Native::has_traces(&config)? {
        return Ok(Vec::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let native = runtime::Native::open(config).await?;
        Ok(native.shutdown_all().await?)
    })
}

/// The volumes of Pods are the node's, and the node has ended without them.
fn unmount_volumes(pods: &Path) -> Result<Option<String>> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
    let count = mounts_below(&mountinfo, pods);
    let unmounted = node::volumes::Mounts::unmount_below(&node::volumes::HostMounts, pods);
    unmounted.with_context(|| format!("cannot unmount the volumes below {}", pods.display()))?;
    Ok((count > 0).then(|| format!("{count} mounted volumes")))
}

/// Lines of proc(5) mountinfo whose mount point, the fifth field, is below a directory.
fn mounts_below(mountinfo: &str, directory: &Path) -> usize {
    let point =
        |line: &str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(directory));
    mountinfo.lines().filter(|line| point(line)).count()
}

/// Users of the node that a Pod has which has not the node's.
const IDS_PER_POD: u32 = 65_536;

/// Where the users of this instance's Pods begin, so that Pods of two instances have none in common. Below 2^31:
/// beyond, programs take them for negative.
fn first_user(data_dir: &Path, max_pods: u32) -> u32 {
    let share = max_pods.max(128);
    let shares = (i32::MAX.cast_unsigned() / IDS_PER_POD / share).max(2);
    let digits = u32::from_str_radix(&instance::id(data_dir), 16).expect("eight hexadecimal digits");
    // The first share is that of the instance in the usual place, as with upstream.
    IDS_PER_POD * (1 + share * (1 + digits % (shares - 1)))
}

/// What the node is told. It asks nobody else: neither flags nor files of the program are known to it.
fn node_config(settings: &Settings, ground: &Ground, address: SocketAddr) -> node::Config {
    // The one instance of a host keeps its logs where log collectors look; others keep theirs together.
    let default_place = ground.data_dir == Path::new(crate::cli::DEFAULT_DATA_DIR);
    let logs = if default_place { "/var/log".into() } else { ground.data_dir.join("logs") };
    let max_pods = settings.max_pods.unwrap_or(crate::config::MAX_PODS);
    node::Config {
        node_name: settings.node_name.clone(),
        hostname: settings.node_name.clone(),
        node_ips: vec![node_address(&ground.ranges)],
        pods_directory: ground.data_dir.join("pods"),
        logs_directory: logs.join("pods"),
        log_links_directory: Some(logs.join("containers")),
        images_directory: ground.data_dir.join("images"),
        reserved: settings.reserved.clone(),
        eviction: settings.eviction.clone(),
        images: settings.images.clone(),
        manifests_directory: settings.manifests.clone(),
        timelines_directory: ground.data_dir.join(node::timeline::DIRECTORY),
        seccomp_directory: ground.data_dir.join("seccomp"),
        seccomp_default: settings.seccomp_default,
        kubelet_version: KUBERNETES_VERSION.to_owned(),
        runtime_version: format!("monopod://{}", crate::version()),
        kubelet_port: address.port(),
        cluster_dns: Some(network::dns_address(&ground.ranges)),
        cluster_domain: network::CLUSTER_DOMAIN.to_owned(),
        api_server: SocketAddr::new(ground.ranges.services.address(1).into(), 443),
        max_pods,
        default_users: if default_place { IDS_PER_POD } else { first_user(&ground.data_dir, max_pods) },
        allowed_sysctls: settings.allowed_sysctls.clone(),
        labels: Vec::new(),
        taints: Vec::new(),
        pod_cidr: Some(ground.ranges.node().to_string()),
        endpoints: None,
        policies: None,
        not_ready: None,
        pulses: Pulses::default(),
    }
}

/// The host's own address towards the world; without a route there, the bridge's.
fn node_address(ranges: &Ranges) -> std::net::IpAddr {
    let outward = || {
        // Connecting a datagram socket only asks the routing table; nothing is sent.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    outward().unwrap_or_else(|| gateway(ranges))
}

/// The first address of the node's range: the bridge.
fn gateway(ranges: &Ranges) -> std::net::IpAddr {
    ranges.pods.address(1).into()
}

/// The store, or why not, with what can be done about it.
fn open_store(ground: &Ground) -> Result<Embedded> {
    let store = Embedded::open(&ground.data_dir.join("state"), server::stamp, History::default());
    store.map_err(|err| explain(err, &ground.data_dir))
}

/// Built before the node that it reaches, and told how to reach it by a handle that is filled later.
async fn start_server(
    ground: &Ground,
    store: Arc<Embedded>,
    health: &Health,
    address: SocketAddr,
    nodes: Arc<LocalNode>,
) -> Result<Arc<server::Server>> {
    let config = server::Config {
        service_cidr: ground.ranges.services.to_string(),
        advertise: SocketAddr::new(gateway(&ground.ranges), address.port()),
        authority_pem: ground.authority.certificate_pem().to_owned(),
        service_account_key: crate::keys::service_account(&ground.data_dir.join("pki"))?,
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        anonymous: true,
        nodes,
        limits: server::Limits::default(),
        audit: ground.audit.clone(),
        metrics: metrics_of(ground),
        checks: health.checks(),
    };
    server::Server::start(store, config).await.context("cannot start the API server")
}

/// Before anything is served: a request that nobody wrote down would be worse than a start that fails.
fn open_audit(settings: &AuditSettings) -> Result<Arc<server::Audit>> {
    let AuditSettings { path, policy, rotation } = settings;
    let opened = server::Audit::open(path, policy.clone(), *rotation);
    opened.map(Arc::new).with_context(|| format!("cannot write the audit log {}", path.display()))
}

/// Handed to the server, which knows neither files nor the other rooms.
fn metrics_of(ground: &Ground) -> Arc<dyn Fn(&mut String) + Send + Sync> {
    let (data_dir, serving) = (ground.data_dir.clone(), ground.certificate.clone());
    let sources = metrics::Sources { data_dir, serving };
    Arc::new(move |out| sources.write(out))
}

/// What can be done when the store does not open.
fn explain(err: store::OpenError, data_dir: &Path) -> anyhow::Error {
    let hint = match &err {
        store::OpenError::Damaged { .. } => format!(
            "; `monopod repair --data-dir {}` keeps what is whole and says what is not, \
             `monopod restore` takes a backup",
            data_dir.display()
        ),
        _ => String::new(),
    };
    let reason = anyhow::Error::from(err);
    anyhow::anyhow!("cannot open the store: {reason:#}{hint}")
}

/// Anew at each start, so that the certificate in it is always young; the address may be another, too.
fn write_kubeconfig(settings: &Settings, authority: &Authority, address: SocketAddr) -> Result<()> {
    let admin =
        authority.issue_client("kubernetes-admin", &["system:masters".to_owned()], Timestamp::now())?;
    let text = kubeconfig::render(
        &format!("https://{}", access::reachable(address)),
        authority.certificate_pem(),
        &admin.certificate_pem,
        &admin.key_pem,
    );
    wire::pki::write_private(&settings.kubeconfig, text.as_bytes())?;
    Ok(())
}

/// The signals that ask the program to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on they wait to be asked for: one that comes while the rooms are built, or before the node is
    /// ever Ready, finds a program that drains.
    fn take() -> Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Comes with the first of them.
    async fn end(&mut self) {
        tokio::select! {
            // Both are cancel-safe: a signal that is not taken stays pending.
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
