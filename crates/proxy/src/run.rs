//! The loop that keeps the node's table as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{EventType, Recorder, reference};
use client::{Changes, Informer, Informers, Part};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use sys::command::{self, CommandError};
use sys::netlink::batch::Batch;
use sys::netlink::{Heard, TableWatch};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::forget::{Following, Forgetting};
use crate::health_check::{self, HealthChecks, Local};
use crate::outer;
use crate::policy::{Feed, Known};
use crate::programmed::Table;
use crate::render::table_name;
use crate::{Family, Host, Instance, Programmed, Range, Refusal, Ruleset, ruleset};

/// The rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `nft` is missing or refused.
    #[error("failed to program the nftables table {table}")]
    Program {
        /// The table's name.
        table: String,
        /// The cause.
        #[source]
        source: CommandError,
    },
    /// The program that runs `nft` was stopped.
    #[error("interrupted while programming nftables")]
    Interrupted,
}

/// After a failure; `nft` may be installed later, a module loaded.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// After a change the proxy rests so many times as long as the change took, so that a rollout, which changes
/// slices many times a second, costs it a quarter of a processor at most.
const REST: u32 = 3;
const REST_MAX: Duration = Duration::from_millis(200);

/// Programs Services and NetworkPolicies until `shutdown`. The table stays then: Pods go on, and
/// so do their connections. [`cleanup`] removes it.
pub async fn run(
    informers: Informers,
    instance: Instance,
    programmed: Programmed,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let (services, slices) = (informers.of(), informers.of());
    let (ranges, node) = (informers.of(), informers.part(Part::object("", &instance.node)));
    programmed.follow(slices.clone());
    let feed = Feed::new(informers, programmed.admission().clone());
    let ready = async {
        // A table from half the Services would cut the connections of the others.
        services.synced().await;
        slices.synced().await;
        ranges.synced().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        let sources = Sources::new(services, slices, ranges, node, feed);
        // Unbounded: one is a few pointers, and the rules change no faster than their keeper rests.
        let (turns, following) = mpsc::unbounded_channel();
        let forgetting = Forgetting::default().follow(following, programmed.clone());
        let keeper = Keeper::new(instance, programmed, recorder, turns);
        // Cancel-safe: a transaction that began is finished by its own thread.
        shutdown.run_until_cancelled(async { tokio::join!(keeper.keep(sources), forgetting) }).await;
    }
}

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the table is made of.
struct Sources {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    service_changes: Changes<Service>,
    slice_changes: Changes<EndpointSlice>,
    /// Where addresses of Services may come from, besides the range of the beginning.
    ranges: Informer<ServiceCIDR>,
    range_changes: Changes<ServiceCIDR>,
    /// This node, for its zone.
    node: Informer<Node>,
    node_changes: Changes<Node>,
    feed: Feed,
}

/// All of it at one time.
struct Seen {
    ruleset: Ruleset,
    refusals: Vec<Refusal>,
    table: Table,
    /// What health checks are told, by port.
    health: BTreeMap<u16, Local>,
    /// Whose addresses the policies in it know.
    known: Known,
}

impl Sources {
    fn new(
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
        ranges: Informer<ServiceCIDR>,
        node: Informer<Node>,
        feed: Feed,
    ) -> Self {
        let (service_changes, slice_changes) = (services.subscribe(), slices.subscribe());
        let (range_changes, node_changes) = (ranges.subscribe(), node.subscribe());
        Self {
            services,
            slices,
            service_changes,
            slice_changes,
            ranges,
            range_changes,
            node,
            node_changes,
            feed,
        }
    }

    /// Takes what is there now; what changes after that is the reason for another turn.
    async fn look(&mut self, instance: &Instance) -> Seen {
        drain(&mut self.service_changes);
        drain(&mut self.slice_changes);
        drain(&mut self.range_changes);
        drain(&mut self.node_changes);
        self.feed.synced().await;
        let (policies, known) = self.feed.compiled(&instance.node, instance.dns);
        let (services, slices) = (self.services.list(), self.slices.list());
        let health = health_check::wanted(&services, &slices, &instance.node);
        let instance =
            Instance { zone: self.zone(), service_cidrs: self.ranges(instance), ..instance.clone() };
        let (mut ruleset, refusals) = ruleset(&services, &slices, &instance, &Host::look(&services));
        ruleset.policies = policies;
        Seen { ruleset, refusals, table: Table { services, slices }, health, known }
    }

    /// All ranges of Services, those of the beginning first.
    fn ranges(&self, instance: &Instance) -> Vec<Range> {
        let mut ranges = instance.service_cidrs.clone();
        for more in self
            .ranges
            .list()
            .iter()
            .flat_map(|more| more.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()))
        {
            ranges.extend(Range::parse(more).filter(|more| !ranges.contains(more)));
        }
        ranges
    }

    /// Where hints may send packets that begin here.
    fn zone(&self) -> Option<String> {
        let node = self.node.list();
        node.first().and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned())
    }

    /// Returns when something has changed; false when nothing will any more. Cancel-safe.
    async fn changed(&mut self) -> bool {
        // Each arm is cancel-safe: a change that is not taken stays in its channel.
        tokio::select! {
            change = self.service_changes.next() => change.is_some(),
            change = self.slice_changes.next() => change.is_some(),
            change = self.range_changes.next() => change.is_some(),
            change = self.node_changes.next() => change.is_some(),
            more = self.feed.changed() => more,
        }
    }
}

