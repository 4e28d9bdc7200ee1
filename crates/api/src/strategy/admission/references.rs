//! Which other objects a Pod's spec names: upstream's VisitPodSecretNames and VisitPodConfigmapNames.

use crate::validate::view::View;

/// Volumes that name a Secret, and where: the way to a reference or to the name itself.
const SECRET_VOLUMES: &[(&[&str], &str)] = &[
    (&["azureFile"], "secretName"),
    (&["cephfs", "secretRef"], "name"),
    (&["cinder", "secretRef"], "name"),
    (&["flexVolume", "secretRef"], "name"),
    (&["rbd", "secretRef"], "name"),
    (&["secret"], "secretName"),
    (&["scaleIO", "secretRef"], "name"),
    (&["iscsi", "secretRef"], "name"),
    (&["storageos", "secretRef"], "name"),
    (&["csi", "nodePublishSecretRef"], "name"),
];

/// Whether the spec of a Pod names a Secret anywhere.
pub fn names_secrets(pod: &serde_json::Value) -> bool {
    secrets(View::new(pod).get("spec"))
}

/// Whether the spec of a Pod names a ConfigMap anywhere.
pub fn names_config_maps(pod: &serde_json::Value) -> bool {
    let spec = View::new(pod).get("spec");
    containers(spec).any(|container| environment(container, "configMapRef", "configMapKeyRef"))
        || spec
            .list("volumes")
            .any(|volume| volume.get("configMap").is_set() || projects(volume, "configMap"))
}

pub(super) fn secrets(spec: View<'_>) -> bool {
    let of_volume = |volume: View<'_>| {
        let direct = |(way, name): &(&[&str], &str)| !volume.at(way).str(name).is_empty();
        SECRET_VOLUMES.iter().any(direct) || projects(volume, "secret")
    };
    spec.list("imagePullSecrets").len() > 0
        || containers(spec).any(|container| environment(container, "secretRef", "secretKeyRef"))
        || spec.list("volumes").any(of_volume)
}

fn containers(spec: View<'_>) -> impl Iterator<Item = View<'_>> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| spec.list(list))
}

fn projects(volume: View<'_>, kind: &str) -> bool {
    volume.get("projected").list("sources").any(|source| source.get(kind).is_set())
}

/// Whether a container takes its environment, or a variable of it, from an object of this kind.
fn environment(container: View<'_>, whole: &str, one: &str) -> bool {
    container.list("envFrom").any(|from| from.get(whole).is_set())
        || container.list("env").any(|variable| variable.get("valueFrom").get(one).is_set())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_way_to_name_a_secret_is_seen() {
        let volume = |source: Value| json!({"volumes": [source]});
        let variable = |from: Value| json!({"env": [{"name": "A", "valueFrom": from}]});
        for spec in [
            json!({"imagePullSecrets": [{"name": "s"}]}),
            json!({"initContainers": [variable(json!({"secretKeyRef": {"name": "s", "key": "k"}}))]}),
            json!({"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}),
            volume(json!({"secret": {"secretName": "s"}})),
            volume(json!({"azureFile": {"secretName": "s"}})),
            volume(json!({"csi": {"nodePublishSecretRef": {"name": "s"}}})),
            volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
        ] {
            assert!(names_secrets(&json!({"spec": spec})), "{spec}");
            assert!(!names_config_maps(&json!({"spec": spec})), "{spec}");
        }
    }

    #[test]
    fn every_way_to_name_a_config_map_is_seen() {
        for spec in [
            json!({"containers": [{"envFrom": [{"configMapRef": {"name": "m"}}]}]}),
            json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "m"}}}]}]}),
            json!({"volumes": [{"configMap": {"name": "m"}}]}),
            json!({"volumes": [{"projected": {"sources": [{"configMap": {"name": "m"}}]}}]}),
        ] {
            assert!(names_config_maps(&json!({"spec": spec})), "{spec}");
            assert!(!names_secrets(&json!({"spec": spec})), "{spec}");
        }
    }
}
