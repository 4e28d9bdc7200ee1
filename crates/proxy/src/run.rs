//! The loop that keeps the node's table as it should be.

use std::time::Duration;

use client::{Changes, Client, ListOptions, Reflector};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::command::{self, CommandError};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::render::table_name;
use crate::{Instance, ruleset};

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

/// Programs Services until `shutdown`. The table stays then: Pods go on, and
/// so do their connections. [`cleanup`] removes it.
pub async fn run(client: Client, instance: Instance, shutdown: CancellationToken) {
    let client = client.named("kube-proxy");
    let mut tasks = JoinSet::new();
    let options = ListOptions::default;
    let services = Reflector::<Service>::spawn(client.clone(), "", options(), &mut tasks, shutdown.clone());
    let slices = Reflector::<EndpointSlice>::spawn(client, "", options(), &mut tasks, shutdown.clone());
    let ready = async {
        // A table from half the Services would cut the connections of the others.
        services.ready().await;
        slices.ready().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        // Cancel-safe: a transaction that began is finished by its own thread.
        shutdown.run_until_cancelled(keep(&services, &slices, &instance)).await;
    }
    while tasks.join_next().await.is_some() {}
}

async fn keep(services: &Reflector<Service>, slices: &Reflector<EndpointSlice>, instance: &Instance) {
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let (mut applied, mut backoff) = (None, BACKOFF_MIN);
    loop {
        drain(&mut service_changes);
        drain(&mut slice_changes);
        let script = ruleset(&services.list(), &slices.list(), instance).script();
        if applied.as_ref() != Some(&script) {
            match apply(&instance.id, script.clone()).await {
                Ok(()) => (applied, backoff) = (Some(script), BACKOFF_MIN),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, retry = ?backoff, "Services not programmed");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            }
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

fn drain<K>(changes: &mut Changes<K>) {
    while changes.try_next().is_some() {}
}

async fn apply(instance: &str, script: String) -> Result<(), Error> {
    let table = table_name(instance);
    let ran = tokio::task::spawn_blocking(move || command::run("nft", &["-f", "-"], script.as_bytes())).await;
    ran.map_err(|_| Error::Interrupted)?.map(drop).map_err(|source| Error::Program { table, source })
}

/// Deletes the instance's table, if there is one.
pub async fn cleanup(instance: &str) -> Result<(), Error> {
    let table = table_name(instance);
    apply(instance, format!("table ip {table}\ndelete table ip {table}\n")).await
}
