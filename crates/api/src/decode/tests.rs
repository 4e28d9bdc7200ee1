//! What bodies are read as, and what is wrong with them in Go's words.

use serde_json::json;

use super::*;
use crate::kinds;

fn pod(body: &Value, validation: FieldValidation) -> Result<Decoded, Status> {
    let pods = kinds::find("", "v1", "pods").expect("pods are served");
    decode(pods, &serde_json::to_vec(body).unwrap(), "application/json", validation)
}

fn pod_error(body: &Value) -> String {
    pod(body, FieldValidation::Strict).expect_err("the body is refused").message
}

fn with_container(container: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}})
}

#[test]
fn unknown_fields_are_refused_when_strict_and_named_with_their_place() {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unk"},
        "spec": {"containers": [{"name": "c", "imag": "x"}], "containerz": []}});
    assert_eq!(
        pod_error(&body),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
         unknown field \"spec.containers[0].imag\", unknown field \"spec.containerz\""
    );
    let decoded = pod(&body, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        ["unknown field \"spec.containers[0].imag\"", "unknown field \"spec.containerz\""]
    );
    assert!(decoded.object["spec"].get("containerz").is_none());
    assert!(pod(&body, FieldValidation::Ignore).unwrap().warnings.is_empty());
}

#[test]
fn duplicate_fields_are_named_and_the_last_wins() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    let body =
        br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}}}"#;
    let decoded = decode(pods, body, "", FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        ["duplicate field \"metadata.name\"", "duplicate field \"metadata.labels.x\""]
    );
    assert_eq!(decoded.object["metadata"], json!({"name": "b", "labels": {"x": "2"}}));
}

#[test]
fn wrong_types_are_told_in_the_words_of_go() {
    let head = "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal ";
    for (container, message) in [
        (
            json!({"env": [{"name": "A", "value": 1}]}),
            "number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            json!({"ports": "x"}),
            "string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
        ),
        (
            json!({"ports": [{"containerPort": "80"}]}),
            "string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"ports": [{"containerPort": 99_999_999_999_i64}]}),
            "number 99999999999 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"imagePullPolicy": true}),
            "bool into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            json!({"resources": []}),
            "array into Go struct field Container.spec.containers.resources of type v1.ResourceRequirements",
        ),
        (json!({"args": [1]}), "number into Go struct field Container.spec.containers.args of type string"),
    ] {
        assert_eq!(pod_error(&with_container(container)), format!("{head}{message}"));
    }
}

#[test]
fn structs_that_go_embeds_are_named_in_its_errors() {
    let told = |spec: Value| pod_error(&json!({"apiVersion": "v1", "kind": "Pod", "spec": spec}));
    for (spec, place) in [
        (json!({"volumes": [{"name": "v", "emptyDir": 1}]}), "Volume.spec.volumes.VolumeSource.emptyDir of"),
        (
            json!({"containers": [{"livenessProbe": {"tcpSocket": {"host": 1}}}]}),
            "TCPSocketAction.spec.containers.livenessProbe.ProbeHandler.tcpSocket.host of",
        ),
        (
            json!({"volumes": [{"projected": {"sources": [{"secret": {"name": 1}}]}}]}),
            "SecretProjection.spec.volumes.VolumeSource.projected.sources.secret.LocalObjectReference.name of",
        ),
        (json!({"volumes": [{"name": 1}]}), "Volume.spec.volumes.name of"),
    ] {
        let said = told(spec);
        assert!(said.contains(place), "{said}");
    }
}