/// The table as this process has left it.
struct Keeper {
    instance: Instance,
    programmed: Programmed,
    recorder: Recorder,
    watch: Option<AsyncFd<TableWatch>>,
    told: Told,
    health_checks: HealthChecks,
    /// To who forgets what leads to Pods of before, and tells who waits for it.
    turns: UnboundedSender<Following>,
    /// Ranges to which there are routes of ours.
    routed: Vec<Range>,
    /// The addresses of all endpoints, as they were seen last.
    listed: BTreeSet<IpAddr>,
    /// None: nobody knows what is there.
    applied: Option<Arc<Ruleset>>,
    backoff: Duration,
}

impl Keeper {
    fn new(
        instance: Instance,
        programmed: Programmed,
        recorder: Recorder,
        turns: UnboundedSender<Following>,
    ) -> Self {
        // Before the first transaction, so that no end of the table goes unheard.
        let watch = watch(&table_name(&instance.id));
        Self {
            instance,
            programmed,
            recorder,
            watch,
            told: Told::default(),
            health_checks: HealthChecks::default(),
            turns,
            routed: Vec::new(),
            listed: BTreeSet::new(),
            applied: None,
            backoff: BACKOFF_MIN,
        }
    }

    async fn keep(mut self, mut sources: Sources) {
        loop {
            let seen = sources.look(&self.instance).await;
            if self.turn(seen).await == Turn::Again {
                continue;
            }
            // Cancel-safe: a change not taken stays in its channel, a message in its socket.
            let more = tokio::select! {
                more = sources.changed() => more,
                () = changed(&mut self.watch) => {
                    self.taken_away();
                    true
                }
            };
            if !more {
                return;
            }
        }
    }

    /// Makes the table what was seen, if it is not yet, and tells those who wait for it.
    async fn turn(&mut self, seen: Seen) -> Turn {
        let Seen { ruleset, refusals, table, health, known } = seen;
        if known == Known::NoPolicy {
            // Nobody has to wait for the first transaction.
            self.programmed.admission().publish(known.clone());
        }
        self.told.tell(refusals, &self.recorder);
        self.health_checks.update(health).await;
        self.route(&ruleset.instance.service_cidrs).await;
        let begun = Instant::now();
        let (mut turn, mut change) = (Turn::Done, None);
        if self.applied.as_deref() != Some(&ruleset) {
            self.programmed.pulse().begin(begun);
            let (before, wanted) = (self.applied.clone(), Arc::new(ruleset));
            match self.make(wanted.clone()).await {
                Ok(then) => turn = then,
                Err(error) => {
                    self.rest_after(&error).await;
                    return Turn::Again;
                }
            }
            self.programmed.pulse().rest();
            change = Some((before, wanted));
        }
        let (changed, gone) = (change.is_some(), self.gone(endpoints(&table.slices)));
        // Its end is the proxy's own.
        let _ = self.turns.send(Following { change, gone, table });
        self.programmed.admission().publish(known);
        if changed {
            sleep((begun.elapsed() * REST).min(REST_MAX)).await;
        }
        turn
    }

    /// Gives ranges that came later the routes that those of the beginning have from the runtime.
    async fn route(&mut self, ranges: &[Range]) {
        let later: Vec<Range> =
            ranges.iter().filter(|range| !self.instance.service_cidrs.contains(range)).copied().collect();
        let Some(link) = self.instance.link.clone().filter(|_| later != self.routed) else { return };
        let (before, wanted) = (self.routed.clone(), later.clone());
        let routed = tokio::task::spawn_blocking(move || outer::route(&link, &before, &wanted)).await;
        match routed {
            Ok(Ok(())) => self.routed = later,
            Ok(Err(error)) => tracing::warn!(%error, "a range of Services has no route"),
            Err(_) => {}
        }
    }

    /// A Pod that leaves is listed until it has ended; what leads to it then leads nowhere.
    fn gone(&mut self, listed: BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let gone = self.listed.difference(&listed).copied().collect();
        self.listed = listed;
        gone
    }

    /// One transaction.
    async fn make(&mut self, wanted: Arc<Ruleset>) -> Result<Turn, Error> {
        // Taken: after a failure nobody knows what is there, and the table is replaced.
        let before = self.applied.take();
        program(&wanted, before.as_deref()).await?;
        let by_others = changed_beside(&mut self.watch);
        (self.applied, self.backoff) = (Some(wanted), BACKOFF_MIN);
        if by_others {
            self.taken_away();
            return Ok(Turn::Again);
        }
        Ok(Turn::Done)
    }

