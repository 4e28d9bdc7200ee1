//! ResourceQuota: what a write adds is taken from every quota that counts it before the object is written,
//! and given back when it is not written after all.
//!
//! Usage goes down by the quota controller only, which counts again when objects go.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::meta::Object as _;
use api::status::Status;
use api::strategy::admission::quota;
use api::strategy::resources::Amounts;
use serde_json::Value;
use store::Entry;

use super::{Operation, Outcome, Request};
use crate::call::Call;
use crate::object;
use crate::state::{Draft, store_failed};

/// What was taken from which quotas, to be given back if the write fails.
#[derive(Debug, Default)]
pub(crate) struct Charged {
    keys: Vec<Arc<str>>,
    delta: Amounts,
}

/// Who acts on an object (binds it, evicts it) makes no object.
fn counts(request: &Request<'_>) -> bool {
    let is_new = request.operation == Operation::Create;
    (request.is_own_kind || !is_new) && quota::is_counted(request.resource(), request.subresource(), is_new)
}

/// Takes what a new object, or a changed one, adds; or says which quota it exceeds.
pub(super) async fn validate(request: &Request<'_>, outcome: &mut Outcome) -> Result<(), Status> {
    if !counts(request) {
        return Ok(());
    }
    let call = request.call;
    let quotas = call.state.collections.all(quotas()?, request.namespace())?;
    if quotas.is_empty() {
        return Ok(());
    }
    let mut delta = quota::usage(request.resource(), &request.object);
    if let Some(old) = request.old {
        delta = quota::difference(&delta, &quota::usage(request.resource(), old));
        // What an update gives back, the controller counts.
        delta.retain(|_, amount| amount.sign() > 0);
    }
    outcome.charged.delta = delta;
    for counting in quotas {
        outcome.charged.keys.extend(take_from(request, counting, &outcome.charged.delta).await?);
    }
    Ok(())
}

fn quotas() -> Result<&'static Kind, Status> {
    kinds::find("", "v1", "resourcequotas").ok_or_else(Status::no_such_resource)
}

/// Charges one quota, however often it changes meanwhile. `None` when it does not count this.
async fn take_from(
    request: &Request<'_>,
    mut counting: Arc<Value>,
    delta: &Amounts,
) -> Result<Option<Arc<str>>, Status> {
    let (resource, object) = (request.resource(), &request.object);
    let key = object::key(quotas()?, counting.meta().namespace(), counting.meta().name());
    loop {
        if !quota::applies(&counting, resource, object) {
            return Ok(None);
        }
        if let Some(why) = quota::missing(resource, &counting, object) {
            return Err(request.forbidden(why));
        }
        let used = quota::charge(&counting, delta).map_err(|why| request.forbidden(why))?;
        if request.dry_run {
            return Ok(None);
        }
        let Some(entry) = request.call.state.get(&key).await? else { return Ok(None) };
        if counting.meta().revision() == Some(entry.revision)
            && write_used(request.call, &entry, Value::clone(&counting), &used).await?
        {
            return Ok(Some(key));
        }
        // Somebody else was counted meanwhile.
        let Some(changed) = request.call.state.get(&key).await? else { return Ok(None) };
        counting = Arc::new(object::read(&changed.value)?);
    }
}

/// Writes the usage of a quota. False when the quota changed meanwhile.
async fn write_used(call: &Call, entry: &Entry, mut counting: Value, used: &Amounts) -> Result<bool, Status> {
    let shown = quota::shown(used);
    if counting["status"]["used"] == shown {
        return Ok(true);
    }
    if !counting["status"].is_object() {
        counting["status"] = serde_json::json!({});
    }
    counting["status"]["used"] = shown;
    match call.state.write(Draft { resource: quotas()?, object: &counting, old: Some(entry) }).await {
        Ok(_) => Ok(true),
        Err(store::Error::Conflict(_)) => Ok(false),
        Err(err) => Err(store_failed(err)),
    }
}

/// Gives back what was taken for an object that was not written. What cannot be given
/// back stays counted until the controller counts again.
pub(crate) async fn give_back(call: &Call, charged: Charged) {
    let back = quota::difference(&Amounts::new(), &charged.delta);
    for key in charged.keys {
        while let Ok(Some(entry)) = call.state.get(&key).await {
            let Ok(counting) = object::read(&entry.value) else { break };
            let Ok(used) = quota::charge(&counting, &back) else { break };
            if !matches!(write_used(call, &entry, counting, &used).await, Ok(false)) {
                break;
            }
        }
    }
}
