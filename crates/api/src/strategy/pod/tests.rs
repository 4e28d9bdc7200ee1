//! Manifests that are right, manifests that are broken, and what upstream says of each.

use serde_json::{Value, json};

use crate::defaults;
use crate::kinds::{Kind, by_kind};
use crate::strategy::{prepare_create, prepare_update, validate_create, validate_update, warnings};

fn pods() -> &'static Kind {
    by_kind("v1", "Pod").expect("Pods are known")
}

/// A Pod with this spec, as it is after defaulting.
fn pod(spec: Value) -> Value {
    let metadata = json!({"name": "p", "namespace": "n"});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    defaults::apply(pods(), &mut pod);
    prepare_create(pods(), &mut pod);
    pod
}

/// One container `c` of image `x` with more fields.
fn with_container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "x"});
    for (key, value) in more.as_object().expect("fields") {
        container[key] = value.clone();
    }
    json!({"containers": [container]})
}

/// One container and more fields of the spec.
fn with_spec(more: Value) -> Value {
    let mut spec = with_container(json!({}));
    for (key, value) in more.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    spec
}

fn refused(spec: Value) -> Vec<String> {
    validate_create(pods(), &pod(spec)).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    assert_eq!(refused(spec), expected);
}

#[test]
fn answers_to_broken_manifests_are_those_recorded_from_upstream() {
    check(
        with_container(
            json!({"ports": [{"containerPort": 70000}, {"containerPort": 80, "protocol": "HTTP", "name": "UPPER_case"}]}),
        ),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].name: Invalid value: \"UPPER_case\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check(
        json!({"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "other"}]}),
        &["spec.containers[1].name: Duplicate value: \"c\""],
    );
    check(
        with_container(json!({"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 1}}})),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check(
        with_container(json!({"volumeMounts": [{"name": "nope", "mountPath": "/x"}]})),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"nope\""],
    );
    check(json!({"containers": []}), &["spec.containers: Required value"]);
    check(json!({"containers": [{"name": "c"}]}), &["spec.containers[0].image: Required value"]);
    check(
        with_spec(json!({"restartPolicy": "Sometimes"})),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
}

#[test]
fn a_probe_has_one_handler_and_sensible_numbers() {
    check(
        with_container(
            json!({"livenessProbe": {"periodSeconds": -1, "httpGet": {"port": 0, "path": ""}, "exec": {"command": ["x"]}}}),
        ),
        &[
            "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check(
        with_container(
            json!({"readinessProbe": {}, "startupProbe": {"tcpSocket": {"port": "http"}, "successThreshold": 2}}),
        ),
        &[
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    check(
        with_container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn variables_have_a_name_and_one_source() {
    check(
        with_container(json!({"env": [
            {"name": "", "value": "a"},
            {"name": "A=B"},
            {"name": "C", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "D", "valueFrom": {}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}},
            {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}},
            {"name": "H", "valueFrom": {"configMapKeyRef": {"name": "m", "key": ""}}},
        ]})),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nothing\": error converting fieldPath: field label not supported: spec.nothing",
            "spec.containers[0].env[6].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            "spec.containers[0].env[7].valueFrom.configMapKeyRef.key: Required value",
        ],
    );
    check(
        with_container(
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}),
        ),
        &[],
    );
}

#[test]
fn a_volume_has_exactly_one_source() {
    check(
        with_spec(json!({"volumes": [
            {"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}},
            {"name": "b", "secret": {}},
            {"name": "c", "hostPath": {"path": "/a/../b"}},
            {"name": "d", "configMap": {"name": "m", "defaultMode": 512, "items": [{"key": "k", "path": "../x"}]}},
            {"name": "e", "hostPath": {"path": "/x", "type": "Pipe"}},
            {"name": "UP", "emptyDir": {}},
        ]})),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].secret.secretName: Required value",
            "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[3].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[3].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[4].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            "spec.volumes[5].name: Invalid value: \"UP\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
}

#[test]
fn mounts_are_unique_and_stay_in_their_volume() {
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "x", "volumeMounts": [
        {"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "/abs"},
        {"name": "v", "mountPath": "/b", "mountPropagation": "Bidirectional"},
        {"name": "v", "mountPath": "/c", "subPath": "x", "subPathExpr": "y"}]}]});
    check(
        spec,
        &[
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/abs\": must be a relative path",
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            "spec.containers[0].volumeMounts[3].subPathExpr: Invalid value: \"y\": subPathExpr and subPath are mutually exclusive",
        ],
    );
}

#[test]
fn sidecars_may_have_probes_and_init_containers_may_not() {
    let probe = json!({"exec": {"command": ["x"]}});
    let spec = |policy: Value| {
        let mut init = json!({"name": "i", "image": "x", "readinessProbe": probe});
        init["restartPolicy"] = policy;
        with_spec(json!({"initContainers": [init]}))
    };
    check(spec(json!("Always")), &[]);
    check(
        spec(Value::Null),
        &[
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
}

#[test]
fn resources_have_known_names_and_whole_counts() {
    check(
        with_container(
            json!({"resources": {"limits": {"gpu": 1, "example.com/gpu": "1500m", "hugepages-2Mi": "3Mi", "cpu": "-1"}}}),
        ),
        &[
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
        ],
    );
    check(
        with_container(json!({"resources": {"requests": {"example.com/gpu": 1}}})),
        &[
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ],
    );
}

#[test]
fn placement_is_checked_in_every_part() {
    check(
        with_spec(json!({
            "tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "b"},
                            {"key": "a", "tolerationSeconds": 1, "effect": "NoSchedule"}, {"key": "a", "effect": "Never"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "k", "operator": "In"}, {"key": "k", "operator": "Is", "values": ["a"]}]}]}},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}]}},
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "Maybe"}],
        })),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: \"Is\": not a valid selector operator",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[2].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.tolerations[3].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
}

