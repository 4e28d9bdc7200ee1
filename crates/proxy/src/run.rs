//! The loop that keeps the node's table as it should be.

use std::time::{Duration, Instant};

use client::events::{EventType, Recorder, reference};
use client::{Changes, Informer};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::command::{self, CommandError};
use sys::netlink::{Heard, TableWatch, conntrack};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::flows::{is_stale, may_be_stale};
use crate::render::table_name;
use crate::{Family, Host, Instance, Programmed, Refusal, Ruleset, ruleset};

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

/// The least time between the ends of two transactions: a rollout changes slices many
/// times a second, and each transaction is a process.
const INTERVAL_MIN: Duration = Duration::from_millis(20);

/// Programs Services until `shutdown`. The table stays then: Pods go on, and
/// so do their connections. [`cleanup`] removes it.
pub async fn run(
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    instance: Instance,
    programmed: Programmed,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    programmed.follow(slices.clone());
    let ready = async {
        // A table from half the Services would cut the connections of the others.
        services.synced().await;
        slices.synced().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        // Cancel-safe: a transaction that began is finished by its own thread.
        shutdown.run_until_cancelled(keep(&services, &slices, &instance, &programmed, &recorder)).await;
    }
}

async fn keep(
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    instance: &Instance,
    programmed: &Programmed,
    recorder: &Recorder,
) {
    // Before the first transaction, so that no end of the table goes unheard.
    let mut watch = watch(&table_name(&instance.id));
    let mut told = Told::default();
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let (mut applied, mut backoff): (Option<Ruleset>, _) = (None, BACKOFF_MIN);
    let mut by_others = false;
    loop {
        if std::mem::take(&mut by_others) {
            tracing::warn!("the nftables table of Services was changed by others, programming it again");
            applied = None;
        }
        drain(&mut service_changes);
        drain(&mut slice_changes);
        let listed = slices.list();
        let known = services.list();
        let (wanted, refusals) = ruleset(&known, &listed, instance, &Host::look(&known));
        told.tell(refusals, recorder);
        if applied.as_ref() == Some(&wanted) {
            programmed.publish(listed);
        } else {
            programmed.pulse().begin(Instant::now());
            // Taken: after a failure nobody knows what is there, and the table is replaced.
            let before = applied.take();
            match program(&wanted, before.as_ref()).await {
                Ok(()) => {
                    by_others = changed_beside(&mut watch);
                    forget_stale_flows(before, &wanted).await;
                    (applied, backoff) = (Some(wanted), BACKOFF_MIN);
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), retry = ?backoff, "Services not programmed");
                    programmed.pulse().failed(chain(&error), Instant::now());
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            }
            programmed.pulse().rest();
            programmed.publish(listed);
            sleep(INTERVAL_MIN).await;
        }
        if by_others {
            continue;
        }
        // Cancel-safe: a change not taken stays in its channel, a message in its socket.
        let more = tokio::select! {
            change = service_changes.next() => change.is_some(),
            change = slice_changes.next() => change.is_some(),
            () = changed(&mut watch) => {
                by_others = true;
                true
            }
        };
        if !more {
            return;
        }
    }
}

/// Changes the table, or replaces it when it is not as it was left: somebody flushed the ruleset.
async fn program(wanted: &Ruleset, before: Option<&Ruleset>) -> Result<(), Error> {
    let instance = &wanted.instance.id;
    if let Some(before) = before {
        match apply(instance, wanted.change(before)).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::info!(error = %chain(&error), "the table was changed by others, replacing it")
            }
        }
    }
    apply(instance, wanted.script()).await
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

/// After the rules have changed: no packet of such a flow is led anew before it is forgotten.
async fn forget_stale_flows(before: Option<Ruleset>, now: &Ruleset) {
    let Some(which) = may_be_stale(before.as_ref(), now) else { return };
    let now = now.clone();
    let forgotten = tokio::task::spawn_blocking(move || {
        conntrack::forget(which, |flow| is_stale(flow, before.as_ref(), &now))
    });
    match forgotten.await {
        Ok(Ok(count)) if count > 0 => tracing::debug!(count, "forgot flows to Pods that are gone"),
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "flows may go on to Pods that are gone"),
    }
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
