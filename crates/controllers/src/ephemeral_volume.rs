//! Makes the claims of ephemeral volumes, each owned by the Pod that has the volume.

use std::sync::Arc;

use client::events::{EventType, Recorder};
use client::{Change, Client, Error, Informer, key_of};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::JoinSet;

use crate::context::{Context, say, split};
use crate::controller::Controller;
use crate::ownership::{controller_of, controller_reference};
use crate::workqueue::Next;

struct EphemeralVolumes {
    client: Client,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    recorder: Recorder,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let (pods, claims) = (context.informers.of::<Pod>(), context.informers.of::<PersistentVolumeClaim>());
    let recorder = context.recorder("ephemeral_volume", tasks);
    let controller = Controller::new("ephemeral_volume")
        .watches(&pods, |change| match change {
            // Its volumes never change.
            Change::Added(pod) if wants(pod) => vec![key_of(&**pod)],
            _ => Vec::new(),
        })
        .watches(&claims, |change| match change {
            // Deleted while the Pod is there: it is made again.
            Change::Deleted(claim) => owner(claim).into_iter().collect(),
            _ => Vec::new(),
        });
    let this = Arc::new(EphemeralVolumes { client: context.client.clone(), pods, claims, recorder });
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn wants(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && ephemeral(pod).next().is_some()
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The key of the Pod that a claim was made for.
fn owner(claim: &PersistentVolumeClaim) -> Option<String> {
    let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod")?;
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    Some(client::key(namespace, &owner.name))
}

/// The claim of a volume, as its template has it.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.metadata.name.as_deref()?, volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

/// Whether a claim is the Pod's: another's of the same name must not be taken for it.
fn is_own(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    controller_of(&claim.metadata).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

impl EphemeralVolumes {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(pod) = self.pods.get(namespace, name).filter(|pod| wants(pod)) else {
            return Ok(Next::Done);
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(Next::Done);
        }
        for wanted in ephemeral(&pod).filter_map(|volume| claim(&pod, volume)) {
            let name = wanted.metadata.name.clone().unwrap_or_default();
            let known = match self.claims.get(namespace, &name) {
                Some(known) => known,
                None => match self.client.create(namespace, &wanted).await {
                    Ok(_) => continue,
                    Err(error) if error.is_already_exists() => {
                        Arc::new(self.client.get(namespace, &name).await?)
                    }
                    Err(error) => {
                        let why = format!("ephemeral volume controller failed to create PVC: {error}");
                        say(&self.recorder, &*pod, EventType::Warning, "EphemeralVolumeCreationFailed", why);
                        return Err(error);
                    }
                },
            };
            if !is_own(&known, &pod) {
                let why = format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.metadata.name.as_deref().unwrap_or_default()
                );
                say(&self.recorder, &*pod, EventType::Warning, "EphemeralVolumeCreationFailed", why);
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let template = json!({"metadata": {"labels": {"a": "b"}, "name": "ignored"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let volumes = json!([{"name": "e", "emptyDir": {}}, {"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_claim_is_made_of_the_template_and_is_the_pods() {
        let pod = pod();
        assert!(wants(&pod));
        let claims: Vec<_> = ephemeral(&pod).filter_map(|volume| claim(&pod, volume)).collect();
        let claim = &claims[0];
        assert_eq!((claims.len(), claim.metadata.name.as_deref()), (1, Some("p-v")));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(
            claim.spec.as_ref().unwrap().access_modes.as_deref(),
            Some(&["ReadWriteOnce".to_owned()][..])
        );
        assert!(is_own(claim, &pod));
        assert_eq!(owner(claim), Some("d/p".into()));
    }

    #[test]
    fn anothers_claim_of_the_same_name_is_not_taken() {
        let mut other = pod();
        other.metadata.uid = Some("w".into());
        let pod = pod();
        let claim = claim(&other, ephemeral(&other).next().unwrap()).unwrap();
        assert!(!is_own(&claim, &pod) && !is_own(&PersistentVolumeClaim::default(), &pod));
    }
}
