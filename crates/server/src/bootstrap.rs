//! What a cluster holds before anybody asked for anything, written before the first answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::bootstrap::{self, Inputs};
use api::defaults;
use api::kinds::Kind;
use api::meta::Object as _;
use api::status::Status;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::Value;

use crate::object;
use crate::service::Range;
use crate::state::{Draft, State, seconds, store_failed};

/// Writes what is missing. On a store that was used before it writes nothing, unless
/// the server's address or authority is another one now.
pub(crate) async fn furnish(state: &Arc<State>, now: Timestamp) -> Result<(), Status> {
    let config = &state.config;
    let range = Range::parse(&config.service_cidr);
    let service_ip = range.map_or(Ipv4Addr::LOCALHOST, |range| range.first());
    let inputs = Inputs {
        service_ip: IpAddr::V4(service_ip),
        service_cidr: &config.service_cidr,
        advertise: config.advertise,
        authority_pem: &config.authority_pem,
        now,
    };
    // All at once, so that they become durable in one commit.
    let objects = bootstrap::objects(&inputs);
    try_join_all(objects.into_iter().map(|(resource, object)| furnish_one(state, resource, object, now)))
        .await?;
    Ok(())
}

async fn furnish_one(
    state: &Arc<State>,
    resource: &'static Kind,
    mut object: Value,
    now: Timestamp,
) -> Result<(), Status> {
    let key = object::key(resource, object.meta().namespace(), object.meta().name());
    let old = state.get(&key).await?;
    match &old {
        None => identify(state, resource, &mut object, now)?,
        Some(old) => {
            // One that is damaged stays for the administrator; it must not keep the server down.
            let Ok(before) = object::read(&old.value) else { return Ok(()) };
            match follow(&before, &object) {
                Some(changed) => object = changed,
                None => return Ok(()),
            }
        }
    }
    match state.write(Draft { resource, object: &object, old: old.as_deref() }).await {
        Ok(_) | Err(store::Error::Conflict(_)) => Ok(()),
        Err(err) => Err(store_failed(err)),
    }
}

/// Gives an object of the server's own what a client's object gets on its way.
pub(crate) fn identify(
    state: &State,
    resource: &Kind,
    object: &mut Value,
    now: Timestamp,
) -> Result<(), Status> {
    object.meta_mut().set_uid(&state.uid()?).set_creation_timestamp(&seconds(now));
    defaults::apply(resource, object);
    Ok(())
}

/// An object that is there keeps what users made of it; only what depends on where the
/// server runs now follows: its endpoints, and the certificate of its authority.
fn follow(before: &Value, wanted: &Value) -> Option<Value> {
    let fields: &[&str] = match (wanted["kind"].as_str()?, wanted.meta().name()) {
        ("Endpoints", _) => &["subsets"],
        ("EndpointSlice", _) => &["endpoints", "ports"],
        ("ConfigMap", "kube-root-ca.crt") => &["data"],
        _ => return None,
    };
    let mut changed = before.clone();
    for field in fields {
        changed[field] = wanted[field].clone();
    }
    (changed != *before).then_some(changed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_depends_on_the_place_follows_it() {
        let slice = |port: u16, label: &str| {
            json!({"kind": "EndpointSlice", "metadata": {"name": "kubernetes", "labels": {"l": label}},
                "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": port}]})
        };
        assert_eq!(follow(&slice(1, "mine"), &slice(1, "theirs")), None);
        assert_eq!(follow(&slice(1, "mine"), &slice(2, "theirs")), Some(slice(2, "mine")));
        let role = json!({"kind": "ClusterRole", "metadata": {"name": "edit"}, "rules": []});
        assert_eq!(
            follow(&role, &json!({"kind": "ClusterRole", "metadata": {"name": "edit"}, "rules": [1]})),
            None
        );
    }
}