#[test]
fn security_contexts_do_not_contradict_themselves() {
    check(
        with_container(
            json!({"securityContext": {"runAsUser": -1, "seccompProfile": {"type": "Localhost"}, "procMount": "Unmasked"}}),
        ),
        &[
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ],
    );
    check(
        with_spec(json!({"shareProcessNamespace": true, "hostPID": true, "hostNetwork": true,
            "securityContext": {"sysctls": [{"name": "net.a", "value": "1"}, {"name": "A"}]}})),
        &[
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified when 'hostNetwork' is true",
            "spec.securityContext.sysctls[1].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ],
    );
}

#[test]
fn names_addresses_and_dns_are_checked() {
    check(
        with_spec(
            json!({"hostname": "a.b", "dnsPolicy": "None", "hostAliases": [{"ip": "1.2.3", "hostnames": ["ok"]}],
            "activeDeadlineSeconds": 0, "os": {"name": "plan9"}, "schedulingGates": [{"name": "g"}, {"name": "g"}]}),
        ),
        &[
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.schedulingGates[1]: Duplicate value: \"g\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ],
    );
}

#[test]
fn a_pod_waits_at_first_and_is_held_by_its_gates() {
    let plain = pod(with_spec(json!({})));
    assert_eq!(plain["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(plain["metadata"]["generation"], 1);
    let gated = pod(with_spec(json!({"schedulingGates": [{"name": "g"}]})));
    assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
}

/// The Pod of the recorded updates, as it is when it runs.
fn web() -> Value {
    let mut web = pod(json!({
        "nodeName": "node", "serviceAccountName": "default", "terminationGracePeriodSeconds": 2, "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [
            {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
            {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}],
        "volumes": [{"name": "kube-api-access-abcde", "projected": {"sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
        "containers": [{"name": "c", "image": "docker.io/library/busybox:1.36", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "x"], "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "PLAIN", "value": "one"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "CPU_REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 1, "periodSeconds": 1},
            "volumeMounts": [{"name": "kube-api-access-abcde", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]
    }));
    web["metadata"]["uid"] = json!("u");
    web["metadata"]["resourceVersion"] = json!("1");
    web
}

/// The errors of changing the Pod `web` by `change`, after preparing as the server does.
fn updated(subresource: Option<&str>, change: impl FnOnce(&mut Value)) -> String {
    let old = web();
    let mut new = old.clone();
    change(&mut new);
    prepare_update(pods(), subresource, &mut new, &old);
    validate_update(pods(), subresource, &new, &old).to_string()
}

#[test]
fn a_refused_update_shows_the_difference_as_upstream_does() {
    let words = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
    let grace = updated(None, |pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(9));
    assert_eq!(
        grace.strip_prefix(words).expect("upstream's words"),
        "@@ -203,7 +203,7 @@\n  ],\n  \"EphemeralContainers\": null,\n  \"RestartPolicy\": \"Always\",\n- \"TerminationGracePeriodSeconds\": 2,\n+ \"TerminationGracePeriodSeconds\": 9,\n  \"ActiveDeadlineSeconds\": null,\n  \"DNSPolicy\": \"ClusterFirst\",\n  \"NodeSelector\": null,\n"
    );
    let env = updated(None, |pod| pod["spec"]["containers"][0]["env"][0]["value"] = json!("two"));
    assert_eq!(
        env.strip_prefix(words).expect("upstream's words"),
        "@@ -113,7 +113,7 @@\n    \"Env\": [\n     {\n      \"Name\": \"PLAIN\",\n-     \"Value\": \"one\",\n+     \"Value\": \"two\",\n      \"ValueFrom\": null\n     },\n     {\n"
    );
}

#[test]
fn images_deadlines_tolerations_and_labels_may_change() {
    assert_eq!(updated(None, |pod| pod["spec"]["containers"][0]["image"] = json!("other:1")), "");
    assert_eq!(updated(None, |pod| pod["spec"]["activeDeadlineSeconds"] = json!(60)), "");
    assert_eq!(updated(None, |pod| pod["metadata"]["labels"] = json!({"a": "b"})), "");
    let more = json!({"key": "a", "operator": "Exists"});
    assert_eq!(
        updated(None, |pod| pod["spec"]["tolerations"].as_array_mut().expect("a list").push(more)),
        ""
    );
    assert_eq!(
        updated(None, |pod| drop(pod["spec"]["tolerations"].as_array_mut().expect("a list").pop())),
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    );
    assert_eq!(
        updated(None, |pod| pod["spec"]["containers"].as_array_mut().expect("a list").clear()),
        "[spec.containers: Required value, spec.containers: Forbidden: pod updates may not add or remove containers]"
    );
}

#[test]
fn debug_containers_come_through_their_subresource_only() {
    let debug =
        json!([{"name": "d", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]);
    assert_eq!(
        updated(Some("ephemeralcontainers"), |pod| pod["spec"]["ephemeralContainers"] = debug.clone()),
        ""
    );
    assert!(
        updated(None, |pod| pod["spec"]["ephemeralContainers"] = debug)
            .contains("pod updates may not change")
    );
    check(
        with_spec(
            json!({"ephemeralContainers": [{"name": "d", "image": "x", "ports": [{"containerPort": 1}]}]}),
        ),
        &[
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
fn a_resize_changes_cpu_and_memory_and_keeps_the_class_of_service() {
    assert_eq!(
        updated(Some("resize"), |pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] =
            json!("20m")),
        ""
    );
    let all = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(
        updated(Some("resize"), |pod| pod["spec"]["containers"][0]["resources"] = all),
        "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
    );
    assert_eq!(
        updated(Some("resize"), |pod| drop(pod["spec"]["containers"][0]["resources"]["limits"].take())),
        "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"
    );
}

#[test]
fn a_resize_leaves_all_else_as_it_was() {
    let old = web();
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "other:2".into();
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "20m".into();
    new["metadata"]["labels"] = json!({"other": "label"});
    prepare_update(pods(), Some("resize"), &mut new, &old);
    assert_eq!(new["spec"]["containers"][0]["image"], old["spec"]["containers"][0]["image"]);
    assert_eq!(new["metadata"]["labels"], old["metadata"]["labels"]);
    assert_eq!(new["spec"]["containers"][0]["resources"]["requests"]["cpu"], "20m");
}

#[test]
fn a_status_cannot_revive_what_has_ended_or_move_the_pod() {
    let mut old = web();
    old["spec"]["restartPolicy"] = json!("Never");
    old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
    new["status"]["qosClass"] = json!("Guaranteed");
    new["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]);
    assert_eq!(
        validate_update(pods(), Some("status"), &new, &old).to_string(),
        "[status.qosClass: Invalid value: \"Guaranteed\": field is immutable, status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state, status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family]"
    );
    new = old.clone();
    old["spec"]["restartPolicy"] = json!("OnFailure");
    new["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
    assert!(validate_update(pods(), Some("status"), &new, &old).is_empty());
}

#[test]
fn a_whole_pod_of_volumes_and_security_is_accepted() {
    check(
        json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000}, "hostname": "custom-host",
            "containers": [{"name": "c", "image": "x", "envFrom": [{"configMapRef": {"name": "lit"}}, {"secretRef": {"name": "sec"}, "prefix": "S_"}],
                "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}, {"name": "down", "mountPath": "/down"}, {"name": "cfg", "mountPath": "/one", "subPath": "k1"}]}],
            "volumes": [{"name": "cfg", "configMap": {"name": "lit"}}, {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 256}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}, {"path": "build", "fieldRef": {"fieldPath": "metadata.annotations['build']"}}]}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}),
        &[],
    );
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let object = pod(
        json!({"terminationGracePeriodSeconds": -1, "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "imagePullSecrets": [{"name": "s"}, {"name": "s"}],
        "containers": [{"name": "c", "image": "x", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80}], "resources": {"limits": {"memory": "1500m"}}}]}),
    );
    assert_eq!(
        warnings(pods(), &object, None),
        [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.imagePullSecrets[1].name: duplicate name \"s\"",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ]
    );
}
