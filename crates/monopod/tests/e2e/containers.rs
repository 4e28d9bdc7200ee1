//! What a container is given: variables, arguments, a user and rights.

use serde_json::{Value, json};

use crate::harness::Instance;
use crate::once::{apply, pod, said, says};

fn field(path: &str) -> Value {
    json!({"fieldRef": {"fieldPath": path}})
}

fn amount(resource: &str) -> Value {
    json!({"resourceFieldRef": {"resource": resource}})
}

fn variables(of: &[(&str, Value)]) -> Value {
    of.iter().map(|(name, from)| json!({"name": name, "valueFrom": from})).collect()
}

#[test]
fn variables_come_from_maps_secrets_fields_and_each_other() {
    let instance = Instance::start(&["busybox.tar"]);
    let data = |name: &str| json!({"one": format!("{name}-1"), "two-three": format!("{name}-2")});
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": data("map")});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": data("secret")});
    let mut env = variables(&[
        ("FROM_MAP", json!({"configMapKeyRef": {"name": "map", "key": "two-three"}})),
        ("FROM_SECRET", json!({"secretKeyRef": {"name": "secret", "key": "two-three"}})),
        ("POD_NAME", field("metadata.name")),
        ("POD_NAMESPACE", field("metadata.namespace")),
        ("POD_UID", field("metadata.uid")),
        ("POD_IP", field("status.podIP")),
        ("HOST_IP", field("status.hostIP")),
        ("HOST_IPS", field("status.hostIPs")),
        ("CPU_LIMIT", amount("limits.cpu")),
        ("MEMORY_LIMIT", amount("limits.memory")),
        ("CPU_REQUEST", amount("requests.cpu")),
        ("MEMORY_REQUEST", amount("requests.memory")),
    ]);
    let composed =
        [("FOO", "foo-value"), ("BAR", "bar-value"), ("FOOBAR", "$(FOO);;$(BAR)"), ("KEPT", "$$(FOO)")];
    let composed = composed.map(|(name, value)| json!({"name": name, "value": value}));
    env.as_array_mut().expect("a list").extend(composed);
    let sources = json!([
        {"configMapRef": {"name": "map"}}, {"prefix": "p-", "configMapRef": {"name": "map"}},
        {"prefix": "1.", "configMapRef": {"name": "map"}}, {"prefix": "p_", "secretRef": {"name": "secret"}},
        {"prefix": "#-", "secretRef": {"name": "secret"}}, {"prefix": "s", "secretRef": {"name": "secret"}},
    ]);
    let resources =
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    // No shell: it would drop the names that are none of its own.
    let container = json!({"command": ["env"], "env": env, "envFrom": sources, "resources": resources});
    apply(&instance, &[map, secret, pod("all", "", container, json!({}))]);
    let of_pod = |path: &str| instance.field("pod/all", path);
    says(
        &instance,
        "all",
        &[
            "FROM_MAP=map-2",
            "FROM_SECRET=secret-2",
            "POD_NAME=all",
            "POD_NAMESPACE=default",
            &format!("POD_UID={}", of_pod("{.metadata.uid}")),
            &format!("HOST_IP={}", of_pod("{.status.hostIP}")),
            &format!("HOST_IPS={}", of_pod("{.status.hostIPs[0].ip}")),
            "CPU_LIMIT=2",
            "MEMORY_LIMIT=67108864",
            "CPU_REQUEST=1",
            "MEMORY_REQUEST=33554432",
            "FOO=foo-value",
            "BAR=bar-value",
            "FOOBAR=foo-value;;bar-value",
            "KEPT=$(FOO)",
            "one=map-1",
            "two-three=map-2",
            "p-one=map-1",
            "p-two-three=map-2",
            "1.one=map-1",
            "1.two-three=map-2",
            "p_one=secret-1",
            "p_two-three=secret-2",
            "#-one=secret-1",
            "#-two-three=secret-2",
            "sone=secret-1",
        ],
    );
    let ip = said(&instance, "all").lines().find_map(|line| line.strip_prefix("POD_IP=").map(str::to_owned));
    assert_eq!(ip.as_deref(), Some(of_pod("{.status.podIP}").as_str()));
    amounts_that_are_not_set_are_the_nodes(&instance);
}

fn amounts_that_are_not_set_are_the_nodes(instance: &Instance) {
    let env = variables(&[("CPU_LIMIT", amount("limits.cpu")), ("MEMORY_LIMIT", amount("limits.memory"))]);
    apply(instance, &[pod("unlimited", "env", json!({"env": env}), json!({}))]);
    let said = said(instance, "unlimited");
    let number = |name: &str| {
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} in {said}"))
    };
    let of_node = |path: &str| instance.field("nodes", &format!("{{.items[0].status.allocatable.{path}}}"));
    assert_eq!(number("CPU_LIMIT").to_string(), of_node("cpu"));
    let memory = of_node("memory");
    assert_eq!(Some((number("MEMORY_LIMIT") / 1024).to_string().as_str()), memory.strip_suffix("Ki"));
}

