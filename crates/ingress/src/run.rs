//! The loop that keeps the table as it should be, and the listeners.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::events::{EventType, Recorder, reference};
use client::index::SLICES_BY_SERVICE;
use client::{Changes, Client, Index, Informer, Informers, Part, key};
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::build::build_with;
use crate::certificate::{Certificates, server_config};
use crate::forward::Forward;
use crate::status::{self, Port, Wanted};
use crate::{Endpoints, Finding, Served, World, class};

/// How often idle connections are looked at, and ports tried that others have.
const TICK: Duration = Duration::from_secs(30);
/// After a failure to write the class.
const RETRY: Duration = Duration::from_secs(1);

/// Where and how to listen.
#[derive(Debug)]
pub struct Config {
    /// The node of this process, whose addresses are told.
    pub node: String,
    /// Where HTTP is spoken.
    pub http: Option<SocketAddr>,
    /// Where HTTPS is spoken.
    pub https: Option<SocketAddr>,
    /// Bounds of each listener.
    pub limits: wire::Limits,
    /// For server names that no Ingress has a certificate for.
    pub fallback: Arc<dyn ResolvesServerCert>,
}

/// Serves Ingresses until `shutdown`.
pub async fn run(
    client: Client,
    informers: Informers,
    config: Config,
    served: Served,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let tls = match server_config(served.clone(), config.fallback.clone()) {
        Ok(tls) => tls,
        Err(error) => {
            tracing::error!(%error, "TLS cannot be configured, no Ingress is served");
            return shutdown.cancelled().await;
        }
    };
    let mut sources = Sources::new(&informers, &config.node);
    let (wanted, written) = watch::channel(Wanted::default());
    let listeners = Listeners::new(&config, served.clone(), tls);
    let mut keeper = Keeper {
        served: served.clone(),
        endpoints: Endpoints::default(),
        certificates: Certificates::default(),
        listeners,
        told: Told::default(),
        recorder,
        wanted,
    };
    let work = async {
        // None of the three ends by itself.
        tokio::join!(keeper.keep(&mut sources), status::write(client.clone(), written), write_class(client));
    };
    // Cancel-safe: listeners and connections are ended in order below.
    shutdown.run_until_cancelled(work).await;
    keeper.listeners.end().await;
    served.end().await;
}

/// Makes the class where there is none; one that somebody has changed stays as it is.
async fn write_class(client: Client) {
    loop {
        let made = match client.get::<IngressClass>("", class::CLASS).await {
            Err(error) if error.is_not_found() => client.create("", &class::built_in()).await.map(drop),
            other => other.map(drop),
        };
        match made {
            Err(error) if !error.is_conflict() => {
                tracing::warn!(%error, "the IngressClass cannot be written")
            }
            _ => return,
        }
        sleep(RETRY).await;
    }
}

/// What the table is made of.
struct Sources {
    ingresses: Source<Ingress>,
    classes: Source<IngressClass>,
    services: Source<Service>,
    slices: Source<EndpointSlice>,
    secrets: Source<Secret>,
    node: Source<Node>,
}

/// A kind and its changes.
struct Source<K> {
    informer: Informer<K>,
    changes: Changes<K>,
}

impl<K: client::Object> Source<K> {
    fn new(informer: Informer<K>) -> Self {
        let changes = informer.subscribe();
        Source { informer, changes }
    }

    fn drain(&mut self) {
        while self.changes.try_next().is_some() {}
    }
}

impl Sources {
    fn new(informers: &Informers, node: &str) -> Self {
        let by_type = Index::new("type", |secret: &Secret| secret.type_.iter().cloned().collect());
        Sources {
            ingresses: Source::new(informers.of()),
            classes: Source::new(informers.of()),
            services: Source::new(informers.of()),
            slices: Source::new(informers.of()),
            secrets: Source::new(informers.part(Part::field(by_type, "kubernetes.io/tls"))),
            node: Source::new(informers.part(Part::object("", node))),
        }
    }

