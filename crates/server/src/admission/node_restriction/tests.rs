//! Each rule by a table: what is asked, and the words of its refusal.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

/// The objects of a test, by plural and name.
struct World(BTreeMap<(&'static str, &'static str), Value>);

impl World {
    fn get(&self, kind: &Kind, name: &str) -> Option<Bytes> {
        self.0.get(&(&*kind.plural, name)).map(|object| object.to_string().into())
    }
}

fn pod_on(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"a": "b"}},
        "spec": {"nodeName": node, "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}},
            {"persistentVolumeClaim": {"claimName": "data"}}]}})
}

fn world() -> World {
    World(BTreeMap::from([
        (("nodes", "one"), json!({"metadata": {"name": "one", "uid": "n1"}})),
        (("pods", "mine"), pod_on("mine", "one")),
        (("pods", "other"), pod_on("other", "two")),
        (("persistentvolumeclaims", "data"), json!({"spec": {"volumeName": "v"}})),
        (("persistentvolumes", "v"), json!({"spec": {"csi": {"driver": "disk"}}})),
        (("csidrivers", "disk"), json!({"spec": {"tokenRequests": [{"audience": "disk-aud"}]}})),
    ]))
}

/// What a row of a table asks: operation, group, resource with subresource, name, new and old object.
struct Row(Operation, &'static str, &'static str, &'static str, Value, Value);

/// The refusal of node `one`; empty when it may.
fn said(row: &Row) -> String {
    let Row(operation, group, path, name, object, old) = row;
    let (plural, subresource) = path.split_once('/').unwrap_or((path, ""));
    let user = User { name: "system:node:one".into(), ..User::default() };
    let namespace =
        if plural == "leases" { object["metadata"]["namespace"].as_str().unwrap_or_default() } else { "ns" };
    let asked = Asked {
        operation: *operation,
        resource: (group, plural),
        subresource,
        namespace,
        name,
        object,
        old,
        user: &user,
    };
    let world = world();
    let object = |kind: &Kind, _: &str, name: &str| world.get(kind, name);
    let known = Known { object: &object, authorized: &|audience| audience == "granted" };
    match judge("one", &asked, &known) {
        Ok(()) => String::new(),
        Err(Refusal::Forbidden(why)) => why,
        Err(Refusal::NotFound(plural, name)) => format!("{plural} {name} not found"),
    }
}

fn check(table: Vec<(Row, &str)>) {
    for (row, wanted) in &table {
        assert_eq!(said(row), *wanted, "{:?} {} {}: {}", row.0, row.2, row.3, row.4);
    }
}

use Operation::{Create, Delete, Update};

/// A mirror Pod of node `one`, changed by `change`.
fn mirror(change: impl FnOnce(&mut Value)) -> Row {
    let mut pod = json!({"metadata": {"name": "m", "annotations": {MIRROR: "x"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "one", "uid": "n1", "controller": true}]},
        "spec": {"nodeName": "one", "containers": [{"name": "c"}]}});
    change(&mut pod);
    Row(Create, "", "pods", "m", pod, Value::Null)
}

#[test]
fn a_node_creates_mirror_pods_of_its_own_that_name_nothing() {
    let owner = |field: &'static str, value: Value| {
        mirror(move |pod| pod["metadata"]["ownerReferences"][0][field] = value)
    };
    let spec = |field: &'static str, value: Value| mirror(move |pod| pod["spec"][field] = value);
    let own = "node \"one\" can only create pods with an owner reference set to itself";
    check(vec![
        (mirror(|_| {}), ""),
        (
            mirror(|pod| pod["metadata"]["annotations"] = json!({})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"one\" can only create mirror pods",
        ),
        (
            spec("nodeName", json!("two")),
            "node \"one\" can only create pods with spec.nodeName set to itself",
        ),
        (mirror(|pod| pod["metadata"]["ownerReferences"] = json!([])), own),
        (
            mirror(|pod| pod["metadata"]["ownerReferences"] = json!([{}, {}])),
            "node \"one\" can only create pods with a single owner reference set to itself",
        ),
        (owner("name", json!("two")), own),
        (
            owner("controller", json!(false)),
            "node \"one\" can only create pods with a controller owner reference set to itself",
        ),
        (
            owner("blockOwnerDeletion", json!(true)),
            "node \"one\" must not set blockOwnerDeletion on an owner reference",
        ),
        (owner("uid", json!("n0")), "node one UID mismatch: expected n0 got n1"),
        (
            spec("serviceAccountName", json!("admin")),
            "node \"one\" can not create pods that reference a service account",
        ),
        (
            spec("imagePullSecrets", json!([{"name": "s"}])),
            "node \"one\" can not create pods that reference secrets",
        ),
        (
            spec("volumes", json!([{"configMap": {"name": "m"}}])),
            "node \"one\" can not create pods that reference configmaps",
        ),
        (
            spec("volumes", json!([{"projected": {"sources": [{"clusterTrustBundle": {"name": "b"}}]}}])),
            "node \"one\" can not create pods that reference clustertrustbundles",
        ),
        (
            spec("volumes", json!([{"persistentVolumeClaim": {"claimName": "c"}}])),
            "node \"one\" can not create pods that reference persistentvolumeclaims",
        ),
    ]);
}

