//! What the server stores, every reader of the program can decode: a property of all kinds.
//!
//! Objects are made from the schema, right and wrong ones; whatever passes decoding, defaulting,
//! patching and field management is then read by the typed decoder that controllers, scheduler and
//! node use.

use api::apply::{self, Manager};
use api::decode::{self, FieldValidation};
use api::kinds::{self, Kind};
use api::patch::{self, PatchType};
use api::schema::{self, Struct, Type};
use api::{convert, defaults, strategy};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1 as admissionregistration;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::authorization::v1 as authorization;
use k8s_openapi::api::autoscaling::v1 as autoscaling;
use k8s_openapi::api::autoscaling::v2 as autoscaling_v2;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::resource::v1 as dra;
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

type Reader = fn(&[u8]) -> Result<(), serde_json::Error>;

fn read_as<K: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<K>(bytes).map(drop)
}

/// The typed decoder of every kind that is served.
#[rustfmt::skip]
const READERS: &[(&str, &str, Reader)] = &[
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", read_as::<admissionregistration::MutatingAdmissionPolicy>),
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", read_as::<admissionregistration::MutatingAdmissionPolicyBinding>),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", read_as::<admissionregistration::MutatingWebhookConfiguration>),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", read_as::<admissionregistration::ValidatingAdmissionPolicy>),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", read_as::<admissionregistration::ValidatingAdmissionPolicyBinding>),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", read_as::<admissionregistration::ValidatingWebhookConfiguration>),
    ("apps/v1", "ControllerRevision", read_as::<apps::ControllerRevision>),
    ("apps/v1", "DaemonSet", read_as::<apps::DaemonSet>),
    ("apps/v1", "Deployment", read_as::<apps::Deployment>),
    ("apps/v1", "ReplicaSet", read_as::<apps::ReplicaSet>),
    ("apps/v1", "StatefulSet", read_as::<apps::StatefulSet>),
    ("authentication.k8s.io/v1", "SelfSubjectReview", read_as::<authentication::SelfSubjectReview>),
    ("authentication.k8s.io/v1", "TokenRequest", read_as::<authentication::TokenRequest>),
    ("authentication.k8s.io/v1", "TokenReview", read_as::<authentication::TokenReview>),
    ("authorization.k8s.io/v1", "LocalSubjectAccessReview", read_as::<authorization::LocalSubjectAccessReview>),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview", read_as::<authorization::SelfSubjectAccessReview>),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview", read_as::<authorization::SelfSubjectRulesReview>),
    ("authorization.k8s.io/v1", "SubjectAccessReview", read_as::<authorization::SubjectAccessReview>),
    ("autoscaling/v1", "HorizontalPodAutoscaler", read_as::<autoscaling::HorizontalPodAutoscaler>),
    ("autoscaling/v2", "HorizontalPodAutoscaler", read_as::<autoscaling_v2::HorizontalPodAutoscaler>),
    ("batch/v1", "CronJob", read_as::<batch::CronJob>),
    ("batch/v1", "Job", read_as::<batch::Job>),
    ("certificates.k8s.io/v1", "CertificateSigningRequest", read_as::<certificates::CertificateSigningRequest>),
    ("coordination.k8s.io/v1", "Lease", read_as::<coordination::Lease>),
    ("v1", "Binding", read_as::<core::Binding>),
    ("v1", "ComponentStatus", read_as::<core::ComponentStatus>),
    ("v1", "ConfigMap", read_as::<core::ConfigMap>),
    ("v1", "Endpoints", read_as::<core::Endpoints>),
    ("v1", "Event", read_as::<core::Event>),
    ("v1", "LimitRange", read_as::<core::LimitRange>),
    ("v1", "Namespace", read_as::<core::Namespace>),
    ("v1", "Node", read_as::<core::Node>),
    ("v1", "PersistentVolume", read_as::<core::PersistentVolume>),
    ("v1", "PersistentVolumeClaim", read_as::<core::PersistentVolumeClaim>),
    ("v1", "Pod", read_as::<core::Pod>),
    ("v1", "PodTemplate", read_as::<core::PodTemplate>),
    ("v1", "ReplicationController", read_as::<core::ReplicationController>),
    ("v1", "ResourceQuota", read_as::<core::ResourceQuota>),
    ("v1", "Secret", read_as::<core::Secret>),
    ("v1", "Service", read_as::<core::Service>),
    ("v1", "ServiceAccount", read_as::<core::ServiceAccount>),
    ("discovery.k8s.io/v1", "EndpointSlice", read_as::<discovery::EndpointSlice>),
    ("events.k8s.io/v1", "Event", read_as::<events::Event>),
    ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", read_as::<flowcontrol::FlowSchema>),
    ("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", read_as::<flowcontrol::PriorityLevelConfiguration>),
    ("networking.k8s.io/v1", "IPAddress", read_as::<networking::IPAddress>),
    ("networking.k8s.io/v1", "Ingress", read_as::<networking::Ingress>),
    ("networking.k8s.io/v1", "IngressClass", read_as::<networking::IngressClass>),
    ("networking.k8s.io/v1", "NetworkPolicy", read_as::<networking::NetworkPolicy>),
    ("networking.k8s.io/v1", "ServiceCIDR", read_as::<networking::ServiceCIDR>),
    ("node.k8s.io/v1", "RuntimeClass", read_as::<node::RuntimeClass>),
    ("policy/v1", "Eviction", read_as::<policy::Eviction>),
    ("policy/v1", "PodDisruptionBudget", read_as::<policy::PodDisruptionBudget>),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", read_as::<rbac::ClusterRole>),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", read_as::<rbac::ClusterRoleBinding>),
    ("rbac.authorization.k8s.io/v1", "Role", read_as::<rbac::Role>),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", read_as::<rbac::RoleBinding>),
    ("resource.k8s.io/v1", "DeviceClass", read_as::<dra::DeviceClass>),
    ("resource.k8s.io/v1", "ResourceClaim", read_as::<dra::ResourceClaim>),
    ("resource.k8s.io/v1", "ResourceClaimTemplate", read_as::<dra::ResourceClaimTemplate>),
    ("resource.k8s.io/v1", "ResourceSlice", read_as::<dra::ResourceSlice>),
    ("scheduling.k8s.io/v1", "PriorityClass", read_as::<scheduling::PriorityClass>),
    ("storage.k8s.io/v1", "CSIDriver", read_as::<storage::CSIDriver>),
    ("storage.k8s.io/v1", "CSINode", read_as::<storage::CSINode>),
    ("storage.k8s.io/v1", "CSIStorageCapacity", read_as::<storage::CSIStorageCapacity>),
    ("storage.k8s.io/v1", "StorageClass", read_as::<storage::StorageClass>),
    ("storage.k8s.io/v1", "VolumeAttachment", read_as::<storage::VolumeAttachment>),
    ("storage.k8s.io/v1", "VolumeAttributesClass", read_as::<storage::VolumeAttributesClass>),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", read_as::<apiextensions::CustomResourceDefinition>),
    ("apiregistration.k8s.io/v1", "APIService", read_as::<apiregistration::APIService>),
];

