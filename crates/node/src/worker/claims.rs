//! Claims that one Pod alone may use.
//!
//! The scheduler keeps them apart. A Pod that names its node itself has met no scheduler: here it waits, as with
//! a kubelet, until who has the claim has ended.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::spec::spec;
use crate::volumes::plan::claim_name;

/// What upstream's node says of the volume of such a claim.
pub(super) const IN_USE: &str =
    "volume uses the ReadWriteOncePod access mode and is already in use by another pod";

/// Who has mounted which, by namespace and name; uids of Pods.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<HashMap<(String, String), String>>);

impl Holders {
    /// Takes the claim for the Pod, for as long as it is among those that run; false: another one has it. `others`
    /// are the Pods of the node of which something may still run.
    pub(super) fn take(&self, claim: &str, pod: &Pod, others: &[impl AsRef<Pod>]) -> bool {
        let others = || others.iter().map(AsRef::as_ref);
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|_, holder| holder == uid(pod) || others().any(|other| uid(other) == holder));
        let key = (namespace(pod).to_owned(), claim.to_owned());
        if let Some(holder) = holders.get(&key) {
            return holder == uid(pod);
        }
        // Who ran before this program was started has not said so yet: of all that want it the first one has it.
        let rivals = others().filter(|other| uid(other) != uid(pod) && uses(other, namespace(pod), claim));
        let free = rivals.map(since).all(|rival| since(pod) < rival);
        if free {
            holders.insert(key, uid(pod).to_owned());
        }
        free
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// When the node took it; who has not been taken comes last, and of equals there is a first one, too.
fn since(pod: &Pod) -> (bool, Option<&Time>, &str) {
    let time = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    (time.is_none(), time, uid(pod))
}

fn uses(pod: &Pod, of: &str, claim: &str) -> bool {
    let mut volumes = spec(pod).volumes.iter().flatten();
    namespace(pod) == of && volumes.any(|volume| claim_name(pod, volume).as_deref() == Some(claim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(uid: &str, namespace: &str, since: Option<&str>) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": uid, "uid": uid, "namespace": namespace},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"startTime": since}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    const EARLY: Option<&str> = Some("2026-01-01T00:00:00Z");
    const LATE: Option<&str> = Some("2026-01-02T00:00:00Z");

    #[test]
    fn one_pod_has_the_claim_until_it_has_ended() {
        let holders = Holders::default();
        let (first, second) = (pod("first", "default", EARLY), pod("second", "default", LATE));
        let both = [first.clone(), second.clone(), pod("foreign", "other", EARLY)];
        assert!(holders.take("data", &first, &both));
        assert!(holders.take("data", &first, &both), "what is done twice does no harm");
        assert!(!holders.take("data", &second, &both));
        assert!(holders.take("data", &second, &both[1..]), "the first one has ended");
        assert!(!holders.take("data", &first, &both), "it is the other one's now");
        assert!(
            holders.take("data", &both[2], &both),
            "a claim of the name in another namespace is another claim"
        );
    }

    #[test]
    fn after_a_start_of_the_program_the_eldest_has_it() {
        let holders = Holders::default();
        let (old, new) = (pod("z", "default", EARLY), pod("a", "default", LATE));
        let unknown = pod("0", "default", None);
        let all = [old.clone(), new.clone(), unknown.clone()];
        assert!(!holders.take("data", &new, &all) && !holders.take("data", &unknown, &all));
        assert!(holders.take("data", &old, &all));
        let equals = [pod("a", "default", EARLY), pod("b", "default", EARLY)];
        let holders = Holders::default();
        let taken = equals.each_ref().map(|one| holders.take("data", one, &equals));
        assert_eq!(taken, [true, false], "one of them goes first");
    }
}
