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
fn a_claim_for_one_pod_makes_the_next_wait_and_grows() {
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

    let bigger = r#"{"spec": {"resources": {"requests": {"storage": "3Mi"}}}}"#;
    instance.kubectl(&["patch", "pvc", "data", "-p", bigger]).ok();
    instance.wait("jsonpath={.status.capacity.storage}=3Mi", "pvc/data");
    let volume = instance.field("pvc/data", "{.spec.volumeName}");
    assert_eq!(instance.field(&format!("pv/{volume}"), "{.spec.capacity.storage}"), "3Mi");

    instance.kubectl(&["delete", "pod", "first"]).ok();
    instance.wait("condition=Ready", "pod/second");
}