#[test]
fn a_node_deletes_evicts_and_reports_its_own_pods() {
    let status = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod_on("mine", "one");
        change(&mut pod);
        Row(Update, "", "pods/status", "mine", pod, pod_on("mine", "one"))
    };
    let others = pod_on("other", "two");
    let evict = |name| Row(Create, "", "pods/eviction", name, json!({}), Value::Null);
    check(vec![
        (Row(Delete, "", "pods", "mine", Value::Null, pod_on("mine", "one")), ""),
        (
            Row(Delete, "", "pods", "other", Value::Null, others.clone()),
            "node \"one\" can only delete pods with spec.nodeName set to itself",
        ),
        (
            Row(Update, "", "pods", "mine", pod_on("mine", "one"), pod_on("mine", "one")),
            "unexpected operation \"UPDATE\", node \"one\" can only create and delete mirror pods",
        ),
        (
            Row(Create, "", "pods/binding", "mine", json!({}), Value::Null),
            "unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed",
        ),
        (status(&|pod| pod["status"] = json!({"phase": "Running"})), ""),
        (
            Row(Update, "", "pods/status", "other", others.clone(), others),
            "node \"one\" can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            status(&|pod| pod["metadata"]["labels"] = json!({"a": "c"})),
            "node \"one\" cannot update labels through pod status",
        ),
        (
            status(&|pod| pod["status"]["resourceClaimStatuses"] = json!([{"name": "gpu"}])),
            "node \"one\" cannot update resource claim statues",
        ),
        (evict("mine"), ""),
        (evict("other"), "node one can only evict pods with spec.nodeName set to itself"),
        (evict("gone"), "pods gone not found"),
    ]);
}

#[test]
fn a_node_writes_its_own_node_without_what_would_draw_pods_to_it() {
    let node =
        |labels: Value, taints: Value| json!({"metadata": {"labels": labels}, "spec": {"taints": taints}});
    let plain = node(json!({"kubernetes.io/hostname": "one"}), Value::Null);
    let create = |labels: Value| Row(Create, "", "nodes", "one", node(labels, Value::Null), Value::Null);
    let update = |new: Value| Row(Update, "", "nodes", "one", new, plain.clone());
    let mut remote = plain.clone();
    remote["spec"]["configSource"] = json!({"configMap": {}});
    check(vec![
        (create(json!({"kubernetes.io/os": "linux", "mine": "x", "a.kubelet.kubernetes.io/b": "x"})), ""),
        (
            create(
                json!({"x.node-restriction.kubernetes.io/a": "", "kubernetes.io/role": "", "b.k8s.io/c": ""}),
            ),
            "node \"one\" is not allowed to set the following labels: b.k8s.io/c, kubernetes.io/role, x.node-restriction.kubernetes.io/a",
        ),
        (
            Row(Create, "", "nodes", "two", plain.clone(), Value::Null),
            "node \"one\" is not allowed to modify node \"two\"",
        ),
        (
            Row(Create, "", "nodes", "one", remote.clone(), Value::Null),
            "node \"one\" is not allowed to create pods with a non-nil configSource",
        ),
        (update(node(json!({"kubernetes.io/hostname": "other", "mine": "x"}), json!([]))), ""),
        (update(remote), "node \"one\" is not allowed to update configSource to a new non-nil configSource"),
        (
            update(node(json!({"kubernetes.io/hostname": "one"}), json!([{"key": "k"}]))),
            "node \"one\" is not allowed to modify taints",
        ),
        (
            update(node(
                json!({"kubernetes.io/hostname": "one", "node-restriction.kubernetes.io/a": "b"}),
                Value::Null,
            )),
            "is not allowed to modify labels: node-restriction.kubernetes.io/a",
        ),
        (
            Row(Update, "", "nodes/status", "two", plain.clone(), plain.clone()),
            "node \"one\" is not allowed to modify node \"two\"",
        ),
    ]);
}

