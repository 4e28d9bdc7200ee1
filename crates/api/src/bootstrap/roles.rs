//! The default roles and bindings of RBAC.
//!
//! Rules are written as words: verbs, groups separated by commas (the core group is
//! empty), resources, and names if only some objects are meant.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Map, Value, json};

use crate::kinds::{Kind, find};
use crate::rbac::aggregate;

mod controllers;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A rule in words.
#[derive(Clone, Copy)]
enum Rule {
    /// Verbs, groups, resources.
    Of(&'static str, &'static str, &'static str),
    /// Verbs, groups, resources, names.
    Named(&'static str, &'static str, &'static str, &'static str),
    /// Paths, with the verb `get`.
    Get(&'static str),
}
use Rule::{Get, Named, Of};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";
/// What everybody who reports Events needs.
const EVENTS: Rule = Of("create patch update", ",events.k8s.io", "events");

impl Rule {
    fn to_json(self) -> Value {
        let words = |text: &str| text.split_whitespace().map(Value::from).collect::<Value>();
        let groups = |text: &str| text.split(',').map(Value::from).collect::<Value>();
        match self {
            Of(verbs, of, resources) => {
                json!({"verbs": words(verbs), "apiGroups": groups(of), "resources": words(resources)})
            }
            Named(verbs, of, resources, names) => json!({
                "verbs": words(verbs),
                "apiGroups": groups(of),
                "resources": words(resources),
                "resourceNames": words(names),
            }),
            Get(paths) => json!({"verbs": ["get"], "nonResourceURLs": words(paths)}),
        }
    }
}

fn metadata(name: &str, namespace: Option<&str>) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    metadata.insert("labels".to_owned(), json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    metadata.insert("annotations".to_owned(), json!({"rbac.authorization.kubernetes.io/autoupdate": "true"}));
    metadata
}

fn cluster_role(name: &str, rules: &[Rule]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRole",
        "metadata": metadata(name, None),
        "rules": rules.iter().map(|r| r.to_json()).collect::<Value>(),
    })
}

/// A ClusterRole whose rules are taken into the role `admin`, `edit` or `view`.
fn aggregated(name: &str, into: &str, rules: &[Rule]) -> Value {
    let mut role = cluster_role(name, rules);
    role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{into}")] = json!("true");
    role
}

/// The role for people that takes in all that is labelled for it, and goes into the next greater.
fn for_people(name: &str, into: Option<&str>) -> Value {
    let mut role = match into {
        Some(into) => aggregated(name, into, &[]),
        None => cluster_role(name, &[]),
    };
    let label = format!("{GROUP}/aggregate-to-{name}");
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    role
}

fn subject(kind: &str, name: &str) -> Value {
    match kind {
        "ServiceAccount" => json!({"kind": kind, "name": name, "namespace": "kube-system"}),
        _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}

fn cluster_binding(role: &str, subjects: &[(&str, &str)]) -> Value {
    let mut binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": metadata(role, None),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
    });
    // The binding of system:node has nobody: nodes are authorised by name, not by RBAC.
    if !subjects.is_empty() {
        binding["subjects"] = subjects.iter().map(|(kind, name)| subject(kind, name)).collect();
    }
    binding
}

fn role(namespace: &str, name: &str, rules: &[Rule]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "Role",
        "metadata": metadata(name, Some(namespace)),
        "rules": rules.iter().map(|r| r.to_json()).collect::<Value>(),
    })
}

fn binding(namespace: &str, name: &str, role: &str, subjects: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "RoleBinding",
        "metadata": metadata(name, Some(namespace)),
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role},
        "subjects": subjects.iter().map(|(kind, name)| subject(kind, name)).collect::<Value>(),
    })
}

/// All default roles and bindings, roles first.
pub(super) fn objects() -> impl Iterator<Item = (&'static Kind, Value)> {
    let mut roles = cluster_roles();
    roles.extend(controllers::ROLES.iter().map(|(name, rules)| {
        let name = format!("system:controller:{name}");
        cluster_role(&name, rules)
    }));
    fill_in(&mut roles);
    let of = |plural: &'static str| {
        let resource = find(GROUP, "v1", plural).expect("the RBAC resources are in the table");
        move |object| (resource, object)
    };
    let cluster = roles.into_iter().map(of("clusterroles"));
    let cluster = cluster.chain(cluster_bindings().into_iter().map(of("clusterrolebindings")));
    cluster
        .chain(namespaced_roles().into_iter().map(of("roles")))
        .chain(namespaced_bindings().into_iter().map(of("rolebindings")))
}

