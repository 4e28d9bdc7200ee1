//! ResourceQuotas at admission: what a write adds is taken from every quota that counts
//! it before the object is written, and given back when it is not written after all.
//!
//! Usage goes down by the quota controller only, which counts again when objects go.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::status::Status;
use api::strategy::admission::quota;
use api::strategy::resources::Amounts;
use serde_json::Value;
use store::{Entry, Range};

use crate::call::Call;
use crate::object;
use crate::state::{Draft, store_failed};
use crate::write::text;

/// What was taken from which quotas, to be given back if the write fails.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    keys: Vec<Arc<str>>,
    delta: Amounts,
}

/// Takes what a new object, or a changed one, adds; or says which quota it exceeds.
pub(crate) async fn take(
    call: &Call,
    resource: &Kind,
    object: &Value,
    old: Option<&Value>,
) -> Result<Taken, Status> {
    // Upstream's quota counts no Events, and of changes only those of kinds whose
    // amounts can change.
    let changes = matches!(resource.group_kind(), ("", "Service" | "PersistentVolumeClaim"))
        || (resource.kind == "Pod" && call.target.subresource == "resize");
    if !resource.namespaced || resource.plural == "events" || (old.is_some() && !changes) {
        return Ok(Taken::default());
    }
    let range = Range { prefix: object::prefix(quotas()?, &call.target.namespace), ..Range::default() };
    let page = call.state.store.range(range).await.map_err(store_failed)?;
    if page.entries.is_empty() {
        return Ok(Taken::default());
    }
    let mut delta = quota::usage(resource, object);
    if let Some(old) = old {
        delta = quota::difference(&delta, &quota::usage(resource, old));
        // What an update gives back, the controller counts.
        delta.retain(|_, amount| amount.sign() > 0);
    }
    let mut taken = Taken { keys: Vec::new(), delta };
    for entry in page.entries {
        match take_from(call, resource, object, entry, &taken.delta).await {
            Ok(Some(key)) => taken.keys.push(key),
            Ok(None) => {}
            Err(status) => {
                give_back(call, taken).await;
                return Err(status);
            }
        }
    }
    Ok(taken)
}

fn quotas() -> Result<&'static Kind, Status> {
    kinds::find("", "v1", "resourcequotas").ok_or_else(Status::no_such_resource)
}

/// Charges one quota, however often it changes meanwhile. `None` when it does not count this.
async fn take_from(
    call: &Call,
    resource: &Kind,
    object: &Value,
    mut entry: Arc<Entry>,
    delta: &Amounts,
) -> Result<Option<Arc<str>>, Status> {
    let refused = |why: String| Status::forbidden(&call.resource, text(object, "name"), why);
    loop {
        let counting = object::read(&entry.value)?;
        if !quota::applies(&counting, resource, object) {
            return Ok(None);
        }
        if resource.kind == "Pod"
            && let Some(why) = quota::missing(&counting, object)
        {
            return Err(refused(why));
        }
        let used = quota::charge(&counting, delta).map_err(refused)?;
        if call.dry_run()? {
            return Ok(None);
        }
        if write_used(call, &entry, counting, &used).await? {
            return Ok(Some(Arc::clone(&entry.key)));
        }
        match call.state.get(&entry.key).await? {
            Some(again) => entry = again,
            None => return Ok(None),
        }
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
pub(crate) async fn give_back(call: &Call, taken: Taken) {
    let back = quota::difference(&Amounts::new(), &taken.delta);
    for key in taken.keys {
        while let Ok(Some(entry)) = call.state.get(&key).await {
            let Ok(counting) = object::read(&entry.value) else { break };
            let Ok(used) = quota::charge(&counting, &back) else { break };
            if !matches!(write_used(call, &entry, counting, &used).await, Ok(false)) {
                break;
            }
        }
    }
}
