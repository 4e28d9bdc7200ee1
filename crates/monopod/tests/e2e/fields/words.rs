//! What containers are told: variables, names, files, accounts.

use crate::harness::Instance;
use crate::volumes::{SLEEPS, pod, sh, waits};

const OBJECTS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {a: from-map, b: second}\n\
    ---\napiVersion: v1\nkind: Secret\nmetadata: {name: secret}\nstringData: {s: from-secret}\n\
    ---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: worker}\n\
    ---\napiVersion: v1\nkind: Service\nmetadata: {name: old-style}\nspec: {ports: [{port: 8080}], selector: {a: b}}\n\
    ---\napiVersion: v1\nkind: Service\nmetadata: {name: sub}\nspec: {clusterIP: None, selector: {app: named}, ports: [{port: 80}]}\n";

/// A Pod with variables of every source, and what its program is told besides.
fn told_everything() -> String {
    let field = |name: &str, path: &str| {
        format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}")
    };
    let of = |name: &str, resource: &str, divisor: &str| {
        format!(
            "{{name: {name}, valueFrom: {{resourceFieldRef: {{resource: {resource}, divisor: {divisor}}}}}}}"
        )
    };
    let env = [
        "{name: PLAIN, value: \"a b\"}".to_owned(),
        "{name: AFTER, value: \"<$(PLAIN)> $$(PLAIN) $(NONE)\"}".to_owned(),
        "{name: MAP, valueFrom: {configMapKeyRef: {name: map, key: a}}}".to_owned(),
        "{name: SECRET, valueFrom: {secretKeyRef: {name: secret, key: s}}}".to_owned(),
        "{name: GONE, valueFrom: {configMapKeyRef: {name: none, key: a, optional: true}}}".to_owned(),
        "{name: LOST, valueFrom: {secretKeyRef: {name: secret, key: none, optional: true}}}".to_owned(),
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("ID", "metadata.uid"),
        field("LABEL", "metadata.labels['app']"),
        field("NOTE", "metadata.annotations['note']"),
        field("NODE", "spec.nodeName"),
        field("ACCOUNT", "spec.serviceAccountName"),
        field("HOST", "status.hostIP"),
        field("HOSTS", "status.hostIPs"),
        field("IP", "status.podIP"),
        field("IPS", "status.podIPs"),
        of("CPU", "limits.cpu", "1m"),
        of("MEMORY", "requests.memory", "1Mi"),
    ];
    let container = format!(
        "command: [sh, -c, \"echo $0 $1; exec sleep 3600\"], args: [\"$(MAP)\", \"$$(MAP)\"], workingDir: /tmp/made, \
         resources: {{limits: {{cpu: 250m, memory: 32Mi}}}}, env: [{}], \
         envFrom: [{{configMapRef: {{name: map}}, prefix: M_}}, {{secretRef: {{name: secret}}}}, \
         {{configMapRef: {{name: none, optional: true}}}}]",
        env.join(", ")
    );
    pod("told", "serviceAccountName: worker,", &container)
        .replace("{name: told}", "{name: told, labels: {app: web}, annotations: {note: noted}}")
}

#[test]
fn variables_come_from_everything_that_has_a_name() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(OBJECTS);
    let manifest = told_everything();
    instance.apply(&manifest);
    instance.wait("condition=Ready", "pod/told");
    assert_eq!(instance.kubectl(&["logs", "told"]).ok(), "from-map $(MAP)\n");
    let shown = |path: &str| instance.field("pod/told", path);
    let said = sh(
        &instance,
        "told",
        "echo \"$AFTER|$MAP|$SECRET|${GONE-none}|${LOST-none}|$M_b|$s\"; echo $NAME $NAMESPACE $LABEL $NOTE $ACCOUNT; \
         echo $ID $NODE $HOST $HOSTS $IP $IPS; echo $CPU $MEMORY; pwd",
    )
    .ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "<a b> $(PLAIN) $(NONE)|from-map|from-secret|none|none|second|from-secret");
    assert_eq!(lines[1], "told default web noted worker");
    let (host, ip) = (shown("{.status.hostIP}"), shown("{.status.podIP}"));
    let facts = format!("{} {} {host} {host} {ip} {ip}", shown("{.metadata.uid}"), shown("{.spec.nodeName}"));
    assert_eq!(lines[2], facts);
    assert_eq!(lines[3..], ["250 32", "/tmp/made"]);
    assert_eq!(shown("{.status.hostIPs[0].ip} {.status.podIPs[0].ip}"), format!("{host} {ip}"));

    instance.apply(&pod(
        "misses",
        "",
        &format!("{SLEEPS}, env: [{{name: A, valueFrom: {{secretKeyRef: {{name: secret, key: x}}}}}}]"),
    ));
    waits(&instance, "misses", "CreateContainerConfigError", "couldn't find key x in Secret default/secret");
    instance.apply(&pod("lacks", "", &format!("{SLEEPS}, envFrom: [{{configMapRef: {{name: none}}}}]")));
    waits(&instance, "lacks", "CreateContainerConfigError", "configmap \"none\" not found");
}