/// Gives aggregated roles the rules they will have; the controller of aggregated roles
/// finds nothing to do. `admin` takes `edit`, which takes `view`: three rounds.
fn fill_in(roles: &mut [Value]) {
    for _ in 0..3 {
        let typed: Vec<ClusterRole> =
            roles.iter().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect();
        for role in roles.iter_mut() {
            let name = role["metadata"]["name"].as_str().map(str::to_owned);
            let own = typed.iter().find(|t| t.metadata.name == name);
            let rules: Option<Vec<PolicyRule>> = own.and_then(|own| aggregate(own, &typed));
            if let Some(rules) = rules {
                role["rules"] = json!(rules);
            }
        }
    }
}

fn cluster_roles() -> Vec<Value> {
    let mut roles = people();
    roles.extend(everybody());
    roles.extend(components());
    roles.extend(nodes());
    roles.extend(certificates());
    roles
}

/// Roles to give to people: cluster-admin, admin, edit, view and their parts.
fn people() -> Vec<Value> {
    vec![
        {
            let mut root = cluster_role("cluster-admin", &[Of("*", "*", "*")]);
            if let Some(rules) = root["rules"].as_array_mut() {
                rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
            }
            root
        },
        for_people("admin", None),
        for_people("edit", Some("admin")),
        for_people("view", Some("edit")),
        aggregated(
            "system:aggregate-to-admin",
            "admin",
            &[
                Of("create", "authorization.k8s.io", "localsubjectaccessreviews"),
                Of(ALL, GROUP, "rolebindings roles"),
            ],
        ),
        aggregated("system:aggregate-to-edit", "edit", EDIT),
        aggregated("system:aggregate-to-view", "view", VIEW),
    ]
}

