//! Makes and deletes Pods for their owners, with upstream's events on the owner.

use std::borrow::Borrow;

use client::events::{EventType, Recorder, reference};
use client::{Client, DeleteOptions, Error, Object};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::batch::slow_start;
use crate::ownership::{controller_reference, stays};

#[derive(Debug, Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
}

impl PodControl {
    /// Creates a Pod of `owner` under the name in the template, or a generated one; the template may say
    /// what that begins with.
    pub(crate) async fn create<O: Object>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
    ) -> Result<Pod, Error> {
        let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
        match self.client.create(namespace, &pod(owner, template)).await {
            Ok(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                self.say(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(pod)
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let text = format!("Error creating: {}", words(&error));
                    self.say(owner, EventType::Warning, "FailedCreate", text);
                }
                Err(error)
            }
        }
    }

    /// Creates a Pod from each of the templates and tells `made` of it, by [`slow_start`]. Where the namespace
    /// goes, all that follow would fail as well; they go with it, and so does the owner. One that waits for its
    /// Pods to go gets no others in their place.
    pub(crate) async fn create_each<O: Object, T: Borrow<PodTemplateSpec>>(
        &self,
        owner: &O,
        templates: Vec<T>,
        made: impl Fn(&Pod),
    ) -> Result<(), Error> {
        if templates.is_empty() || !stays::<O>(&self.client, owner.metadata()).await? {
            return Ok(());
        }
        let created = slow_start(templates, |template: T| {
            let made = &made;
            async move {
                made(&self.create(owner, template.borrow()).await?);
                Ok(())
            }
        });
        match created.await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            done => done,
        }
    }

    /// Deletes a Pod of `owner`; false when it was gone already.
    pub(crate) async fn delete<O: Object>(&self, owner: &O, pod: &Pod) -> Result<bool, Error> {
        let metadata = &pod.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default());
        let options = DeleteOptions::of_uid(metadata.uid.as_deref().unwrap_or_default());
        match self.client.delete::<Pod>(namespace.unwrap_or_default(), name, &options).await {
            Ok(()) => {
                self.say(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(true)
            }
            // Another Pod of the name, under another uid, is none of ours.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
            Err(error) => {
                let text = format!("Error deleting: {}", words(&error));
                self.say(owner, EventType::Warning, "FailedDelete", text);
                Err(error)
            }
        }
    }

    fn say<O: Object>(&self, owner: &O, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&reference(owner), kind, reason, message);
    }
}

/// What the server said, without what we were about.
pub(crate) fn words(error: &Error) -> String {
    let said = error.status().and_then(|status| status.message.clone());
    said.unwrap_or_else(|| error.to_string())
}

/// What the template says, of `owner`.
pub(crate) fn pod<O: Object>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let prefix = metadata
        .generate_name
        .unwrap_or_else(|| format!("{}-", owner.metadata().name.as_deref().unwrap_or_default()));
    Pod {
        metadata: ObjectMeta {
            generate_name: metadata.name.is_none().then_some(prefix),
            name: metadata.name,
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