/// Pods whose names and resolvers differ.
fn name_all(instance: &Instance) {
    let names = "hostname: web, subdomain: sub, hostAliases: [{ip: 192.0.2.7, hostnames: [far, away]}], dnsPolicy: None, \
                 dnsConfig: {nameservers: [192.0.2.53], searches: [a.example], options: [{name: ndots, value: \"3\"}, {name: rotate}]}, \
                 enableServiceLinks: false,";
    instance.apply(&pod("named", names, SLEEPS));
    instance.apply(&pod("plain", "", SLEEPS));
    instance.apply(&pod("full", "hostname: web, subdomain: sub, setHostnameAsFQDN: true,", SLEEPS));
    instance.apply(&pod("other", "hostnameOverride: quite.other,", SLEEPS));
    instance.apply(&pod("hosts", "dnsPolicy: Default,", SLEEPS));
    instance.apply(&pod("host-net", "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,", SLEEPS));
    for name in ["named", "plain", "full", "other", "hosts", "host-net"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
}

#[test]
fn a_pod_has_the_names_and_the_resolver_that_it_asks_for() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(OBJECTS);
    name_all(&instance);
    let said = sh(&instance, "named", "hostname; cat /etc/resolv.conf; cat /etc/hosts; env").ok();
    assert!(said.starts_with("web\n"), "{said}");
    for line in [
        "nameserver 192.0.2.53",
        "search a.example",
        "options ndots:3 rotate",
        "192.0.2.7\tfar\taway",
        "web.sub.default.svc.cluster.local\tweb",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("OLD_STYLE_SERVICE_HOST"), "{said}");
    let plain = sh(&instance, "plain", "hostname; cat /etc/resolv.conf; env").ok();
    assert!(plain.starts_with("plain\n") && plain.contains("OLD_STYLE_SERVICE_HOST="), "{plain}");
    assert!(plain.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{plain}");
    assert!(
        plain.contains("KUBERNETES_SERVICE_HOST=") && plain.contains("OLD_STYLE_PORT_8080_TCP_PORT=8080"),
        "{plain}"
    );
    assert_eq!(sh(&instance, "full", "hostname").ok(), "web.sub.default.svc.cluster.local\n");
    let cluster = |text: &str| text.contains("cluster.local");
    assert!(!cluster(&sh(&instance, "hosts", "cat /etc/resolv.conf").ok()));
    assert!(cluster(&sh(&instance, "host-net", "cat /etc/resolv.conf").ok()));
    assert!(sh(&instance, "host-net", "ls /sys/class/net").ok().lines().count() >= 1);
    assert_eq!(sh(&instance, "other", "hostname").ok(), "quite.other\n");
}

/// A Pod that shows files of every kind.
fn shows_files() -> String {
    let volumes = "volumes: [\
        {name: map, configMap: {name: map, defaultMode: 256, items: [{key: a, path: d/one}, {key: b, path: two, mode: 511}]}}, \
        {name: secret, secret: {secretName: secret}}, \
        {name: none, secret: {secretName: none, optional: true}}, \
        {name: nomap, configMap: {name: none, optional: true}}, \
        {name: facts, downwardAPI: {defaultMode: 384, items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, \
            {path: name, mode: 292, fieldRef: {apiVersion: v1, fieldPath: metadata.name}}, \
            {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}}, \
        {name: all, projected: {defaultMode: 288, sources: [{configMap: {name: map, items: [{key: a, path: map/a}]}}, \
            {secret: {name: secret}}, {downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}}, \
            {serviceAccountToken: {path: token, audience: them, expirationSeconds: 600}}]}}],";
    let mounts = ["map", "secret", "none", "nomap", "facts", "all"]
        .map(|name| format!("{{name: {name}, mountPath: /{name}}}"));
    let container =
        format!("{SLEEPS}, resources: {{limits: {{cpu: 100m}}}}, volumeMounts: [{}]", mounts.join(", "));
    pod("shown", volumes, &container).replace("{name: shown}", "{name: shown, labels: {a: x}}")
}

/// All follow their sources, without a new start.
fn they_follow(instance: &Instance) {
    instance.kubectl(&["label", "pod", "shown", "b=y"]).ok();
    instance.kubectl(&["patch", "configmap", "map", "-p", "{\"data\": {\"a\": \"other\"}}"]).ok();
    instance.kubectl(&["patch", "secret", "secret", "-p", "{\"stringData\": {\"s\": \"other\"}}"]).ok();
    instance.eventually("the files follow", || {
        let said =
            sh(instance, "shown", "cat /map/d/one /all/map/a /secret/s /all/s; grep -c y /facts/labels").out;
        if said == "otherotherotherother1\n" { Ok(()) } else { Err(said) }
    });
}

#[test]
fn files_of_objects_have_the_names_modes_and_contents_that_are_asked_for() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(OBJECTS);
    let manifest = shows_files();
    instance.apply(&manifest);
    instance.wait("condition=Ready", "pod/shown");
    let said = sh(&instance, "shown", "cd /map; stat -Lc '%n %a' d/one two; cat d/one; ls /none /nomap | grep -c x; cat /secret/s; echo; \
        stat -f -c %T /secret; cat /facts/labels; echo; cat /facts/name /facts/cpu; echo; stat -Lc '%n %a' /facts/name /facts/labels; \
        cat /all/map/a /all/s /all/ns; echo; stat -Lc %a /all/token; touch /map/x 2>&1 | grep -o Read-only").ok();
    assert_eq!(
        said,
        "d/one 400\ntwo 777\nfrom-map0\nfrom-secret\ntmpfs\na=\"x\"\nshown100\n/facts/name 444\n\
         /facts/labels 600\nfrom-mapfrom-secretdefault\n440\nRead-only\n"
    );
    let token = sh(&instance, "shown", "cut -d. -f2 /all/token").ok();
    let claims = claims(token.trim());
    assert_eq!(claims["aud"], serde_json::json!(["them"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "shown");
    they_follow(&instance);
}

/// The claims of a token, from its middle part.
fn claims(part: &str) -> serde_json::Value {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_pod_is_its_account_unless_it_wants_none() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(OBJECTS);
    instance.apply(&pod("worker", "serviceAccountName: worker,", SLEEPS));
    instance.apply(&pod("nobody", "automountServiceAccountToken: false,", SLEEPS));
    instance.wait("condition=Ready", "pod/worker");
    instance.wait("condition=Ready", "pod/nobody");
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let said = sh(&instance, "worker", &format!("ls {place}; cut -d. -f2 {place}/token")).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["ca.crt", "namespace", "token"]);
    assert_eq!(claims(lines[3])["sub"], "system:serviceaccount:default:worker");
    assert_eq!(instance.field("pod/worker", "{.spec.serviceAccount}"), "worker");
    sh(&instance, "nobody", &format!("ls {place}")).fails();
}

/// A Pod of two containers with programs that can be told apart.
fn two(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {spec}\n  containers:\n  \
             - {{name: c, image: \"busybox:1.36\", command: [sleep, \"3601\"]}}\n  \
             - {{name: d, image: \"busybox:1.36\", command: [sleep, \"3602\"]}}\n"
    )
}

fn kernels_namespaces_are_right(instance: &Instance) {
    let namespace =
        |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("ours").display().to_string();
    for kind in ["ipc", "net"] {
        let of =
            |name: &str| sh(instance, name, &format!("readlink /proc/self/ns/{kind}")).ok().trim().to_owned();
        assert_eq!(of("node"), namespace(kind), "{kind}");
        assert_ne!(of("own"), namespace(kind), "{kind}");
    }
    assert_eq!(instance.field("pod/node", "{.status.podIP}"), instance.field("pod/node", "{.status.hostIP}"));
}

#[test]
fn namespaces_are_the_pods_the_nodes_or_the_containers_own() {
    let instance = Instance::start(&["busybox.tar"]);
    for (name, spec) in [
        ("own", ""),
        ("shares", "shareProcessNamespace: true"),
        ("node", "hostPID: true\n  hostIPC: true\n  hostNetwork: true"),
    ] {
        instance.apply(&two(name, spec));
    }
    for name in ["own", "shares", "node"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    let programs = |name: &str| sh(&instance, name, "ps -o pid,args").ok();
    let own = programs("own");
    let first = |said: &str| said.lines().any(|line| line.trim() == "1 sleep 3601");
    assert!(first(&own) && !own.contains("3602"), "{own}");
    let shared = programs("shares");
    assert!(shared.contains("sleep 3601") && shared.contains("sleep 3602") && !first(&shared), "{shared}");
    assert!(programs("node").contains("monopod"), "the node's programs are in sight");
    kernels_namespaces_are_right(&instance);
}