    async fn synced(&self) {
        tokio::join!(
            self.ingresses.informer.synced(),
            self.classes.informer.synced(),
            self.services.informer.synced(),
            self.slices.informer.synced(),
            self.secrets.informer.synced(),
        );
    }

    /// What changes after this is the reason for another turn.
    fn drain(&mut self) {
        self.ingresses.drain();
        self.classes.drain();
        self.services.drain();
        self.slices.drain();
        self.secrets.drain();
        self.node.drain();
    }

    /// Returns when something has changed; false when nothing will any more. Cancel-safe.
    async fn changed(&mut self) -> bool {
        // Each arm is cancel-safe: a change that is not taken stays in its channel.
        tokio::select! {
            change = self.ingresses.changes.next() => change.is_some(),
            change = self.classes.changes.next() => change.is_some(),
            change = self.services.changes.next() => change.is_some(),
            change = self.slices.changes.next() => change.is_some(),
            change = self.secrets.changes.next() => change.is_some(),
            change = self.node.changes.next() => change.is_some(),
        }
    }
}

struct Keeper {
    served: Served,
    endpoints: Endpoints,
    certificates: Certificates,
    listeners: Listeners,
    told: Told,
    recorder: Recorder,
    wanted: watch::Sender<Wanted>,
}

impl Keeper {
    async fn keep(&mut self, sources: &mut Sources) {
        // A table from half of it would answer that there is no such page.
        sources.synced().await;
        loop {
            // Before the look: who asks later waits for the next one.
            let asked = self.served.asked();
            sources.drain();
            self.turn(sources, asked).await;
            // Each arm is cancel-safe: a change that is not taken stays in its channel.
            tokio::select! {
                more = sources.changed() => if !more { return std::future::pending().await },
                () = self.served.asked_since(asked) => {}
                () = sleep(TICK), if self.listeners.wanted => self.endpoints.prune(Instant::now()),
            }
        }
    }

    /// Answers by what is known, and tells what came of it.
    async fn turn(&mut self, sources: &Sources, asked: u64) {
        let (ours, mut findings) = self.serve(sources, asked);
        let failures = self.listeners.update(!ours.is_empty()).await;
        for message in failures {
            let each =
                ours.iter().map(|ingress| Finding { ingress: ingress.clone(), message: message.clone() });
            findings.extend(each);
        }
        self.told.tell(&ours, findings, &self.recorder);
        let node = sources.node.informer.list();
        let addresses = node.first().map(|node| status::addresses(node)).unwrap_or_default();
        let reached = status::reached(&addresses, &self.listeners.ports());
        self.wanted.send_replace(Wanted { ours, reached });
    }

    /// Answers by what is known now; whose Ingresses these are, and what is wrong in them.
    fn serve(&mut self, sources: &Sources, asked: u64) -> (Vec<Arc<Ingress>>, Vec<Finding>) {
        let world = World {
            ingresses: sources.ingresses.informer.list(),
            classes: sources.classes.informer.list(),
            service: &|namespace, name| sources.services.informer.get(namespace, name),
            slices: &|namespace, name| {
                sources.slices.informer.by_index(SLICES_BY_SERVICE, &key(namespace, name))
            },
            secret: &|namespace, name| sources.secrets.informer.get(namespace, name),
        };
        let (table, ours, findings) = build_with(&world, &mut self.endpoints, &mut self.certificates);
        self.served.swap(table, self.endpoints.take_unused(), asked);
        (ours, findings)
    }
}

/// What was told, so that each is told once as long as it lasts. The words are those of the controller that
/// most clusters in a cloud have.
#[derive(Default)]
struct Told {
    seen: BTreeSet<Option<String>>,
    faults: BTreeSet<(Option<String>, String)>,
}

