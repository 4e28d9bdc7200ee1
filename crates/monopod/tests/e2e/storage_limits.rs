//! Pods that write more on the node's disk than they may.

use crate::harness::Instance;

fn pod(name: &str, volume: &str, command: &str, limit: &str, other: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, emptyDir: {volume}}}]\n  containers:\n  \
         - {{name: c, image: \"busybox:1.36\", command: [sh, -c, \"{command}; sleep 3600\"], \
         resources: {{limits: {{{limit}}}}}, volumeMounts: [{{name: v, mountPath: /v}}]}}\n  \
         - {{name: other, image: \"busybox:1.36\", command: [sleep, \"3600\"], resources: {{limits: {{{other}}}}}}}\n"
    )
}

#[test]
fn who_writes_more_than_he_may_is_evicted_and_the_others_are_not() {
    let instance = Instance::start(&["busybox.tar"]);
    let write = |path: &str, mebibytes: u32| format!("dd if=/dev/zero of={path} bs=1M count={mebibytes}");
    let limit = |size: &str| format!("ephemeral-storage: {size}");
    let (one, many) = (limit("1Mi"), limit("64Mi"));
    let log = "yes 0123456789012345678901234567890123456789 | head -c 4000000";
    for manifest in [
        pod(
            "good",
            "{sizeLimit: 8Mi}",
            &format!("{}; {}", write("/v/f", 4), write("/f", 4)),
            &limit("8Mi"),
            &many,
        ),
        pod("root", "{}", &write("/f", 4), &one, &many),
        pod("log", "{}", log, &one, &many),
        pod("scratch", "{sizeLimit: 1Mi}", &write("/v/f", 4), "", ""),
        pod("sum", "{}", &write("/v/f", 8), &limit("2Mi"), &limit("2Mi")),
        pod("free", "{}", &write("/v/f", 8), "", ""),
    ] {
        instance.apply(&manifest);
    }
    let container = "Container c exceeded its local ephemeral storage limit \"1Mi\". ";
    for (name, message) in [
        ("root", container),
        ("log", container),
        ("scratch", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        ("sum", "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
    ] {
        let what = format!("pod/{name}");
        instance.wait("jsonpath={.status.phase}=Failed", &what);
        assert_eq!(
            instance.field(&what, "{.status.reason}: {.status.message}"),
            format!("Evicted: {message}")
        );
        let path = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
        assert_eq!(instance.field(&what, path), "TerminationByKubelet");
        let selector = format!("involvedObject.name={name},reason=Evicted");
        let path = "jsonpath={.items[0].type}: {.items[0].message}";
        let told = instance.eventually("the event", || {
            let said = instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]);
            if said.code == 0 && !said.out.is_empty() { Ok(said.out) } else { Err(said.err) }
        });
        assert_eq!(told, format!("Warning: {message}"));
    }
    for name in ["good", "free"] {
        assert_eq!(instance.field(&format!("pod/{name}"), "{.status.phase} {.status.reason}"), "Running ");
    }
}
