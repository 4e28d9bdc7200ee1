//! Does what was decided, and says so.

use std::sync::Arc;

use client::events::EventType;
use client::{DeleteOptions, Error, Patch, PatchKind, key_of};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use super::StatefulSets;
use super::decide::Action;
use super::identity::{POD_INDEX_LABEL, POD_NAME_LABEL, name_of, ordinal_of};
use super::retention::Owners;
use crate::batch::slow_start;
use crate::context::{say, split, unless_gone};
use crate::ownership::stays;
use crate::pod_control::words;

impl StatefulSets {
    /// The steps of an ordered set one by one, those of a Parallel one side by side.
    pub(super) async fn act(
        &self,
        set: &StatefulSet,
        steps: Vec<Vec<Action>>,
        parallel: bool,
    ) -> Result<(), Error> {
        let creates = steps.iter().flatten().any(|action| matches!(action, Action::CreatePod(_)));
        if creates && !stays::<StatefulSet>(&self.client, &set.metadata).await? {
            return Ok(());
        }
        let step = |actions: Vec<Action>| async move {
            for action in actions {
                self.perform(set, action).await?;
            }
            Ok(())
        };
        if parallel {
            return slow_start(steps, step).await;
        }
        for actions in steps {
            step(actions).await?;
        }
        Ok(())
    }

    async fn perform(&self, set: &StatefulSet, action: Action) -> Result<(), Error> {
        match action {
            Action::CreateClaim { claim, pod } => self.create_claim(set, &claim, &pod).await,
            Action::CreatePod(pod) => self.create_pod(set, &pod).await,
            Action::AwaitClaim { claim, pod } => {
                self.pod_event(set, "create", &pod, Some(&format!("pvc {claim} is being deleted")));
                Ok(())
            }
            Action::DeletePod(pod) => self.delete_pod(set, &pod).await,
            Action::LabelPod(pod) => self.label_pod(set, &pod).await,
            Action::SetOwners { claim, owners } => self.set_owners(set, &claim, owners).await,
        }
    }

    async fn create_claim(
        &self,
        set: &StatefulSet,
        claim: &PersistentVolumeClaim,
        pod: &str,
    ) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let set_name = name_of(set);
        match self.client.create(namespace, claim).await {
            // The cache has not shown it yet.
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let text = format!(
                    "create Claim {name} for Pod {pod} in StatefulSet {set_name} failed error: {error}"
                );
                say(&self.recorder, set, EventType::Warning, "FailedCreate", text);
                self.pod_event(
                    set,
                    "create",
                    pod,
                    Some(&format!("failed to create PVC {name}: {}", words(&error))),
                );
                Err(error)
            }
            Ok(_) => {
                let text = format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                say(&self.recorder, set, EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
        }
    }

    async fn create_pod(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.client.create(namespace, pod).await {
            Ok(pod) => {
                self.expectations.created(&key_of(set), &pod);
                self.pod_event(set, "create", name, None);
            }
            // Ours, which the cache has not shown yet, or another's: looked at again either way.
            Err(error) if error.is_already_exists() => return Err(error),
            Err(error) => {
                self.pod_event(set, "create", name, Some(&words(&error)));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn delete_pod(&self, set: &StatefulSet, pod: &Arc<Pod>) -> Result<(), Error> {
        let key = key_of(&**pod);
        let (namespace, name) = split(&key);
        let options = DeleteOptions::of_uid(pod.metadata.uid.as_deref().unwrap_or_default());
        match self.client.delete::<Pod>(namespace, name, &options).await {
            Ok(()) => {
                self.expectations.deleted(&key_of(set), pod);
                self.pod_event(set, "delete", name, None);
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                self.pod_event(set, "delete", name, Some(&words(&error)));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn label_pod(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let key = key_of(pod);
        let (namespace, name) = split(&key);
        let index = ordinal_of(set, pod).unwrap_or_default().to_string();
        let labels = json!({POD_NAME_LABEL: name, POD_INDEX_LABEL: index});
        let body = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
        let patched = self.client.patch::<Pod>(namespace, name, &Patch::new(PatchKind::Merge, body)).await;
        let failed = patched.as_ref().err().map(words);
        self.pod_event(set, "update", name, failed.as_deref());
        unless_gone(patched)
    }

    async fn set_owners(
        &self,
        set: &StatefulSet,
        claim: &PersistentVolumeClaim,
        owners: Owners,
    ) -> Result<(), Error> {
        let key = key_of(claim);
        let (namespace, name) = split(&key);
        if owners.conflicting {
            let text = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing controller, \
                 the retention policy is ignored for this claim"
            );
            say(&self.recorder, set, EventType::Warning, "ConflictingController", text);
        }
        let version = &claim.metadata.resource_version;
        let body = json!({"metadata": {"resourceVersion": version, "ownerReferences": owners.references}});
        let patch = Patch::new(PatchKind::Merge, body);
        unless_gone(self.client.patch::<PersistentVolumeClaim>(namespace, name, &patch).await)
    }

    fn pod_event(&self, set: &StatefulSet, verb: &str, pod: &str, failed: Option<&str>) {
        let (kind, outcome, rest) = match failed {
            None => (EventType::Normal, "Successful", "successful".to_owned()),
            Some(error) => (EventType::Warning, "Failed", format!("failed error: {error}")),
        };
        let reason = match verb {
            "create" => "Create",
            "delete" => "Delete",
            _ => "Update",
        };
        let text = format!("{verb} Pod {pod} in StatefulSet {} {rest}", name_of(set));
        say(&self.recorder, set, kind, &format!("{outcome}{reason}"), text);
    }
}