impl Told {
    fn tell(&mut self, ours: &[Arc<Ingress>], findings: Vec<Finding>, recorder: &Recorder) {
        let seen = ours.iter().map(|ingress| ingress.metadata.uid.clone()).collect();
        for ingress in ours.iter().filter(|ingress| !self.seen.contains(&ingress.metadata.uid)) {
            // Not again at each start of the program.
            if ingress
                .status
                .as_ref()
                .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
                .is_none()
            {
                recorder.event(&reference(&**ingress), EventType::Normal, "Sync", "Scheduled for sync");
            }
        }
        self.seen = seen;
        let mut faults = BTreeSet::new();
        for Finding { ingress, message } in findings {
            let fault = (ingress.metadata.uid.clone(), message);
            if !self.faults.contains(&fault) {
                let message = format!("Translation failed: invalid ingress spec: {}", fault.1);
                recorder.event(&reference(&*ingress), EventType::Warning, "Translate", message);
            }
            faults.insert(fault);
        }
        self.faults = faults;
    }
}

/// The ports, open as long as there is an Ingress.
struct Listeners {
    wanted: bool,
    all: Vec<Listener>,
    limits: wire::Limits,
    served: Served,
    tasks: JoinSet<()>,
}

struct Listener {
    at: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    /// Ends it; `None` while it is not open.
    open: Option<CancellationToken>,
    failed: Option<String>,
}

impl Listeners {
    fn new(config: &Config, served: Served, tls: Arc<ServerConfig>) -> Self {
        let listener = |at, tls| Listener { at, tls, open: None, failed: None };
        let http = config.http.map(|at| listener(at, None));
        let https = config.https.map(|at| listener(at, Some(tls)));
        let all = http.into_iter().chain(https).collect();
        Listeners { wanted: false, all, limits: config.limits.clone(), served, tasks: JoinSet::new() }
    }

    /// Opens or closes the ports and says which cannot be opened; that is tried again.
    async fn update(&mut self, wanted: bool) -> Vec<String> {
        self.wanted = wanted;
        while let Some(ended) = self.tasks.try_join_next() {
            client::tasks::resume(ended);
        }
        for listener in &mut self.all {
            if !wanted {
                listener.failed = None;
                if let Some(open) = listener.open.take() {
                    open.cancel();
                }
            } else if listener.open.is_none() {
                match TcpListener::bind(listener.at).await {
                    Ok(socket) => {
                        let serving = listener.begin(socket, self.limits.clone(), self.served.clone());
                        self.tasks.spawn(serving);
                    }
                    Err(error) => listener.fail(&error),
                }
            }
        }
        self.all.iter().filter_map(|listener| listener.failed.clone()).collect()
    }

    /// Answers what was asked, and ends.
    async fn end(mut self) {
        self.update(false).await;
        client::tasks::finish(self.tasks).await;
    }

    fn ports(&self) -> Vec<Port> {
        let told = |listener: &Listener| {
            let ip = listener.at.ip();
            let address = (!ip.is_unspecified()).then_some(ip);
            Port { number: listener.at.port(), address, is_open: listener.open.is_some() }
        };
        self.all.iter().map(told).collect()
    }
}

impl Listener {
    fn begin(
        &mut self,
        socket: TcpListener,
        limits: wire::Limits,
        served: Served,
    ) -> impl Future<Output = ()> + Send + use<> {
        let end = CancellationToken::new();
        (self.open, self.failed) = (Some(end.clone()), None);
        let (at, tls) = (self.at, self.tls.clone());
        tracing::info!(%at, "listening for Ingresses");
        let forward = Forward { served, is_tls: tls.is_some(), port: at.port() };
        async move {
            wire::serve_with(limits, socket, tls, Arc::new(forward), end).await;
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let message = format!("cannot listen on {}: {error}", self.at);
        if self.failed.as_ref() != Some(&message) {
            tracing::warn!(message, "no Ingress is served there");
        }
        self.failed = Some(message);
    }
}
