//! Claims that only one Pod may use, and that grow.

use crate::harness::Instance;

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Mi}}}
"#;

fn pod(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: c, image: \"busybox:1.36\", command: [sleep, \"3600\"], volumeMounts: [{{name: v, \
         mountPath: /data}}]}}\n  volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]\n"
    )
}

#[test]
fn a_claim_for_one_pod_makes_the_others_wait_and_grows() {
    let instance = Instance::start(&["busybox.tar"]);
    let applied = instance.kubectl_with(&["apply", "-f", "-"], &format!("{CLAIM}{}", pod("first")));
    assert!(!applied.err.contains("Warning"), "{}", applied.err);
    applied.ok();
    instance.wait("condition=Ready", "pod/first");
    instance.apply(&pod("second"));
    let why = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    instance.eventually("the second Pod is told why", || {
        let message = instance.field("pod/second", "{.status.conditions[?(@.type=='PodScheduled')].message}");
        if message.contains(why) { Ok(()) } else { Err(message) }
    });

    it_grows(&instance);
    the_third_waits_on_the_node(&instance);
    instance.kubectl(&["delete", "pod", "first"]).ok();
    instance.wait("condition=Ready", "pod/third");
    assert_eq!(instance.field("pod/second", "{.spec.nodeName}"), "", "the claim is the third Pod's now");
    instance.kubectl(&["delete", "pod", "third"]).ok();
    instance.wait("condition=Ready", "pod/second");
}

fn it_grows(instance: &Instance) {
    let bigger = r#"{"spec": {"resources": {"requests": {"storage": "3Mi"}}}}"#;
    instance.kubectl(&["patch", "pvc", "data", "-p", bigger]).ok();
    instance.wait("jsonpath={.status.capacity.storage}=3Mi", "pvc/data");
    let volume = instance.field("pvc/data", "{.spec.volumeName}");
    assert_eq!(instance.field(&format!("pv/{volume}"), "{.spec.capacity.storage}"), "3Mi");
}

fn the_third_waits_on_the_node(instance: &Instance) {
    // One that names its node itself has met no scheduler: there it waits, too.
    let node = instance.field("pod/first", "{.spec.nodeName}");
    instance.apply(&pod("third").replacen("spec:\n", &format!("spec:\n  nodeName: {node}\n"), 1));
    let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    instance.eventually("the third Pod is told why", || {
        let of = "--field-selector=involvedObject.name=third,reason=FailedMount";
        let said = instance.kubectl(&["get", "events", of, "-o", "jsonpath={.items[*].message}"]).ok();
        if said.contains(why) { Ok(()) } else { Err(said) }
    });
    assert_eq!(instance.field("pod/third", "{.status.containerStatuses[0].started}"), "false");
}