    /// Longer after each failure: what is missing may be installed or loaded meanwhile.
    async fn rest_after(&mut self, error: &Error) {
        tracing::warn!(error = %chain(error), retry = ?self.backoff, "Services not programmed");
        self.programmed.pulse().failed(chain(error), Instant::now());
        self.programmed.fails();
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn taken_away(&mut self) {
        let table = table_name(&self.instance.id);
        tracing::warn!(table, "the nftables table of Services was changed by others, programming it again");
        // As upstream's kube-proxy names its node, whose UID it does not ask for.
        let name = Some(self.instance.node.clone());
        let about =
            ObjectReference { kind: Some("Node".into()), uid: name.clone(), name, ..Default::default() };
        let message = format!("Put back what others had taken away: the nftables table {table}");
        self.recorder.event(&about, EventType::Warning, "NetworkRepaired", message);
        self.applied = None;
    }
}

/// What comes after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing until something changes.
    Done,
    /// Another one at once.
    Again,
}

/// Changes the table, or replaces it when it is not as it was left: somebody flushed the ruleset.
async fn program(wanted: &Ruleset, before: Option<&Ruleset>) -> Result<(), Error> {
    let instance = &wanted.instance.id;
    if let Some(before) = before {
        let changed = match wanted.delta(before) {
            Some(batch) => commit(batch).await,
            None => apply(instance, wanted.change(before)).await.map_err(|error| chain(&error)),
        };
        match changed {
            Ok(()) => return Ok(()),
            Err(error) => tracing::info!(error, "the table was changed by others, replacing it"),
        }
    }
    apply(instance, wanted.script()).await
}

async fn commit(batch: Batch) -> Result<(), String> {
    let committed = tokio::task::spawn_blocking(move || batch.commit()).await;
    committed.map_err(|_| "interrupted".to_owned())?.map_err(|error| chain(&error))
}

/// Refusals that were told, so that each is told once as long as it lasts.
#[derive(Default)]
struct Told(Vec<(Option<String>, String)>);

impl Told {
    fn tell(&mut self, refusals: Vec<Refusal>, recorder: &Recorder) {
        let mut now = Vec::new();
        for Refusal { service, reason, .. } in refusals {
            let known = (service.metadata.uid.clone(), reason);
            if !self.0.contains(&known) {
                recorder.event(&reference(&*service), EventType::Warning, "InvalidExternalIP", &*known.1);
            }
            now.push(known);
        }
        self.0 = now;
    }
}

/// Without it Services work all the same, until somebody changes the table.
fn watch(table: &str) -> Option<AsyncFd<TableWatch>> {
    #[expect(deprecated, reason = "its successor is unsafe; the descriptor here is owned and stays the same")]
    let register = AsyncFd::new;
    let watch = TableWatch::open(table).map_err(|error| error.to_string());
    let watch = watch.and_then(|watch| register(watch).map_err(|error| error.to_string()));
    watch.inspect_err(|error| tracing::warn!(error, "cannot hear of changes of nftables by others")).ok()
}

/// Whether others have changed the table while a transaction of ours did. A large one may be lost on its way
/// here; that of others with it is not worth to do the large one again and again.
fn changed_beside(watch: &mut Option<AsyncFd<TableWatch>>) -> bool {
    let heard = watch.as_mut().map(|watch| watch.get_mut().heard());
    matches!(heard, Some(Ok(Heard { transactions: 2.., lost: false })))
}

/// Returns when the table has been changed, while nothing of ours changes it.
async fn changed(watch: &mut Option<AsyncFd<TableWatch>>) {
    while let Some(opened) = watch {
        let Ok(mut ready) = opened.readable_mut().await else { break };
        let heard = ready.get_inner_mut().heard();
        ready.clear_ready();
        match heard {
            Ok(heard) if heard != Heard::default() => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot hear of changes of nftables by others");
                *watch = None;
            }
        }
    }
    std::future::pending().await
}

/// Every address that the slices name, ready or not.
fn endpoints(slices: &[Arc<EndpointSlice>]) -> BTreeSet<IpAddr> {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    all.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok()).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn drain<K: client::Object>(changes: &mut Changes<K>) {
    while changes.try_next().is_some() {}
}

async fn apply(instance: &str, script: String) -> Result<(), Error> {
    let table = table_name(instance);
    let ran = tokio::task::spawn_blocking(move || command::run("nft", &["-f", "-"], script.as_bytes())).await;
    ran.map_err(|_| Error::Interrupted)?.map(drop).map_err(|source| Error::Program { table, source })
}

/// Deletes the instance's tables and says whether there was one.
pub async fn cleanup(instance: &str) -> Result<bool, Error> {
    let mut any = false;
    for family in Family::ALL {
        any |= delete(instance, family).await?;
    }
    Ok(any)
}

async fn delete(instance: &str, family: Family) -> Result<bool, Error> {
    let script = format!("delete table {} {}\n", family.word(), table_name(instance));
    match apply(instance, script).await {
        Ok(()) => Ok(true),
        // Without the program nobody has made a table.
        Err(Error::Program { source: CommandError::Missing { .. }, .. }) => Ok(false),
        Err(Error::Program { source: CommandError::Failed { output, .. }, .. })
            // The second where the kernel has no IPv6.
            if ["No such file or directory", "Operation not supported"]
                .iter()
                .any(|said| output.stderr.contains(said)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