fn reader(resource: &Kind) -> Reader {
    let found = READERS
        .iter()
        .find(|(version, kind, _)| *version == resource.api_version() && *kind == resource.kind);
    found.unwrap_or_else(|| panic!("{} {} has no reader here", resource.api_version(), resource.kind)).2
}

/// Chance, as a row of bytes: what runs out gives zeros, so that every row makes a finite object.
struct Chance<'a>(std::slice::Iter<'a, u8>);

impl Chance<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[usize::from(self.next()) % of.len()]
    }
}

fn nested(levels: u8) -> Value {
    (0..levels)
        .fold(json!({}), |inner, level| if level % 2 == 0 { json!({ "f:a": inner }) } else { json!([inner]) })
}

/// A value that fits nothing in particular.
fn hostile(chance: &mut Chance<'_>) -> Value {
    match chance.next() % 12 {
        0 => json!(null),
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1.5),
        5 => json!(1e300),
        6 => json!(""),
        7 => json!("\u{0}\u{fffd}"),
        8 => json!([null]),
        9 => json!({"a": null}),
        10 => json!([[], {}]),
        _ => nested(chance.next()),
    }
}

fn value(ty: Type<'_>, chance: &mut Chance<'_>, levels: usize) -> Value {
    if chance.next() % 16 == 15 {
        return hostile(chance);
    }
    match ty {
        Type::Bool => json!(chance.next() > 127),
        Type::Int32 => {
            chance.pick(&[json!(0), json!(1), json!(i32::MAX), json!(i32::MIN), json!(80)]).clone()
        }
        Type::Int64 => {
            chance.pick(&[json!(0), json!(1), json!(i64::MAX), json!(i64::MIN), json!(30)]).clone()
        }
        Type::Float => {
            chance.pick(&[json!(0), json!(0.5), json!(1e300), json!(-0.0), json!(u64::MAX)]).clone()
        }
        Type::String => (*chance.pick(&["", "a", "TCP", "é\u{0}", "Always", "127.0.0.1"])).into(),
        Type::Bytes => (*chance.pick(&["", "aGk=", "aGk", "aGl=", "a\nGk=", "*"])).into(),
        Type::Time | Type::MicroTime => (*chance.pick(&[
            "2024-02-29T12:00:00Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "0001-01-01T00:00:00Z",
            "2024-01-01T00:00:00+23:59",
            "2024-01-01T00:00:60Z",
        ]))
        .into(),
        Type::Quantity => {
            let quantities = [
                json!("1"),
                json!("100m"),
                json!(2),
                json!(0.1),
                json!("1e3"),
                json!("12Ei"),
                json!("-1n"),
                json!(" 1"),
            ];
            chance.pick(&quantities).clone()
        }
        Type::IntOrString => {
            chance.pick(&[json!(80), json!("http"), json!("25%"), json!(-1), json!("")]).clone()
        }
        Type::Any => match chance.next() % 4 {
            0 => nested(chance.next() % 120),
            _ => hostile(chance),
        },
        Type::Struct(schema) if levels < 12 => structure(schema, chance, levels + 1),
        Type::Struct(_) => json!({}),
        Type::List(list) => (0..chance.next() % 3).map(|_| value(list.item.get(), chance, levels)).collect(),
        Type::Map(map) => {
            let names = ["a", "b", "example.com/c", "\u{0}", ""];
            let entries = (0..chance.next() % 3)
                .map(|_| ((*chance.pick(&names)).to_owned(), value(map.value.get(), chance, levels)));
            Value::Object(entries.collect())
        }
    }
}

