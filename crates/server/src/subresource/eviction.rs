//! `pods/eviction`: a deletion that asks the disruption budgets first.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::meta::Object as _;
use api::selector::LabelSelector;
use api::status::Status;
use serde_json::{Value, json};
use store::{Entry, Store};
use wire::Response;

use super::binding::set_condition;
use crate::admission;
use crate::call::Call;
use crate::decoded::{Decoded, Form};
use crate::delete::{self, DeleteOptions};
use crate::materialized::Materialized;
use crate::object;
use crate::state::{Draft, seconds, store_failed};

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Disruptions a budget may remember: upstream's MaxDisruptedPodSize.
const DISRUPTED_MAX: usize = 2_000;

/// How often a Pod or a budget may change under an eviction: upstream's EvictionsRetry.
const TRIES: usize = 20;

/// Answers `POST pods/NAME/eviction`.
pub(crate) async fn evict(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let mut warnings = Vec::new();
    let eviction = super::decode_body(call, body, &mut warnings)?;
    let (given, asked) = (eviction.meta().name(), call.target.name.as_str());
    if !given.is_empty() && given != asked {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let (eviction, outcome) = admission::admit(admission::Request::act(call, eviction)?).await?;
    warnings.extend(outcome.warnings);
    let mut options = DeleteOptions::read(&eviction["deleteOptions"])?;
    options.dry_run |= call.dry_run()?;
    // The uid of the Pod that a disruption was taken for: it is taken once, however often the
    // Pod changes before it can be told that it goes.
    let mut taken_for = None;
    for _ in 0..TRIES {
        let entry = call.current().await?;
        let pod = object::read(&entry.value)?;
        let uid = pod.meta().uid().to_owned();
        if !may_ignore_budgets(&pod) && taken_for.as_ref() != Some(&uid) {
            if let Some(budget) = budget_of(call, &pod)?
                && !take(call, &budget, &pod, options.dry_run).await?
            {
                continue;
            }
            taken_for = Some(uid);
        }
        if !options.dry_run && !announce(call, &entry, pod).await? {
            continue;
        }
        delete::delete_evicted(call, &options).await?;
        return call.value(201, &Status::created());
    }
    let name = &call.target.name;
    Err(Status::timeout(format!("couldn't evict pod {name:?} due to conflicts"), 10))
}

/// Pods that do not run, or are going anyway, disrupt nothing.
fn may_ignore_budgets(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending" | "") || pod.meta().is_going()
}

fn budgets() -> Result<&'static Kind, Status> {
    kinds::find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::no_such_resource)
}

/// A budget with its selector, which each eviction in its namespace asks.
#[derive(Debug)]
pub(crate) struct Budget {
    object: Value,
    /// `None` when it is not one: it selects nothing.
    selector: Option<LabelSelector>,
}

impl Form for Budget {
    fn of(object: Value) -> Self {
        let selector = serde_json::from_value(object["spec"]["selector"].clone()).ok();
        Self { selector: LabelSelector::from_meta(selector.as_ref()).ok(), object }
    }
}

/// The budgets of all namespaces.
pub(crate) type Budgets = Materialized<Decoded<Budget>>;

/// Those of this store.
pub(crate) fn budgets_of(store: Arc<dyn Store>) -> Budgets {
    Materialized::new(store, budgets().iter().map(|kind| object::prefix(kind, "")).collect())
}

/// The one budget whose selector matches the Pod.
fn budget_of(call: &Call, pod: &Value) -> Result<Option<Arc<Budget>>, Status> {
    let mut matching = call.state.budgets.all(budgets()?, &call.target.namespace)?;
    matching.retain(|budget| budget.selector.as_ref().is_some_and(|selector| selector.matches(pod)));
    if matching.len() > 1 {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(matching.pop())
}

/// Takes one disruption from the budget. False when the budget changed meanwhile.
async fn take(
    call: &Call,
    Budget { object: budget, .. }: &Budget,
    pod: &Value,
    dry_run: bool,
) -> Result<bool, Status> {
    let Some(taken) = decide(budget, pod, &seconds(call.now))? else { return Ok(true) };
    if dry_run {
        return Ok(true);
    }
    let key = object::key(budgets()?, budget.meta().namespace(), budget.meta().name());
    let Some(entry) = call.state.get(&key).await? else { return Ok(false) };
    if budget.meta().revision() != Some(entry.revision) {
        return Ok(false);
    }
    match call.state.write(Draft { resource: budgets()?, object: &taken, old: Some(&entry) }).await {
        Ok(_) => Ok(true),
        Err(store::Error::Conflict(_)) => Ok(false),
        Err(err) => Err(store_failed(err)),
    }
}

/// What the budget becomes: upstream's checkAndDecrement. `None` when the Pod may
/// go without being counted.
fn decide(budget: &Value, pod: &Value, now: &str) -> Result<Option<Value>, Status> {
    let (name, status) = (budget.meta().name(), &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if !is_ready(pod) {
        let enough = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if enough || budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
            return Ok(None);
        }
    }
    let blocked = |message: String, retry: u32| {
        Err(Status::too_many_requests(VIOLATES, retry).with_cause("DisruptionBudget", message, ""))
    };
    if number("observedGeneration") < budget.meta().generation() {
        return blocked(format!("The disruption budget {name} is still being processed by the server."), 10);
    }
    let forbidden = |why: &str| Err(Status::forbidden(("policy", "poddisruptionbudgets"), name, why));
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let (desired, current) = (number("desiredHealthy"), number("currentHealthy"));
        return blocked(
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
            0,
        );
    }
    let mut taken = budget.clone();
    taken["status"]["disruptionsAllowed"] = (allowed - 1).into();
    taken["status"]["disruptedPods"][pod.meta().name()] = now.into();
    Ok(Some(taken))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Says in the Pod's status why it goes. False when the Pod changed meanwhile.
async fn announce(call: &Call, entry: &Entry, mut pod: Value) -> Result<bool, Status> {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    set_condition(&mut pod, condition, &seconds(call.now));
    match call.state.write(Draft { resource: &call.resource, object: &pod, old: Some(entry) }).await {
        Ok(_) => Ok(true),
        Err(store::Error::Conflict(_)) => Ok(false),
        Err(err) => Err(store_failed(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "status": {"observedGeneration": 1,
            "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2}})
    }

    fn ready() -> Value {
        json!({"metadata": {"name": "web"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    #[test]
    fn a_budget_is_taken_from_until_it_is_empty() {
        let taken = decide(&budget(1), &ready(), "now").expect("allowed").expect("counted");
        assert_eq!(taken["status"]["disruptionsAllowed"], 0);
        assert_eq!(taken["status"]["disruptedPods"]["web"], "now");
        let refused = decide(&taken, &ready(), "now").expect_err("refused");
        assert_eq!((refused.code(), refused.message.as_str()), (429, VIOLATES));
        let cause = &refused.details.expect("details").causes[0];
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn a_budget_that_is_behind_asks_to_come_back() {
        let mut behind = budget(1);
        behind["metadata"]["generation"] = 2.into();
        let refused = decide(&behind, &ready(), "now").expect_err("refused");
        assert_eq!(refused.retry_after_seconds(), Some(10));
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_when_enough_others_are() {
        let sick = json!({"metadata": {"name": "web"}, "status": {"phase": "Running"}});
        assert_eq!(decide(&budget(0), &sick, "now").expect("allowed"), None);
    }
}
