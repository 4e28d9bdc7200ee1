//! Sets the replicas of what a HorizontalPodAutoscaler points at, so that its Pods use what they are to use.
//!
//! A round every 15 seconds, as upstream: the target's scale, what its Pods use (`metrics`), what that asks
//! for (`replicas`), what of it is done now (`limits`), and what is told of it (`status`).

mod limits;
mod metrics;
mod replicas;
mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::kinds::{Kind, Kinds};
use api::quantity::Quantity;
use api::selector::LabelSelector;
use client::events::{EventType, Recorder};
use client::{Change, Client, Error, Informer, key_of, object_path};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::limits::{Bounds, History};
use self::metrics::PodMetrics;
use self::replicas::{Proposal, Target, Tolerance, Wanted};
use self::status::Draft;
use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

/// Upstream's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

struct Autoscalers {
    client: Client,
    kinds: watch::Receiver<Arc<Kinds>>,
    recorder: Recorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    remembered: Mutex<HashMap<String, Remembered>>,
}

/// What is known of an autoscaler from one round to the next.
#[derive(Default)]
struct Remembered {
    history: History,
    /// Of its target's Pods.
    selector: Option<LabelSelector>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Autoscalers {
        client: context.client.clone(),
        kinds: context.kinds.clone(),
        recorder: context.recorder("horizontal-pod-autoscaler", tasks),
        autoscalers: context.informers.of(),
        pods: context.informers.of(),
        remembered: Mutex::default(),
    };
    let controller = Controller::new("horizontal-pod-autoscaler")
        .watches(&this.autoscalers, |change| match change {
            Change::Added(autoscaler) | Change::Deleted(autoscaler) => vec![key_of(&**autoscaler)],
            Change::Modified { old, new } if old.spec != new.spec => vec![key_of(&**new)],
            Change::Modified { .. } => Vec::new(),
        })
        .reads(&this.pods);
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

/// Where a target's scale is, and what it is.
struct Scaled {
    path: String,
    scale: Scale,
}

impl Scaled {
    fn replicas(&self) -> i32 {
        self.scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default()
    }
}

impl Autoscalers {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(autoscaler) = self.autoscalers.get(namespace, name) else {
            self.remembered().remove(key);
            return Ok(Next::Done);
        };
        let mut draft = Draft::of(&autoscaler, Timestamp::now());
        self.round(key, &autoscaler, &mut draft).await;
        if autoscaler.status.as_ref() != Some(&draft.status) {
            let mut written = HorizontalPodAutoscaler::clone(&autoscaler);
            written.status = Some(draft.status);
            unless_gone(self.client.replace_status(&written).await)?;
        }
        Ok(Next::After(PERIOD))
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn round(&self, key: &str, autoscaler: &HorizontalPodAutoscaler, draft: &mut Draft) {
        let spec = &autoscaler.spec;
        let (namespace, _) = split(key);
        let warn = |reason: &str, message: String| {
            say(&self.recorder, autoscaler, EventType::Warning, reason, message)
        };
        let scaled = match self.scale_of(namespace, spec).await {
            Ok(scaled) => scaled,
            Err(error) => {
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {error}");
                draft.set("AbleToScale", false, "FailedGetScale", message);
                return warn("FailedGetScale", error);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        draft.set("AbleToScale", true, "SucceededGetScale", message);
        let current = scaled.replicas();
        self.remembered().entry(key.to_owned()).or_default().history.begin(current, draft.now);
        let decided = match bounds_first(spec, current) {
            Some(Forced::Disabled) => {
                let message = "scaling is disabled since the replica count of the target is zero";
                draft.set("ScalingActive", false, "ScalingDisabled", message);
                draft.status.current_metrics = None;
                return draft.count(current, current);
            }
            Some(Forced::To(replicas, reason)) => {
                draft.status.current_metrics = None;
                Ok((replicas, reason.to_owned()))
            }
            None => self.by_metrics(key, autoscaler, &scaled, draft).await,
        };
        match decided {
            Err(error) => {
                draft.status.current_replicas = Some(current);
                warn("FailedComputeMetricsReplicas", error);
            }
            Ok((desired, _)) if desired == current => draft.count(current, current),
            Ok((desired, reason)) => self.rescale(key, autoscaler, scaled, (desired, reason), draft).await,
        }
    }

    async fn rescale(
        &self,
        key: &str,
        autoscaler: &HorizontalPodAutoscaler,
        scaled: Scaled,
        (desired, reason): (i32, String),
        draft: &mut Draft,
    ) {
        let current = scaled.replicas();
        if let Err(error) = self.write_scale(scaled, desired).await {
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            draft.set("AbleToScale", false, "FailedUpdateScale", message);
            draft.status.current_replicas = Some(current);
            let message = format!("New size: {desired}; reason: {reason}; error: {error}");
            return say(&self.recorder, autoscaler, EventType::Warning, "FailedRescale", message);
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        draft.set("AbleToScale", true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {reason}");
        say(&self.recorder, autoscaler, EventType::Normal, "SuccessfulRescale", message);
        let behavior = autoscaler.spec.behavior.as_ref();
        self.remembered()
            .entry(key.to_owned())
            .or_default()
            .history
            .scaled(behavior, current, desired, draft.now);
        draft.count(current, desired);
    }

    /// What the metrics ask for within what is allowed, with the reason.
    async fn by_metrics(
        &self,
        key: &str,
        autoscaler: &HorizontalPodAutoscaler,
        scaled: &Scaled,
        draft: &mut Draft,
    ) -> Result<(i32, String), String> {
        let spec = &autoscaler.spec;
        let current = scaled.replicas();
        let pods = self.pods_of(key, autoscaler, scaled, draft)?;
        let (proposed, metric) = self.compute(autoscaler, current, &pods, draft).await?;
        let mut remembered = self.remembered();
        let history = &mut remembered.entry(key.to_owned()).or_default().history;
        let bounds = Bounds { current, min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas };
        let decision = history.decide(spec.behavior.as_ref(), bounds, proposed, draft.now);
        drop(remembered);
        draft.set("AbleToScale", true, decision.able.0, decision.able.1);
        let (limited, reason, message) = decision.limited;
        draft.set("ScalingLimited", limited, reason, message);
        let why = if proposed > current {
            format!("{metric} above target")
        } else {
            "All metrics below target".to_owned()
        };
        Ok((decision.replicas, why))
    }

    /// The Pods of the target: nobody else's autoscaler may count them.
    fn pods_of(
        &self,
        key: &str,
        autoscaler: &HorizontalPodAutoscaler,
        scaled: &Scaled,
        draft: &mut Draft,
    ) -> Result<TargetPods, String> {
        let mut refuse = |event: &str, reason: &str, message: String, condition: Option<&str>| {
            draft.set("ScalingActive", false, reason, condition.unwrap_or(&message));
            say(&self.recorder, autoscaler, EventType::Warning, event, message.clone());
            message
        };
        let text =
            scaled.scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        if text.is_empty() {
            let condition = Some("the HPA target's scale is missing a selector");
            return Err(refuse(
                "SelectorRequired",
                "InvalidSelector",
                "selector is required".to_owned(),
                condition,
            ));
        }
        let selector = LabelSelector::parse(&text).map_err(|error| {
            let message =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            refuse("InvalidSelector", "InvalidSelector", message, None)
        })?;
        let namespace = autoscaler.metadata.namespace.clone().unwrap_or_default();
        let selected = |selector: &LabelSelector, pod: &Pod| {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            selector.matches(&labels)
        };
        let pods = self
            .pods
            .filter(|pod| pod.metadata.namespace.as_deref() == Some(&namespace) && selected(&selector, pod));
        let mut remembered = self.remembered();
        remembered.entry(key.to_owned()).or_default().selector = Some(selector);
        let mut counting: Vec<&String> = remembered
            .iter()
            .filter(|(other, known)| {
                split(other).0 == namespace
                    && known
                        .selector
                        .as_ref()
                        .is_some_and(|selector| pods.iter().any(|pod| selected(selector, pod)))
            })
            .map(|(other, _)| other)
            .collect();
        counting.sort();
        if counting.len() > 1 {
            let counting: Vec<String> =
                counting.into_iter().map(|key| format!("{{{} {namespace}}}", split(key).1)).collect();
            let message =
                format!("pods by selector {text} are controlled by multiple HPAs: [{}]", counting.join(" "));
            return Err(refuse("AmbiguousSelector", "AmbiguousSelector", message, None));
        }
        Ok(TargetPods { namespace, selector: text, pods })
    }

    /// The greatest of what the metrics propose, and which of them it was.
    async fn compute(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        current: i32,
        pods: &TargetPods,
        draft: &mut Draft,
    ) -> Result<(i32, String), String> {
        let spec = &autoscaler.spec;
        let specs = spec.metrics.as_deref().unwrap_or_default();
        let tolerance = tolerance(spec);
        let read = metrics::read(&self.client, &pods.namespace, &pods.selector).await;
        let (mut best, mut statuses) = (None::<(i32, String)>, Vec::new());
        let (mut invalid, mut first) = (0, None);
        for one in specs {
            match proposal(one, current, pods, &read, tolerance, draft.now) {
                Ok(found) => {
                    statuses.push(status::measured(found.resource, found.container, &found.proposal));
                    let replicas = found.proposal.replicas;
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                        best = Some((replicas, found.name));
                    }
                }
                Err(failure) => {
                    say(
                        &self.recorder,
                        autoscaler,
                        EventType::Warning,
                        failure.reason,
                        failure.cause.clone(),
                    );
                    invalid += 1;
                    // Upstream keeps its place, empty.
                    statuses.push(Default::default());
                    first.get_or_insert(failure);
                }
            }
        }
        draft.status.current_metrics = Some(statuses);
        // What cannot be read may well ask for more: nothing is taken away then.
        if let Some(failure) = first
            && best.as_ref().is_none_or(|(replicas, _)| *replicas < current)
        {
            let message = format!("the HPA was unable to compute the replica count: {}", failure.cause);
            draft.set("ScalingActive", false, failure.reason, message);
            let (count, error) = (specs.len(), failure.error);
            return Err(format!(
                "invalid metrics ({invalid} invalid out of {count}), first error is: {error}"
            ));
        }
        let (replicas, name) = best.unwrap_or((current, String::new()));
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        draft.set("ScalingActive", true, "ValidMetricFound", message);
        Ok((replicas, name))
    }

    async fn scale_of(&self, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Result<Scaled, String> {
        let target = &spec.scale_target_ref;
        let kinds = self.kinds.borrow().clone();
        let api_version = target.api_version.as_deref().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let of_kind = |kind: &&Arc<Kind>| kind.group == group && kind.kind == target.kind;
        let kind = kinds.by_kind(api_version, &target.kind).or_else(|| kinds.all().iter().find(of_kind));
        let kind = kind.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", target.kind))?;
        let path = object_path(&kind.group, &kind.version, &kind.plural, namespace, &target.name);
        let path = format!("{path}/scale");
        let body = self.client.raw(Method::GET, &path, "", Default::default()).await;
        let body = body.map_err(|error| error.to_string())?;
        let scale = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(Scaled { path, scale })
    }

    async fn write_scale(&self, scaled: Scaled, replicas: i32) -> Result<(), String> {
        let Scaled { path, mut scale } = scaled;
        scale.spec.get_or_insert_default().replicas = Some(replicas);
        let body = serde_json::to_vec(&scale).map_err(|error| error.to_string())?;
        let written = self.client.raw(Method::PUT, &path, "application/json", body.into()).await;
        written.map(drop).map_err(|error| error.to_string())
    }
}

/// What is decided before any metric is read.
#[derive(Debug, PartialEq, Eq)]
enum Forced {
    Disabled,
    To(i32, &'static str),
}

fn bounds_first(spec: &HorizontalPodAutoscalerSpec, current: i32) -> Option<Forced> {
    let min = spec.min_replicas.unwrap_or(1);
    if current == 0 && min != 0 {
        Some(Forced::Disabled)
    } else if current > spec.max_replicas {
        Some(Forced::To(spec.max_replicas, "Current number of replicas above Spec.MaxReplicas"))
    } else if current < min {
        Some(Forced::To(min, "Current number of replicas below Spec.MinReplicas"))
    } else {
        None
    }
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let of = |rules: Option<&HPAScalingRules>| {
        let tolerance = rules?.tolerance.as_ref()?.0.parse::<Quantity>().ok()?;
        Some(tolerance.as_f64())
    };
    let (behavior, usual) = (spec.behavior.as_ref(), Tolerance::default());
    Tolerance {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())).unwrap_or(usual.up),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())).unwrap_or(usual.down),
    }
}

/// The Pods that a target's scale selects.
struct TargetPods {
    namespace: String,
    selector: String,
    pods: Vec<Arc<Pod>>,
}

/// A metric that was read.
struct Found<'a> {
    resource: &'a str,
    container: Option<&'a str>,
    proposal: Proposal,
    name: String,
}

/// A metric that was not: the reason, why, and what failed by it.
struct Failure {
    reason: &'static str,
    cause: String,
    error: String,
}

fn proposal<'a>(
    spec: &'a MetricSpec,
    current: i32,
    pods: &TargetPods,
    read: &Result<Vec<PodMetrics>, String>,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Found<'a>, Failure> {
    let (resource, container, target) = match (&spec.resource, &spec.container_resource) {
        (Some(source), _) => (source.name.as_str(), None, &source.target),
        (None, Some(source)) => (source.name.as_str(), Some(source.container.as_str()), &source.target),
        (None, None) => {
            let (reason, cause, error) = metrics::unserved(spec, &pods.namespace);
            return Err(Failure { reason, cause, error });
        }
    };
    let (reason, what, name) = match container {
        None => ("FailedGetResourceMetric", format!("{resource} resource"), format!("{resource} resource")),
        Some(container) => (
            "FailedGetContainerResourceMetric",
            format!("{container} container"),
            format!("{resource} container resource"),
        ),
    };
    let failed = |cause: String| Failure {
        reason,
        error: format!("failed to get {what} metric value: {cause}"),
        cause,
    };
    let (target, kind, name) = match target_of(target) {
        Some(target @ Target::Utilization(_)) => {
            (target, "utilization", format!("{name} utilization (percentage of request)"))
        }
        Some(target @ Target::Average(_)) => (target, "usage", name),
        None => {
            return Err(failed(
                "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"
                    .to_owned(),
            ));
        }
    };
    let unread = |error: &str| format!("unable to get metrics for resource {resource}: {error}");
    let wanted = Wanted { resource, container, target, tolerance };
    let samples = match read {
        Ok(read) => {
            metrics::samples(read, &pods.namespace, resource, container).map_err(|error| unread(&error))
        }
        Err(error) => Err(unread(error)),
    };
    let proposed = samples.and_then(|samples| replicas::propose(current, &pods.pods, samples, wanted, now));
    let proposal = proposed.map_err(|error| failed(format!("failed to get {resource} {kind}: {error}")))?;
    Ok(Found { resource, container, proposal, name })
}

fn target_of(target: &MetricTarget) -> Option<Target> {
    let average = target.average_value.as_ref().and_then(|value| value.0.parse::<Quantity>().ok());
    let average = average.map(|value| Target::Average(value.milli_value()));
    average.or(target.average_utilization.map(Target::Utilization))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_come_before_metrics() {
        let spec =
            HorizontalPodAutoscalerSpec { min_replicas: Some(2), max_replicas: 5, ..Default::default() };
        assert_eq!(bounds_first(&spec, 0), Some(Forced::Disabled));
        assert_eq!(
            bounds_first(&spec, 1),
            Some(Forced::To(2, "Current number of replicas below Spec.MinReplicas"))
        );
        assert_eq!(
            bounds_first(&spec, 9),
            Some(Forced::To(5, "Current number of replicas above Spec.MaxReplicas"))
        );
        assert_eq!(bounds_first(&spec, 3), None);
    }
}
