//! The loop that keeps the node's table as it should be.

use std::time::Duration;

use client::{Changes, Reflector};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::command::{self, CommandError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::render::table_name;
use crate::{Instance, Programmed, Ruleset, ruleset};

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
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
    instance: Instance,
    programmed: Programmed,
    shutdown: CancellationToken,
) {
    programmed.follow(slices.clone());
    let ready = async {
        // A table from half the Services would cut the connections of the others.
        services.ready().await;
        slices.ready().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        // Cancel-safe: a transaction that began is finished by its own thread.
        shutdown.run_until_cancelled(keep(&services, &slices, &instance, &programmed)).await;
    }
}

async fn keep(
    services: &Reflector<Service>,
    slices: &Reflector<EndpointSlice>,
    instance: &Instance,
    programmed: &Programmed,
) {
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let (mut applied, mut backoff): (Option<Ruleset>, _) = (None, BACKOFF_MIN);
    loop {
        drain(&mut service_changes);
        drain(&mut slice_changes);
        let listed = slices.list();
        let wanted = ruleset(&services.list(), &listed, instance);
        if applied.as_ref() == Some(&wanted) {
            programmed.publish(listed);
        } else {
            // Taken: after a failure nobody knows what is there, and the table is replaced.
            match program(&wanted, applied.take()).await {
                Ok(()) => (applied, backoff) = (Some(wanted), BACKOFF_MIN),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), retry = ?backoff, "Services not programmed");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            }
            programmed.publish(listed);
            sleep(INTERVAL_MIN).await;
        }
        // Cancel-safe: a change not taken stays in its channel.
        let more = tokio::select! {
            change = service_changes.next() => change.is_some(),
            change = slice_changes.next() => change.is_some(),
        };
        if !more {
            return;
        }
    }
}

/// Changes the table, or replaces it when it is not as it was left: somebody flushed the ruleset.
async fn program(wanted: &Ruleset, before: Option<Ruleset>) -> Result<(), Error> {
    let instance = &wanted.instance.id;
    if let Some(before) = before {
        match apply(instance, wanted.change(&before)).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::info!(error = %chain(&error), "the table was changed by others, replacing it")
            }
        }
    }
    apply(instance, wanted.script()).await
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn drain<K>(changes: &mut Changes<K>) {
    while changes.try_next().is_some() {}
}

async fn apply(instance: &str, script: String) -> Result<(), Error> {
    let table = table_name(instance);
    let ran = tokio::task::spawn_blocking(move || command::run("nft", &["-f", "-"], script.as_bytes())).await;
    ran.map_err(|_| Error::Interrupted)?.map(drop).map_err(|source| Error::Program { table, source })
}

/// Deletes the instance's table and says whether there was one.
pub async fn cleanup(instance: &str) -> Result<bool, Error> {
    let script = format!("delete table ip {}\n", table_name(instance));
    match apply(instance, script).await {
        Ok(()) => Ok(true),
        // Without the program nobody has made a table.
        Err(Error::Program { source: CommandError::Missing { .. }, .. }) => Ok(false),
        Err(Error::Program { source: CommandError::Failed { output, .. }, .. })
            if output.stderr.contains("No such file or directory") =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