fn structure(schema: &Struct, chance: &mut Chance<'_>, levels: usize) -> Value {
    let mut object = Map::new();
    for field in &*schema.fields {
        if chance.next() % 3 == 1 {
            object.insert(field.name.to_string(), value(field.ty.get(), chance, levels));
        }
    }
    Value::Object(object)
}

fn manager(version: &str) -> Manager<'_> {
    Manager { name: "tester", api_version: version, subresource: "", now: Timestamp::UNIX_EPOCH }
}

/// What the server does with an object that was decoded, as far as it decides about its bytes.
fn stored(resource: &'static Kind, mut object: Value) -> Value {
    defaults::apply(resource, &mut object);
    strategy::prepare_create(resource, &mut object);
    track(resource, None, &mut object);
    object
}

/// Says who owns which field, as the server does: between objects of the stored version.
fn track(resource: &'static Kind, old: Option<&Value>, new: &mut Value) {
    let stored = |object: &Value| convert::to_stored(resource, object.clone());
    let mut tracked = stored(new);
    let versions = apply::Versions::new(resource, kinds::built_in());
    apply::update(versions, old.map(stored).as_ref(), &mut tracked, manager(resource.api_version()));
    let managers =
        tracked.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")).map(Value::take);
    if let (Some(managers), Some(metadata)) =
        (managers, new.get_mut("metadata").and_then(Value::as_object_mut))
    {
        metadata.insert("managedFields".to_owned(), managers);
    }
}

/// As items of a list and rows of a table are sent.
fn wrapped(object: &Value) -> String {
    json!({"rows": [{"object": {"items": [object]}}]}).to_string()
}

fn check(resource: &'static Kind, object: &Value) {
    // The server writes these from its table, whatever a patch made of them.
    let mut object = object.clone();
    let errors = strategy::validate_create(resource, &object);
    if errors.0.iter().any(|error| error.to_string().ends_with("Time: Required value: must be set")) {
        return;
    }
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = (&*resource.kind).into();
    let (read, text) = (reader(resource), object.to_string());
    if let Err(error) = read(text.as_bytes()) {
        panic!("{} {} is stored and cannot be read: {error}\n{text}", resource.api_version(), resource.kind);
    }
    serde_json::from_str::<Value>(&wrapped(&object)).expect("a table of it can be read");
}

#[test]
fn every_kind_has_a_reader() {
    for resource in kinds::all() {
        reader(resource);
    }
}

#[test]
fn an_object_may_nest_as_deep_as_its_readers_read_and_no_deeper() {
    let of = kinds::find("", "v1", "configmaps").unwrap();
    let managed = |levels: u8| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "managedFields": [{
            "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": (0..levels).fold(json!({}), |inner, _| json!({ "f:a": inner }))}]}})
    };
    let decoded =
        |levels: u8| decode::decode(of, managed(levels).to_string().as_bytes(), "", FieldValidation::Strict);
    let deepest = decoded(107).expect("112 levels are read").object;
    check(of, &stored(of, deepest));
    let status = decoded(108).expect_err("refused");
    assert_eq!(status.code(), 400);
    assert!(status.message.contains("exceeded max depth"), "{}", status.message);
}