#[test]
fn a_bad_quantity_ends_decoding_with_the_words_of_its_parser() {
    let body = with_container(json!({"resources": {"limits": {"cpu": "lots"}}, "name": 1}));
    assert_eq!(
        pod_error(&body),
        "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
}

#[test]
fn values_become_what_go_would_write() {
    let body = with_container(json!({
        "name": "c", "stdin": false, "args": [], "image": null, "command": ["a", null],
        "resources": {"limits": {"cpu": "1000m", "memory": "1024Ki"}, "requests": {"cpu": 0.5}},
        "livenessProbe": {"httpGet": {"port": "web"}, "terminationGracePeriodSeconds": 0}
    }));
    let decoded = pod(&body, FieldValidation::Strict).unwrap().object;
    assert_eq!(
        decoded["spec"]["containers"][0],
        json!({
            "name": "c", "command": ["a", ""],
            "resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": "web"}, "terminationGracePeriodSeconds": 0}
        })
    );
    assert_eq!(decoded["status"], json!({}));
    let empty = pod(&json!({}), FieldValidation::Strict).unwrap().object;
    assert_eq!(
        empty,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": null}, "status": {}})
    );
}

#[test]
fn a_null_in_a_map_of_bytes_or_lists_is_an_empty_one() {
    let read = |group, plural, body: &[u8]| {
        let kind = kinds::find(group, "v1", plural).unwrap();
        decode(kind, body, "", FieldValidation::Strict).unwrap().object
    };
    assert_eq!(read("", "secrets", br#"{"data":{"a":null}}"#)["data"], json!({"a": ""}));
    let request = br#"{"spec":{"signerName":"a/b","request":"aGk=","extra":{"a":null}}}"#;
    let read = read("certificates.k8s.io", "certificatesigningrequests", request);
    assert_eq!(read["spec"]["extra"], json!({"a": []}));
}

#[test]
fn decoding_twice_changes_nothing() {
    let body = with_container(json!({"name": "c", "ports": [{"containerPort": 1}], "env": [{"name": "A"}]}));
    let once = pod(&body, FieldValidation::Strict).unwrap().object;
    assert_eq!(pod(&once, FieldValidation::Strict).unwrap().object, once);
}

#[test]
fn secrets_with_bad_base64_are_refused() {
    let secrets = kinds::find("", "v1", "secrets").unwrap();
    let error = decode(secrets, br#"{"data":{"a":"***"}}"#, "", FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.message,
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
    );
    assert_eq!(error.code(), 400);
}

#[test]
fn other_kinds_versions_and_broken_bodies_are_refused() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    for (body, message) in [
        (
            "{broken",
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             invalid character 'b' looking for beginning of object key string ({broken)",
        ),
        (
            "",
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             unexpected end of JSON input (<empty>)",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Nope"}"#,
            "Nope in version \"v1\" cannot be handled as a Pod: no kind \"Nope\" is registered for version \"v1\" \
             in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            r#"{"apiVersion":"v1","kind":"ConfigMap"}"#,
            "ConfigMap in version \"v1\" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): \
             unknown conversion",
        ),
    ] {
        let error = decode(pods, body.as_bytes(), "application/json", FieldValidation::Strict).unwrap_err();
        assert_eq!((error.code(), error.message.as_str()), (400, message));
    }
    assert_eq!(decode(pods, b"x", "text/plain", FieldValidation::Strict).unwrap_err().code(), 415);
}

#[test]
fn yaml_is_read_like_json() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    let body = b"apiVersion: v1\nkind: Pod\nmetadata: {name: page}\nspec:\n  containers:\n  - name: c\n    ports: [{containerPort: 80}]\n";
    let decoded = decode(pods, body, "application/yaml", FieldValidation::Strict).unwrap().object;
    assert_eq!(decoded["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
}

#[test]
fn deep_bodies_are_refused_and_not_followed() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    for depth in [400, 1_000, 1_900, 100_000] {
        let body = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for media_type in ["application/json", "application/yaml"] {
            assert!(decode(pods, body.as_bytes(), media_type, FieldValidation::Strict).is_err());
        }
        let nested = format!("{{\"spec\":{}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for media_type in ["application/json", "application/yaml"] {
            let _ = decode(pods, nested.as_bytes(), media_type, FieldValidation::Ignore);
        }
    }
}
