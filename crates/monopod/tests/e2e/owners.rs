//! Objects that belong to others: collected, waited for or left behind; and quotas.

use crate::harness::Instance;

fn owned(name: &str, owner: &str, uid: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: {owner}, uid: {uid}, blockOwnerDeletion: true}}]\n"
    )
}

fn pair(instance: &Instance, owner: &str, dependent: &str) {
    instance.kubectl(&["create", "cm", owner]).ok();
    let uid = instance.field(&format!("cm/{owner}"), "{.metadata.uid}");
    instance.kubectl_with(&["create", "-f", "-"], &owned(dependent, owner, &uid)).ok();
}

fn until_gone(instance: &Instance, what: &str) {
    instance.kubectl(&["wait", "--for=delete", what, "--timeout=30s"]).ok();
}

#[test]
fn dependents_follow_their_owner_as_the_deletion_asks() {
    let instance = Instance::start(&[]);
    let uid = "00000000-0000-0000-0000-000000000000";
    instance.kubectl_with(&["create", "-f", "-"], &owned("lost", "nobody", uid)).ok();
    until_gone(&instance, "cm/lost");

    pair(&instance, "background", "follows");
    instance.kubectl(&["delete", "cm", "background"]).ok();
    until_gone(&instance, "cm/follows");

    pair(&instance, "orphaning", "stays");
    instance.kubectl(&["delete", "cm", "orphaning", "--cascade=orphan"]).ok();
    assert_eq!(instance.field("cm/stays", "{.metadata.ownerReferences}"), "");

    pair(&instance, "foreground", "held");
    let held = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    instance.kubectl(&["patch", "cm", "held", "--type=merge", "-p", held]).ok();
    instance.kubectl(&["delete", "cm", "foreground", "--cascade=foreground", "--wait=false"]).ok();
    instance.eventually("the dependent is deleted first", || {
        match instance.field("cm/held", "{.metadata.deletionTimestamp}") {
            time if time.is_empty() => Err("not yet".to_owned()),
            time => Ok(time),
        }
    });
    assert_eq!(instance.field("cm/foreground", "{.metadata.finalizers[0]}"), "foregroundDeletion");
    instance
        .kubectl(&["patch", "cm", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
        .ok();
    until_gone(&instance, "cm/foreground");
}

#[test]
fn a_quota_fills_refuses_and_is_freed() {
    let instance = Instance::start(&[]);
    instance.kubectl(&["create", "quota", "q", "--hard=configmaps=2"]).ok();
    let used = |wanted: &str| {
        instance.eventually("the quota is counted", || {
            match instance.field("quota/q", "{.status.used.configmaps}") {
                used if used == wanted => Ok(()),
                used => Err(used),
            }
        });
    };
    used("1");
    instance.kubectl(&["create", "cm", "a"]).ok();
    assert_eq!(
        instance.kubectl(&["create", "cm", "b"]).fails().trim(),
        "error: failed to create configmap: configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
    );
    instance.kubectl(&["delete", "cm", "a"]).ok();
    used("1");
    instance.kubectl(&["create", "cm", "b"]).ok();
}