#[test]
fn what_is_stored_can_be_sent_again() {
    // The deepest object there is; what is recorded of its fields nests deeper than itself.
    let of = kinds::find("apps", "v1", "controllerrevisions").unwrap();
    let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
        "revision": 1, "data": nested(98)});
    let decoded =
        decode::decode(of, object.to_string().as_bytes(), "", FieldValidation::Strict).expect("100 levels");
    let made = stored(of, decoded.object);
    check(of, &made);
    let again =
        decode::decode(of, made.to_string().as_bytes(), "", FieldValidation::Strict).expect("read again");
    assert_eq!(again.object, made);
}

#[test]
fn a_json_patch_cannot_nest_deeper_than_a_body() {
    let of = kinds::find("apps", "v1", "controllerrevisions").unwrap();
    let schema = schema::kind("apps/v1", "ControllerRevision").unwrap();
    let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
        "revision": 1, "data": {}});
    // Each operation puts a hundred levels below the last; so does moving what is there into itself.
    for levels in [0, 50, 100] {
        let step = |at: usize| {
            let path = "/data".to_owned() + &"/a".repeat(at * levels);
            json!({"op": "add", "path": path, "value": (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }))})
        };
        let operations = Value::Array((0..200).map(step).collect()).to_string();
        let patched =
            patch::patch(schema, PatchType::Json, operations.as_bytes(), &object, FieldValidation::Ignore);
        match patched {
            Ok(decoded) => check(of, &decoded.object),
            Err(status) => assert_eq!((status.code(), &*status.message), (422, "exceeded max depth")),
        }
    }
    let wrap = r#"{"op":"move","from":"/data/a","path":"/spare"},{"op":"add","path":"/data/a","value":{}},{"op":"move","from":"/spare","path":"/data/a/a"}"#;
    let operations = format!(
        "[{}]",
        [r#"{"op":"add","path":"/data/a","value":1}"#]
            .into_iter()
            .chain([wrap; 3000])
            .collect::<Vec<_>>()
            .join(",")
    );
    let refused = patch::json(operations.as_bytes(), &object).expect_err("refused");
    assert_eq!((refused.code(), &*refused.message), (422, "exceeded max depth"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_is_read_by_the_types_of_its_kind(entropy in proptest::collection::vec(any::<u8>(), 0..1500)) {
        for resource in kinds::all() {
            let version = resource.api_version();
            let schema = schema::kind(version, &resource.kind).unwrap();
            let mut chance = Chance(entropy.iter());
            let mut object = structure(schema, &mut chance, 0);
            let identity = json!({"name": "n", "namespace": "a"});
            if chance.next() > 127 {
                object["metadata"] = identity;
            }
            object["apiVersion"] = version.into();
            object["kind"] = (&*resource.kind).into();
            let body = object.to_string();
            if let Ok(decoded) = decode::decode(resource, body.as_bytes(), "", FieldValidation::Ignore) {
                let made = stored(resource, decoded.object);
                check(resource, &made);
                let mut second = chance;
                let merge = structure(schema, &mut second, 0).to_string();
                for kind in [PatchType::Merge, PatchType::Strategic] {
                    if let Ok(decoded) = patch::patch(schema, kind, merge.as_bytes(), &made, FieldValidation::Ignore) {
                        let mut new = decoded.object;
                        defaults::apply(resource, &mut new);
                        track(resource, Some(&made), &mut new);
                        check(resource, &new);
                    }
                }
            }
            if let Ok(intent) = apply::intent(schema, version, body.as_bytes())
                && let Ok(mut object) = apply::apply(schema, None, &intent, manager(version), true)
            {
                defaults::apply(resource, &mut object);
                check(resource, &object);
            }
        }
    }
}

#[test]
fn long_lists_are_validated_in_one_pass() {
    // Each of these took minutes where every item was compared with all others.
    let many = |make: fn(usize) -> Value| (0..10_000).map(make).collect::<Vec<_>>();
    let spec = json!({
        "containers": [{
            "name": "a",
            "image": "i",
            "volumeMounts": many(|n| json!({"name": format!("m{n}"), "mountPath": format!("/m{n}")})),
            "volumeDevices": many(|n| json!({"name": format!("d{n}"), "devicePath": format!("/d{n}")})),
        }],
        "volumes": many(|n| json!({"name": format!("v{n}"), "persistentVolumeClaim": {"claimName": format!("p-v{n}")}})),
        "tolerations": many(|n| json!({"key": format!("k{n}"), "operator": "Exists"})),
        "topologySpreadConstraints":
            many(|n| json!({"topologyKey": format!("k{n}"), "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"})),
        "schedulingGates": many(|n| json!({"name": format!("g{n}")})),
    });
    let pods = kinds::find("", "v1", "pods").unwrap();
    let old =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": spec});
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "j".into();
    assert!(!strategy::validate_create(pods, &new).is_empty());
    assert!(!strategy::validate_update(pods, None, &new, &old).is_empty());
}
