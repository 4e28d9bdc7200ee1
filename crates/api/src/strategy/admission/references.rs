//! What a Pod names of its namespace, in one place: admission refuses some of it to nodes, and the node
//! authoriser lets a node read the rest.
//!
//! Upstream's VisitPodSecretNames and VisitPodConfigmapNames, and beside them the accounts and claims that its
//! authoriser follows. Empty names name nothing.

use std::borrow::Cow;

use serde_json::Value;

use crate::validate::view::View;

/// What a Pod may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referent {
    /// The ServiceAccount it runs as.
    Account,
    /// A Secret: its contents, or what its images or volumes are got with.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// A ResourceClaim.
    ResourceClaim,
}

use Referent::{Account, Claim, ConfigMap, ResourceClaim, Secret};

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

/// Everything that a Pod names, some of it perhaps more than once.
pub fn named_by(pod: &Value) -> Vec<(Referent, Cow<'_, str>)> {
    let pod = View::new(pod);
    let spec = pod.get("spec");
    let mut named = Named(vec![]);
    named.see(Account, spec.str("serviceAccountName"));
    spec.list("imagePullSecrets").for_each(|secret| named.see(Secret, secret.str("name")));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.list(list).for_each(|container| named.environment(container));
    }
    for volume in spec.list("volumes") {
        named.volume(volume);
        if volume.get("ephemeral").is_set() {
            // The claim that is made for it is named after the Pod and the volume.
            let claim = format!("{}-{}", pod.get("metadata").str("name"), volume.str("name"));
            named.0.push((Claim, claim.into()));
        }
    }
    let claims = spec.list("resourceClaims").chain(pod.get("status").list("resourceClaimStatuses"));
    claims.for_each(|claim| named.see(ResourceClaim, claim.str("resourceClaimName")));
    named.0
}

struct Named<'a>(Vec<(Referent, Cow<'a, str>)>);

impl<'a> Named<'a> {
    fn see(&mut self, what: Referent, name: &'a str) {
        if !name.is_empty() {
            self.0.push((what, name.into()));
        }
    }

    /// What a container takes its environment from, as a whole or one variable.
    fn environment(&mut self, container: View<'a>) {
        for from in container.list("envFrom") {
            self.see(Secret, from.get("secretRef").str("name"));
            self.see(ConfigMap, from.get("configMapRef").str("name"));
        }
        for from in container.list("env").map(|variable| variable.get("valueFrom")) {
            self.see(Secret, from.get("secretKeyRef").str("name"));
            self.see(ConfigMap, from.get("configMapKeyRef").str("name"));
        }
    }

    /// What a volume is made of, and the Secret with which the node mounts it.
    fn volume(&mut self, volume: View<'a>) {
        SECRET_VOLUMES.iter().for_each(|(way, name)| self.see(Secret, volume.at(way).str(name)));
        self.see(ConfigMap, volume.get("configMap").str("name"));
        for source in volume.get("projected").list("sources") {
            self.see(Secret, source.get("secret").str("name"));
            self.see(ConfigMap, source.get("configMap").str("name"));
        }
        self.see(Claim, volume.get("persistentVolumeClaim").str("claimName"));
    }
}

/// Whether a Pod names anything of this sort.
pub fn names(pod: &Value, what: Referent) -> bool {
    named_by(pod).iter().any(|(of, _)| *of == what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the spec names, told apart from nothing else.
    fn only(spec: &Value) -> Vec<(Referent, String)> {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        named_by(&pod).into_iter().map(|(what, name)| (what, name.into_owned())).collect()
    }

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
            volume(json!({"cinder": {"secretRef": {"name": "s"}}})),
            volume(json!({"csi": {"nodePublishSecretRef": {"name": "s"}}})),
            volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
        ] {
            assert_eq!(only(&spec), [(Secret, "s".to_owned())], "{spec}");
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
            assert_eq!(only(&spec), [(ConfigMap, "m".to_owned())], "{spec}");
        }
    }

    #[test]
    fn claims_and_the_account_are_seen_and_empty_names_are_not() {
        let spec = json!({"serviceAccountName": "a", "imagePullSecrets": [{"name": ""}, {}], "volumes": [
            {"name": "x", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "y", "ephemeral": {}}],
            "resourceClaims": [{"name": "r", "resourceClaimName": "d"}]});
        let expected = [(Account, "a"), (Claim, "c"), (Claim, "p-y"), (ResourceClaim, "d")];
        assert_eq!(only(&spec), expected.map(|(what, name)| (what, name.to_owned())));
        let pod = json!({"spec": spec});
        assert!(names(&pod, Claim) && !names(&pod, Secret));
    }
}
