//! Starts all controllers.

use std::sync::Arc;

use api::kinds::Kinds;
use client::{Client, Informers};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::census::{self, Census};
use crate::context::{Config, Context};
use crate::{
    certificates, cluster_role_aggregation, cron_job, daemon_set, deployment, disruption, endpoint_slice,
    endpoint_slice_mirroring, ephemeral_volume, garbage_collector, horizontal_pod_autoscaler, job,
    load_balancer, namespace, node_lifecycle, pod_gc, replica_set, resource_quota, service_account,
    service_account_token, service_addresses, stateful_set, taint_eviction, ttl_after_finished, volume,
};

/// Those that need nothing but the context.
const CONTROLLERS: [fn(&Context, &mut JoinSet<()>); 23] = [
    namespace::spawn,
    service_account::spawn,
    service_account_token::spawn,
    certificates::spawn,
    cluster_role_aggregation::spawn,
    node_lifecycle::spawn,
    taint_eviction::spawn,
    volume::spawn,
    ephemeral_volume::spawn,
    endpoint_slice::spawn,
    endpoint_slice_mirroring::spawn,
    load_balancer::spawn,
    service_addresses::spawn,
    pod_gc::spawn,
    disruption::spawn,
    replica_set::spawn,
    deployment::spawn,
    stateful_set::spawn,
    job::spawn,
    cron_job::spawn,
    ttl_after_finished::spawn,
    horizontal_pod_autoscaler::spawn,
    daemon_set::spawn,
];

/// Runs all controllers until `shutdown`, on the kinds that the server says it serves.
pub async fn run(
    client: Client,
    kinds: watch::Receiver<Arc<Kinds>>,
    informers: Informers,
    config: Config,
    shutdown: CancellationToken,
) {
    let client = client.named("kube-controller-manager");
    let mut tasks = JoinSet::new();
    let context = Context { client, kinds, informers, config, shutdown };
    for spawn in CONTROLLERS {
        spawn(&context, &mut tasks);
    }
    let (mut census, (missing, ready)) = (Census::default(), census::readiness());
    garbage_collector::spawn(&context, &mut census, ready, &mut tasks);
    resource_quota::spawn(&context, &mut census, &mut tasks);
    census.start(&context.client, context.kinds.clone(), missing, &mut tasks, &context.shutdown);
    client::tasks::finish(tasks).await;
}