#[test]
fn values_are_put_into_commands_arguments_and_paths() {
    let instance = Instance::start(&["busybox.tar"]);
    let env = json!([{"name": "TEST_VAR", "value": "test-value"}]);
    let script = r#"TEST_VAR=wrong echo "$(TEST_VAR)""#;
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let mount = |at: &str, expression: &str| json!({"name": "v", "mountPath": at, "subPathExpr": expression});
    let whole = json!({"name": "v", "mountPath": "/whole"});
    let named = |value: &str| json!([{"name": "NAME", "value": value}]);
    let refused = |name: &str, value: &str| {
        let container = json!({"env": named(value), "volumeMounts": [mount("/part", "$(NAME)")]});
        pod(name, "true", container, volumes.clone())
    };
    let late = json!({"env": variables(&[("ANNOTATION", field("metadata.annotations['path']"))]),
        "volumeMounts": [mount("/part", "$(ANNOTATION)/foo"), whole.clone()]});
    apply(
        &instance,
        &[
            pod("command", script, json!({"env": env.clone()}), json!({})),
            pod("arguments", "", json!({"env": env, "command": ["sh", "-c"], "args": [script]}), json!({})),
            pod(
                "path",
                "ls /whole",
                json!({"env": named("foo"),
            "volumeMounts": [mount("/part", "$(NAME)"), whole]}),
                volumes.clone(),
            ),
            refused("backwards", ".."),
            refused("absolute", "/tmp"),
            pod("late", "exec sleep 3600", late, volumes),
        ],
    );
    says(&instance, "command", &["test-value"]);
    says(&instance, "arguments", &["test-value"]);
    says(&instance, "path", &["foo"]);
    for name in ["backwards", "absolute", "late"] {
        let reason =
            "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError";
        instance.wait(reason, &format!("pod/{name}"));
    }
    instance.kubectl(&["annotate", "pod", "late", "path=mypath"]).ok();
    instance.wait("condition=Ready", "pod/late");
    let run = |script: &str| instance.kubectl(&["exec", "late", "--", "sh", "-c", script]).ok();
    run("touch /whole/mypath/foo/test.log && test -f /part/test.log");
    instance.kubectl(&["annotate", "--overwrite", "pod", "late", "path=elsewhere"]).ok();
    run("test -f /part/test.log");
    assert_eq!(instance.field("pod/late", "{.status.containerStatuses[0].restartCount}"), "0");
    // What is mounted by a path that is not what it was goes with its Pod all the same.
    instance.kubectl(&["delete", "pod", "late"]).ok();
}

#[test]
fn a_container_is_who_it_is_told_to_be_and_may_what_it_is_allowed() {
    let instance = Instance::start(&["busybox.tar"]);
    let context = |context: Value| json!({"securityContext": context});
    let write = "touch /file && echo written || echo refused";
    let mount = "mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused";
    let hosts = json!({"hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]});
    let sysctl = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]});
    let same = json!({"cpu": "100m", "memory": "16Mi"});
    let plain = || json!({});
    apply(
        &instance,
        &[
            pod("nobody", "id -u", context(json!({"runAsUser": 65534})), plain()),
            pod("of-pod", "id", plain(), context(json!({"runAsUser": 1001, "runAsGroup": 2002}))),
            pod(
                "of-container",
                "id",
                context(json!({"runAsUser": 1001, "runAsGroup": 2002})),
                context(json!({"runAsUser": 5, "runAsGroup": 6})),
            ),
            pod("unprivileged", mount, context(json!({"privileged": false})), plain()),
            pod("writable", write, context(json!({"readOnlyRootFilesystem": false})), plain()),
            pod("read-only", write, context(json!({"readOnlyRootFilesystem": true})), plain()),
            pod(
                "no-more",
                "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
                context(json!({"runAsUser": 1000, "allowPrivilegeEscalation": false})),
                plain(),
            ),
            pod("aliases", "cat /etc/hosts", plain(), hosts),
            pod("sysctl", "cat /proc/sys/kernel/shm_rmid_forced", plain(), context(sysctl)),
            pod("guaranteed", "true", json!({"resources": {"requests": same, "limits": same}}), plain()),
        ],
    );
    for (name, line) in [
        ("nobody", "65534"),
        ("of-pod", "uid=1001 gid=2002 groups=2002"),
        ("of-container", "uid=1001 gid=2002 groups=2002"),
        ("unprivileged", "refused"),
        ("writable", "written"),
        ("read-only", "refused"),
        ("no-more", "NoNewPrivs:1"),
        ("aliases", "123.45.67.89\tfoo\tbar"),
        ("sysctl", "1"),
    ] {
        says(&instance, name, &[line]);
    }
    assert_eq!(instance.field("pod/guaranteed", "{.status.qosClass}"), "Guaranteed");
    sysctls_that_are_none_are_refused(&instance);
}

fn sysctls_that_are_none_are_refused(instance: &Instance) {
    let bad = json!({"sysctls": [{"name": "foo-", "value": "bar"}, {"name": "kernel.shmmax", "value": "1"},
        {"name": "bar..", "value": "42"}]});
    let bad = pod("bad", "true", json!({}), json!({"securityContext": bad})).to_string();
    let why = instance.kubectl_with(&["create", "-f", "-"], &bad).fails();
    assert!(why.contains(r#"Invalid value: "foo-""#) && why.contains(r#"Invalid value: "bar..""#), "{why}");
    assert!(!why.contains("kernel.shmmax"), "{why}");
}

/// The file of names is the node's own work, but not where a Pod brings one or has the network of the host.
#[test]
fn the_file_of_hosts_is_written_for_pods_that_have_an_address() {
    let instance = Instance::start(&["busybox.tar"]);
    let show = "cat /etc/hosts; echo; echo the end";
    let own = json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]});
    let of_host = json!({"volumes": [{"name": "v", "hostPath": {"path": "/etc/hosts", "type": "File"}}]});
    apply(
        &instance,
        &[
            pod("managed", show, json!({}), json!({})),
            pod("own", show, own, of_host),
            pod("host", show, json!({}), json!({"hostNetwork": true})),
        ],
    );
    let heads = ["managed", "own", "host"]
        .map(|name| said(&instance, name).contains("# Kubernetes-managed hosts file.\n"));
    assert_eq!(heads, [true, false, false]);
}