#[test]
fn a_node_keeps_to_its_own_lease_slices_and_claims() {
    let lease = |namespace: &str| json!({"metadata": {"namespace": namespace}});
    let slice = |node: &str| json!({"spec": {"nodeName": node}});
    let claim = |label: &str, capacity: &str| json!({"metadata": {"labels": {"a": label}}, "status": {"capacity": capacity}});
    let (leases, coordination) = ("leases", "coordination.k8s.io");
    let (slices, devices) = ("resourceslices", "resource.k8s.io");
    check(vec![
        (Row(Update, coordination, leases, "one", lease(LEASES), Value::Null), ""),
        (
            Row(Create, coordination, leases, "one", lease("default"), Value::Null),
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            Row(Create, coordination, leases, "two", lease(LEASES), Value::Null),
            "can only access node lease with the same name as the requesting node",
        ),
        (
            Row(Create, "storage.k8s.io", "csinodes", "two", json!({}), Value::Null),
            "can only access CSINode with the same name as the requesting node",
        ),
        (Row(Create, devices, slices, "s", slice("one"), Value::Null), ""),
        (
            Row(Create, devices, slices, "s", slice("two"), Value::Null),
            "can only create ResourceSlice with the same NodeName as the requesting node",
        ),
        (
            Row(Delete, devices, slices, "s", Value::Null, slice("two")),
            "can only delete ResourceSlice with the same NodeName as the requesting node",
        ),
        (Row(Update, "", "persistentvolumeclaims", "c", json!({}), json!({})), "may only update PVC status"),
        (Row(Update, "", "persistentvolumeclaims/status", "c", claim("x", "2Gi"), claim("x", "1Gi")), ""),
        (
            Row(Update, "", "persistentvolumeclaims/status", "c", claim("y", "1Gi"), claim("x", "1Gi")),
            "node \"one\" is not allowed to update fields other than status.quantity and status.conditions",
        ),
    ]);
}

#[test]
fn a_node_gets_tokens_of_its_pods_for_whom_their_volumes_name() {
    let token = |reference: Value, audiences: Value| {
        let object = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
        Row(Create, "", "serviceaccounts/token", "default", object, Value::Null)
    };
    let to = |pod: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
    let mine = |audiences: Value| token(to("mine", "mine"), audiences);
    check(vec![
        (mine(json!([])), ""),
        (mine(json!(["vault"])), ""),
        (mine(json!(["disk-aud"])), ""),
        (mine(json!(["granted"])), ""),
        (
            mine(json!(["bank"])),
            "audience \"bank\" not found in pod spec volume, system:node:one is not authorized to request tokens for this audience",
        ),
        (mine(json!(["vault", "disk-aud"])), "node may only request 0 or 1 audiences"),
        (token(Value::Null, json!([])), "node requested token not bound to a pod"),
        (token(to("mine", ""), json!([])), "node requested token with a pod binding without a uid"),
        (
            token(to("mine", "old"), json!([])),
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (
            token(to("other", "other"), json!([])),
            "node requested token bound to a pod scheduled on a different node",
        ),
    ]);
}

#[test]
fn a_node_asks_for_certificates_in_its_own_name() {
    let pem = |user: &str| {
        use base64::Engine as _;
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, user);
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let ask = |signer: &str, request: String| {
        let object = json!({"spec": {"signerName": signer, "request": request}});
        Row(Create, "certificates.k8s.io", "certificatesigningrequests", "r", object, Value::Null)
    };
    check(vec![
        (ask(KUBELET_CLIENT, pem("system:node:one")), ""),
        (ask(KUBELET_SERVING, pem("system:node:two")), "can only create a node CSR with CN=system:node:one"),
        (ask("example.com/mine", pem("ann")), ""),
        (
            ask(KUBELET_CLIENT, String::new()),
            "unable to parse csr: PEM block type must be CERTIFICATE REQUEST",
        ),
    ]);
}
