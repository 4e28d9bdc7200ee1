//! The status of PodDisruptionBudgets: how many of their Pods may be evicted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::Kinds;
use api::selector::LabelSelector;
use client::events::{EventType, Recorder};
use client::{Change, Client, Error, Informer, key_of, object_path};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::conditions::status_of;
use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::intstr::{Round, scaled};
use crate::ownership::{controller_among, controller_of};
use crate::workqueue::Next;

/// Upstream's DeletionTimeout: an evicted Pod that is still there then was not deleted.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const CONDITION: &str = "DisruptionAllowed";

struct Disruption {
    client: Client,
    kinds: watch::Receiver<Arc<Kinds>>,
    recorder: Recorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Disruption {
        client: context.client.clone(),
        kinds: context.kinds.clone(),
        recorder: context.recorder("controllermanager", tasks),
        budgets: context.informers.of(),
        pods: context.informers.of(),
    };
    let budgets = this.budgets.clone();
    let controller = Controller::new("disruption")
        .watches(&this.budgets, |change| match change {
            Change::Added(budget) | Change::Modified { new: budget, .. } => vec![key_of(&**budget)],
            Change::Deleted(_) => Vec::new(),
        })
        .watches(&this.pods, move |change| {
            let now = change.object();
            let before = if let Change::Modified { old, .. } = change { old } else { now };
            let concerned = budgets.filter(|budget| chooses(budget, now) || chooses(budget, before));
            concerned.iter().map(|budget| key_of(&**budget)).collect()
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn chooses(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let none = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    budget.metadata.namespace == pod.metadata.namespace
        && selector.is_some()
        && LabelSelector::from_meta(selector).is_ok_and(|selector| selector.matches(labels))
}

impl Disruption {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(budget) = self.budgets.get(namespace, name) else { return Ok(Next::Done) };
        let pods = self.pods.filter(|pod| chooses(&budget, pod));
        if pods.is_empty() {
            say(&self.recorder, &*budget, EventType::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let scale = self.expected(&budget, &pods).await?;
        let now = Timestamp::now();
        let status = status(&budget, &pods, scale, now);
        let again = status.disrupted_pods.as_ref().and_then(|pods| pods.values().map(|time| time.0).min());
        if budget.status.as_ref() != Some(&status) {
            let mut changed = (*budget).clone();
            changed.status = Some(status);
            unless_gone(self.client.replace_status(&changed).await)?;
        }
        Ok(again.map_or(Next::Done, |first| {
            let left = now.duration_until(first).saturating_add(DELETION_TIMEOUT);
            Next::After(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
        }))
    }
    /// How many Pods the budget reckons with: those of the controllers of its Pods, or just its
    /// Pods where it says how many must stay.
    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, Error> {
        let spec = budget.spec.as_ref();
        let counts_pods =
            matches!(spec.and_then(|spec| spec.min_available.as_ref()), Some(IntOrString::Int(_)))
                && spec.is_some_and(|spec| spec.max_unavailable.is_none());
        if counts_pods {
            return Ok(i32::try_from(pods.len()).unwrap_or(i32::MAX));
        }
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else { continue };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if let Some((uid, replicas)) = self.scale(namespace, owner).await? {
                scales.insert(uid, replicas);
                // A ReplicaSet counts as its Deployment; it is asked for only once.
                scales.entry(owner.uid.clone()).or_insert(0);
            }
        }
        Ok(scales.values().fold(0, |sum, replicas| sum.saturating_add(*replicas)))
    }

    /// The uid and the replicas of a controller; of the Deployment when it is a ReplicaSet of one.
    async fn scale(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, Error> {
        let Some(object) = self.read(namespace, owner).await? else { return Ok(None) };
        let owners: Vec<OwnerReference> =
            serde_json::from_value(object["metadata"]["ownerReferences"].clone()).unwrap_or_default();
        let above = controller_among(&owners)
            .filter(|above| above.kind == "Deployment" && owner.kind == "ReplicaSet");
        let (uid, object) = match above {
            Some(above) => match self.read(namespace, above).await? {
                Some(deployment) => (above.uid.clone(), deployment),
                None => (owner.uid.clone(), object),
            },
            None => (owner.uid.clone(), object),
        };
        let replicas = object["spec"]["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok());
        Ok(replicas.map(|replicas| (uid, replicas)))
    }

    /// The object an owner reference means, if it is there and can be scaled.
    async fn read(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Value>, Error> {
        let kinds = self.kinds.borrow().clone();
        let Some(kind) = kinds.by_kind(&owner.api_version, &owner.kind) else { return Ok(None) };
        if kind.subresource("scale").is_none() {
            return Ok(None);
        }
        let path = object_path(&kind.group, &kind.version, &kind.plural, namespace, &owner.name);
        let object: Value = match self.client.raw(Method::GET, &path, "", Default::default()).await {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => serde_json::from_slice(&answer?).map_err(|source| Error::Decode { path, source })?,
        };
        Ok((object["metadata"]["uid"] == owner.uid.as_str()).then_some(object))
    }
}

/// Upstream's updatePdbStatus.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => expected.saturating_sub(scaled(max, expected, Round::Up)).max(0),
        (None, Some(min)) => scaled(min, expected, Round::Up),
        (None, None) => 0,
    };
    let disrupted = still_disrupted(budget, pods, now);
    let counts = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none()
            && !disrupted.contains_key(name)
            && status_of(pod, "Ready") == "True"
    };
    let healthy = i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    PodDisruptionBudgetStatus {
        conditions: Some(conditions(budget, allowed, now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    }
}

/// Evicted Pods that are still there, and not yet given up.
fn still_disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let there = |name: &str| {
        pods.iter().any(|pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.deletion_timestamp.is_none()
        })
    };
    let recent = |time: &Time| now.duration_since(time.0) < DELETION_TIMEOUT;
    known.into_iter().filter(|(name, time)| there(name) && recent(time)).collect()
}

fn conditions(budget: &PodDisruptionBudget, allowed: i32, now: Timestamp) -> Vec<Condition> {
    let mut conditions =
        budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let before = conditions.iter().position(|one| one.type_ == CONDITION);
    let since = before.map(|at| &conditions[at]).filter(|one| one.status == status);
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.map_or(Time(now), |one| one.last_transition_time.clone()),
    };
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn budget(spec: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "namespace": "a", "generation": 1}, "spec": spec}),
        )
        .unwrap()
    }

    fn pod(name: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_is_healthy_beyond_what_is_wanted_may_go() {
        let pods = [pod("x", "True"), pod("y", "True"), pod("z", "False")];
        let counted = status(&budget(json!({"minAvailable": 1})), &pods, 3, NOW);
        assert_eq!(
            (counted.current_healthy, counted.desired_healthy, counted.disruptions_allowed),
            (Some(2), Some(1), Some(1))
        );
        let condition = &counted.conditions.unwrap()[0];
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "SufficientPods"));
        let counted = status(&budget(json!({"maxUnavailable": "40%"})), &pods, 3, NOW);
        assert_eq!(
            (counted.desired_healthy, counted.disruptions_allowed),
            (Some(1), Some(1)),
            "40 % of 3 is 2, rounded up"
        );
        let counted = status(&budget(json!({"maxUnavailable": 0})), &pods, 3, NOW);
        assert_eq!(counted.disruptions_allowed, Some(0));
    }

    #[test]
    fn an_evicted_pod_is_not_healthy_until_it_is_given_up() {
        let mut evicted = budget(json!({"minAvailable": 1}));
        let status_before = json!({"currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 2,
            "disruptedPods": {"x": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"}});
        evicted.status = Some(serde_json::from_value(status_before).unwrap());
        let pods = [pod("x", "True"), pod("y", "True")];
        let counted = status(&evicted, &pods, 2, NOW);
        assert_eq!((counted.current_healthy, counted.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(counted.disrupted_pods.unwrap().len(), 1);
        let later = NOW.checked_add(DELETION_TIMEOUT).unwrap();
        assert_eq!(status(&evicted, &pods, 2, later).disruptions_allowed, Some(1));
    }

    #[test]
    fn a_budget_chooses_by_label_in_its_namespace() {
        let selecting = budget(json!({"selector": {"matchLabels": {"app": "web"}}}));
        assert!(chooses(&selecting, &pod("x", "True")));
        assert!(chooses(&budget(json!({"selector": {}})), &pod("x", "True")), "an empty one chooses all");
        assert!(!chooses(&budget(json!({})), &pod("x", "True")), "none chooses none");
    }
}