const EDIT: &[Rule] = &[
    Of(READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    Of("impersonate", "", "serviceaccounts"),
    Of(WRITE, "", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    Of("create", "", "pods/eviction"),
    Of(
        WRITE,
        "",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    Of("create", "", "serviceaccounts/token"),
    Of(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    Of(WRITE, "autoscaling", "horizontalpodautoscalers"),
    Of(WRITE, "batch", "cronjobs jobs"),
    Of(
        WRITE,
        "extensions",
        "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
         replicasets/scale replicationcontrollers/scale",
    ),
    Of(WRITE, "policy", "poddisruptionbudgets"),
    Of(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    Of(ALL, "coordination.k8s.io", "leases"),
    Of(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
];

const VIEW: &[Rule] = &[
    Of(
        READ,
        "",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
    ),
    Of(
        READ,
        "",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
         resourcequotas resourcequotas/status",
    ),
    Of(READ, "", "namespaces"),
    Of(READ, "discovery.k8s.io", "endpointslices"),
    Of(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
         replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    Of(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    Of(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    Of(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
         networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
    ),
    Of(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    Of(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    Of(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

/// What everybody may know.
fn everybody() -> Vec<Value> {
    vec![
        cluster_role(
            "system:discovery",
            &[Get(
                "/.well-known /.well-known/* /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz \
             /version /version/",
            )],
        ),
        cluster_role(
            "system:basic-user",
            &[
                Of("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
                Of("create", "authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        cluster_role("system:public-info-viewer", &[Get("/healthz /livez /readyz /version /version/")]),
        cluster_role(
            "system:service-account-issuer-discovery",
            &[Get(
                "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            )],
        ),
        cluster_role(
            "system:monitoring",
            &[Get("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
        ),
    ]
}

/// What the parts of a control plane need.
fn components() -> Vec<Value> {
    vec![
        cluster_role("system:auth-delegator", DELEGATE),
        cluster_role("system:kube-aggregator", &[Of(READ, "", "endpoints services")]),
        cluster_role(
            "system:heapster",
            &[Of(READ, "", "events namespaces nodes pods"), Of(READ, "extensions", "deployments")],
        ),
        cluster_role("system:kube-dns", &[Of("list watch", "", "endpoints services")]),
        cluster_role("system:kube-controller-manager", CONTROLLER_MANAGER),
        cluster_role("system:kube-scheduler", SCHEDULER),
        cluster_role(
            "system:volume-scheduler",
            &[
                Of("get list patch update watch", "", "persistentvolumes"),
                Of(READ, "storage.k8s.io", "storageclasses"),
                Of("get list patch update watch", "", "persistentvolumeclaims"),
            ],
        ),
        cluster_role(
            "system:persistent-volume-provisioner",
            &[
                Of("create delete get list watch", "", "persistentvolumes"),
                Of("get list update watch", "", "persistentvolumeclaims"),
                Of(READ, "storage.k8s.io", "storageclasses"),
                Of("watch", "", "events"),
                EVENTS,
            ],
        ),
    ]
}

const DELEGATE: &[Rule] = &[
    Of("create", "authentication.k8s.io", "tokenreviews"),
    Of("create", "authorization.k8s.io", "subjectaccessreviews"),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    Of("create", "coordination.k8s.io", "leases"),
    Named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
    Of("create", "", "secrets serviceaccounts"),
    Of("delete", "", "secrets"),
    Of("get", "", "configmaps namespaces secrets serviceaccounts"),
    Of("update", "", "secrets serviceaccounts"),
    Of("create", "authentication.k8s.io", "tokenreviews"),
    Of("create", "authorization.k8s.io", "subjectaccessreviews"),
    Of("list watch", "*", "*"),
    Of("create", "", "serviceaccounts/token"),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    Of("create", "coordination.k8s.io", "leases"),
    Named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
    Of(READ, "", "nodes"),
    Of("delete get list watch", "", "pods"),
    Of("create", "", "bindings pods/binding"),
    Of("patch update", "", "pods/status"),
    Of(READ, "", "replicationcontrollers services"),
    Of(READ, "apps,extensions", "replicasets"),
    Of(READ, "apps", "statefulsets"),
    Of(READ, "policy", "poddisruptionbudgets"),
    Of(READ, "", "persistentvolumeclaims persistentvolumes"),
    Of("create", "authentication.k8s.io", "tokenreviews"),
    Of("create", "authorization.k8s.io", "subjectaccessreviews"),
    Of(READ, "storage.k8s.io", "csinodes"),
    Of(READ, "", "namespaces"),
    Of(READ, "storage.k8s.io", "csidrivers"),
    Of(READ, "storage.k8s.io", "csistoragecapacities"),
    Of(READ, "storage.k8s.io", "volumeattachments"),
    Of(READ, "resource.k8s.io", "deviceclasses"),
    Of("get list patch update watch", "resource.k8s.io", "resourceclaims"),
    Of("patch update", "resource.k8s.io", "resourceclaims/status"),
    Of(READ, "resource.k8s.io", "resourceslices"),
    Of("update", "", "pods/finalizers"),
];

/// What node agents and those who talk to them need.
fn nodes() -> Vec<Value> {
    vec![
        cluster_role("system:node", NODE),
        cluster_role(
            "system:node-bootstrapper",
            &[Of("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
        ),
        cluster_role(
            "system:node-problem-detector",
            &[Of("get", "", "nodes"), Of("patch", "", "nodes/status"), EVENTS],
        ),
        cluster_role(
            "system:node-proxier",
            &[
                Of("list watch", "", "endpoints services"),
                Of(READ, "", "nodes"),
                EVENTS,
                Of("list watch", "discovery.k8s.io", "endpointslices"),
                Of("list watch", "networking.k8s.io", "servicecidrs"),
            ],
        ),
        cluster_role(
            "system:kubelet-api-admin",
            &[
                Of(READ, "", "nodes"),
                Of("proxy", "", "nodes"),
                Of(
                    "*",
                    "",
                    "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats",
                ),
            ],
        ),
    ]
}

const NODE: &[Rule] = &[
    Of("create", "authentication.k8s.io", "tokenreviews"),
    Of("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    Of(READ, "", "services"),
    Of("create get list watch", "", "nodes"),
    Of("patch update", "", "nodes/status"),
    Of("patch update", "", "nodes"),
    Of("create patch update", "", "events"),
    Of(READ, "", "pods"),
    Of("create delete", "", "pods"),
    Of("patch update", "", "pods/status"),
    Of("create", "", "pods/eviction"),
    Of(READ, "", "configmaps secrets"),
    Of("get", "", "persistentvolumeclaims persistentvolumes"),
    Of("get", "", "endpoints"),
    Of("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    Of("create delete get patch update", "coordination.k8s.io", "leases"),
    Of("get", "storage.k8s.io", "volumeattachments"),
    Of("create", "", "serviceaccounts/token"),
    Of("get patch update", "", "persistentvolumeclaims/status"),
    Of(READ, "storage.k8s.io", "csidrivers"),
    Of("create delete get patch update", "storage.k8s.io", "csinodes"),
    Of(READ, "node.k8s.io", "runtimeclasses"),
    Of("get", "resource.k8s.io", "resourceclaims"),
    Of(ALL, "resource.k8s.io", "resourceslices"),
];

/// Who may ask for which certificates, and who may approve them.
fn certificates() -> Vec<Value> {
    const CSR: &str = "certificates.k8s.io";
    let request = |part: &str, resource: &'static str| {
        cluster_role(
            &format!("system:{CSR}:certificatesigningrequests:{part}"),
            &[Of("create", CSR, resource)],
        )
    };
    let approver = |name: &str, signer: &'static str| {
        cluster_role(&format!("system:{CSR}:{name}-approver"), &[Named("approve", CSR, "signers", signer)])
    };
    vec![
        request("nodeclient", "certificatesigningrequests/nodeclient"),
        request("selfnodeclient", "certificatesigningrequests/selfnodeclient"),
        approver("kube-apiserver-client", "kubernetes.io/kube-apiserver-client"),
        approver("kube-apiserver-client-kubelet", "kubernetes.io/kube-apiserver-client-kubelet"),
        approver("kubelet-serving", "kubernetes.io/kubelet-serving"),
        approver("legacy-unknown", "kubernetes.io/legacy-unknown"),
    ]
}

fn cluster_bindings() -> Vec<Value> {
    const AUTHENTICATED: (&str, &str) = ("Group", "system:authenticated");
    const UNAUTHENTICATED: (&str, &str) = ("Group", "system:unauthenticated");
    let mut bindings = vec![
        cluster_binding("cluster-admin", &[("Group", "system:masters")]),
        cluster_binding("system:monitoring", &[("Group", "system:monitoring")]),
        cluster_binding("system:discovery", &[AUTHENTICATED]),
        cluster_binding("system:basic-user", &[AUTHENTICATED]),
        cluster_binding("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
        cluster_binding("system:node-proxier", &[("User", "system:kube-proxy")]),
        cluster_binding("system:kube-controller-manager", &[("User", "system:kube-controller-manager")]),
        cluster_binding("system:kube-dns", &[("ServiceAccount", "kube-dns")]),
        cluster_binding("system:kube-scheduler", &[("User", "system:kube-scheduler")]),
        cluster_binding("system:volume-scheduler", &[("User", "system:kube-scheduler")]),
        cluster_binding("system:node", &[]),
        cluster_binding("system:service-account-issuer-discovery", &[("Group", "system:serviceaccounts")]),
    ];
    bindings.extend(
        controllers::ROLES.iter().map(|(name, _)| {
            cluster_binding(&format!("system:controller:{name}"), &[("ServiceAccount", name)])
        }),
    );
    bindings
}

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";

fn namespaced_roles() -> Vec<Value> {
    vec![
        role(
            SYSTEM,
            "extension-apiserver-authentication-reader",
            &[Named(READ, "", "configmaps", "extension-apiserver-authentication")],
        ),
        role(SYSTEM, "system:controller:bootstrap-signer", &[Of(READ, "", "secrets")]),
        role(SYSTEM, "system:controller:cloud-provider", &[Of("create get list watch", "", "configmaps")]),
        role(
            SYSTEM,
            "system:controller:token-cleaner",
            &[Of("delete get list watch", "", "secrets"), EVENTS],
        ),
        role(
            SYSTEM,
            "system::leader-locking-kube-controller-manager",
            &[
                Of("watch", "", "configmaps"),
                Named("get update", "", "configmaps", "kube-controller-manager"),
            ],
        ),
        role(
            SYSTEM,
            "system::leader-locking-kube-scheduler",
            &[Of("watch", "", "configmaps"), Named("get update", "", "configmaps", "kube-scheduler")],
        ),
        role(
            PUBLIC,
            "system:controller:bootstrap-signer",
            &[Of(READ, "", "configmaps"), Named("update", "", "configmaps", "cluster-info"), EVENTS],
        ),
    ]
}

fn namespaced_bindings() -> Vec<Value> {
    const MANAGER: (&str, &str) = ("User", "system:kube-controller-manager");
    const SCHEDULER: (&str, &str) = ("User", "system:kube-scheduler");
    let own = |namespace, name: &str, account| binding(namespace, name, name, &[("ServiceAccount", account)]);
    let locking =
        |name: &str, user, account| binding(SYSTEM, name, name, &[user, ("ServiceAccount", account)]);
    vec![
        binding(
            SYSTEM,
            "system::extension-apiserver-authentication-reader",
            "extension-apiserver-authentication-reader",
            &[MANAGER, SCHEDULER],
        ),
        locking("system::leader-locking-kube-controller-manager", MANAGER, "kube-controller-manager"),
        locking("system::leader-locking-kube-scheduler", SCHEDULER, "kube-scheduler"),
        own(SYSTEM, "system:controller:bootstrap-signer", "bootstrap-signer"),
        own(SYSTEM, "system:controller:cloud-provider", "cloud-provider"),
        own(SYSTEM, "system:controller:token-cleaner", "token-cleaner"),
        own(PUBLIC, "system:controller:bootstrap-signer", "bootstrap-signer"),
    ]
}
