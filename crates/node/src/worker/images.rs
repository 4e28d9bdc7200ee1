//! Looking for images and pulling them.

use std::sync::Arc;
use std::time::Instant;

use client::Part;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use runtime::{Error, Image};

use super::{Message, PodWorker, lock};
use crate::credentials;
use crate::pod::event::{Event, ImageError, ImageRef, Pulled};
use crate::pod::spec::spec;
use crate::shared::Shared;
use crate::volumes::{self, Source};

impl PodWorker {
    pub(super) fn ensure_image(&mut self, container: String, reference: String) {
        let Some(spec) = self.state.spec_of(&container) else { return };
        let (node, pod, outbox) = (Arc::clone(&self.node), Arc::clone(&self.state.pod), self.outbox.clone());
        let lost = Event::ImageFailed {
            container: container.clone(),
            reference: reference.clone(),
            image: reference.clone(),
            error: ImageError::Inspect,
            message: format!("Failed to inspect image {reference:?}: the task panicked"),
        };
        let images = self.images_of_volumes(&spec);
        let name = container.clone();
        let handle = self.spawn(lost, async move {
            let started = |image: &str| {
                let event = Event::PullStarted { container: name.clone(), image: image.to_owned() };
                let outbox = outbox.clone();
                async move { drop(outbox.send(Message::Event(event)).await) }
            };
            for (image, policy) in images {
                match ensure(&node, &pod, Some(&policy), &image, started(&image)).await {
                    Ok((_, pulled)) => {
                        let event = Event::VolumeImageReady { container: name.clone(), image, pulled };
                        let _ = outbox.send(Message::Event(event)).await;
                    }
                    Err((error, message)) => {
                        return Event::ImageFailed { container: name, reference, image, error, message };
                    }
                }
            }
            let policy = spec.image_pull_policy.as_deref();
            match ensure(&node, &pod, policy, &reference, started(&reference)).await {
                Ok((image, pulled)) => {
                    let image = image_ref(&reference, &image);
                    Event::ImageReady { container: name, reference, image, pulled }
                }
                Err((error, message)) => {
                    let image = reference.clone();
                    Event::ImageFailed { container: name, reference, image, error, message }
                }
            }
        });
        self.pulls.insert(container, handle);
    }
}

impl PodWorker {
    /// Images, with their pull policies, of volumes that the container mounts and that are not there yet. One that
    /// is mounted stays what it is for as long as the Pod lives.
    fn images_of_volumes(&self, container: &Container) -> Vec<(String, String)> {
        let plans = lock(&self.files.plans);
        let mounted = container.volume_mounts.iter().flatten().filter_map(|mount| plans.get(&mount.name));
        let images = mounted.filter_map(|plan| match &plan.source {
            Source::Image { reference, pull_policy } => Some((plan, reference, pull_policy)),
            _ => None,
        });
        let missing = images
            .filter(|(plan, ..)| !self.node.mounts.is_mounted(&volumes::path_of(&self.directory, plan)));
        missing.map(|(_, reference, policy)| (reference.clone(), policy.clone())).collect()
    }
}

type Failure = (ImageError, String);

async fn ensure(
    node: &Shared,
    pod: &Pod,
    policy: Option<&str>,
    reference: &str,
    started: impl Future<Output = ()>,
) -> Result<(Image, Option<Pulled>), Failure> {
    let present = node.runtime.image_status(reference).await.map_err(|err| inspect_error(reference, &err))?;
    if policy == Some("Never") && present.is_none() {
        let text = format!("Container image {reference:?} is not present with pull policy of Never");
        return Err((ImageError::NeverPull, text));
    }
    let mut credentials = None;
    if let Some(image) = present.filter(|_| policy != Some("Always")) {
        if may_use(node, reference, &[]).await? {
            return Ok((image, None));
        }
        let own = logins(node, pod, reference).await;
        if may_use(node, reference, &own).await? {
            return Ok((image, None));
        }
        if policy == Some("Never") {
            let text = format!(
                "Container image {reference:?} is present with pull policy of Never but does not have the proper \
                 credentials: the Pod brings none of those that it was pulled with"
            );
            return Err((ImageError::NeverPull, text));
        }
        // Those of the check are those of the pull: a Secret that changes between the two cannot let one in
        // that the other refused.
        credentials = Some(own);
    }
    // Told before the queue: the wait for other pulls is a part of this one to whoever reads the Events.
    started.await;
    let waiting = Instant::now();
    let credentials = match credentials {
        Some(credentials) => credentials,
        None => logins(node, pod, reference).await,
    };
    let pulling = Instant::now();
    let image = node.runtime.pull_image(reference, credentials).await.map_err(pull_error)?;
    let pulled = Pulled { took: pulling.elapsed(), took_with_waiting: waiting.elapsed(), size: image.size };
    Ok((image, Some(pulled)))
}

/// Whether the image was put here for everybody, or pulled with one of these logins.
async fn may_use(node: &Shared, reference: &str, logins: &[runtime::Credentials]) -> Result<bool, Failure> {
    let asked = node.runtime.may_use_image(reference, logins).await;
    asked.map_err(|err| inspect_error(reference, &err))
}

fn inspect_error(reference: &str, err: &Error) -> Failure {
    match err {
        Error::InvalidImageName { .. } => {
            (ImageError::InvalidName, format!("Failed to apply default image tag {reference:?}: {err}"))
        }
        _ => (ImageError::Inspect, format!("Failed to inspect image {reference:?}: {err}")),
    }
}

fn pull_error(err: Error) -> Failure {
    let kind = match &err {
        // No waiting helps a name that is none; all else may be the registry or the way to it.
        Error::InvalidImageName { .. } => ImageError::InvalidName,
        _ => ImageError::Pull,
    };
    (kind, err.to_string())
}

/// Logins from the Pod's imagePullSecrets; one that is missing is told and passed over.
async fn logins(node: &Shared, pod: &Pod, reference: &str) -> Vec<runtime::Credentials> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut secrets = Vec::new();
    let mut missing = Vec::new();
    for named in spec(pod).image_pull_secrets.iter().flatten() {
        let informer = node.informers.part::<Secret>(Part::object(namespace, &named.name));
        informer.synced().await;
        match informer.get(namespace, &named.name) {
            Some(secret) => secrets.push(secret),
            None => missing.push(named.name.clone()),
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        node.record(pod, &crate::pod::event::Record::pod_warning("FailedToRetrieveImagePullSecret", message));
    }
    let all: Vec<_> = secrets.iter().map(|secret| &**secret).collect();
    credentials::for_image(reference, &all)
}

/// `status.image` is the tag (or digest) asked for in full; `imageID` a digest when there is one.
fn image_ref(asked: &str, image: &Image) -> ImageRef {
    // Registries of old names: `docker.io/library/` is said by some and left out by others.
    let suffix = format!("/{}", asked.trim_start_matches("docker.io/").trim_start_matches("library/"));
    let tag = image
        .repo_tags
        .iter()
        .find(|tag| *tag == asked || tag.ends_with(&suffix))
        .or(image.repo_tags.first());
    ImageRef {
        id: image.id.clone(),
        name: tag.cloned().unwrap_or_else(|| image.id.clone()),
        image_id: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone()),
    }
}
