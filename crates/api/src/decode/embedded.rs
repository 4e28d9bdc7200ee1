//! Structs that Go embeds in others: JSON does not show them, and Go's decoder names them when the type of one
//! of their fields is wrong.

/// What stands between a struct and a field of it, from the outside in.
pub(super) fn embedded(go: &str, field: &str) -> &'static [&'static str] {
    match (go, field) {
        ("Volume", field) if field != "name" => &["VolumeSource"],
        ("PersistentVolumeSpec", field) if !OF_VOLUMES.contains(&field) => &["PersistentVolumeSource"],
        ("Probe", "exec" | "grpc" | "httpGet" | "tcpSocket") => &["ProbeHandler"],
        ("EphemeralContainer", field) if field != "targetContainerName" => &["EphemeralContainerCommon"],
        ("IngressRule", "http") => &["IngressRuleValue"],
        ("NamedRuleWithOperations", "operations") => &["RuleWithOperations"],
        ("NamedRuleWithOperations", field) if field != "resourceNames" => &["RuleWithOperations", "Rule"],
        ("RuleWithOperations", field) if field != "operations" => &["Rule"],
        (
            "ConfigMapEnvSource"
            | "ConfigMapKeySelector"
            | "ConfigMapProjection"
            | "ConfigMapVolumeSource"
            | "SecretEnvSource"
            | "SecretKeySelector"
            | "SecretProjection",
            "name",
        ) => &["LocalObjectReference"],
        _ => &[],
    }
}

/// The fields of a volume's spec that say nothing of where it comes from.
const OF_VOLUMES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
