//! What must not begin at all, because this host cannot enforce it or because it would take the host.

use serde_json::json;

use super::world::{World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "profile-that-is-not-enforced",
            attack: "rely on an AppArmor profile on a host without AppArmor",
            class: "",
            stopped_by: "refused when the node admits the Pod",
            run: profile_that_is_not_enforced,
        },
        Attack {
            name: "unsafe-sysctl",
            attack: "set a sysctl of the host or an unsafe one",
            class: "",
            stopped_by: "SysctlForbidden, or refused when it is validated",
            run: unsafe_sysctl,
        },
        Attack {
            name: "port-of-the-api",
            attack: "a hostPort equal to the port that the API server listens on",
            class: "",
            stopped_by: "refused: the port is not free",
            run: port_of_the_api,
        },
        Attack {
            name: "mounts-that-travel-back",
            attack: "mountPropagation: Bidirectional without being privileged",
            class: "",
            stopped_by: "refused when it is validated",
            run: mounts_that_travel_back,
        },
        Attack {
            name: "environment-that-doubles",
            attack: "thirty variables that each contain the one before twice",
            class: "",
            stopped_by: "the whole environment is bounded while it is expanded",
            run: environment_that_doubles,
        },
        Attack {
            name: "address-of-the-host-as-pod",
            attack: "write 127.0.0.1 as a Pod's address and have the API server proxy to it",
            class: "CVE-2020-8562",
            stopped_by: "loopback, link-local and other special addresses are not proxied to",
            run: address_of_the_host_as_pod,
        },
        Attack {
            name: "claim-of-another-namespace",
            attack: "mount a Secret of another namespace by its name",
            class: "",
            stopped_by: "names are looked up in the Pod's namespace only",
            run: claim_of_another_namespace,
        },
    ]
}

fn profile_that_is_not_enforced(world: &World) -> Outcome {
    let mut container = shell("echo began");
    container["securityContext"] = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    let ended = world.run("profile-that-is-not-enforced", json!({"containers": [container]}));
    check(!ended.logs.contains("began") && ended.why.contains("AppArmor"), &format!("{ended:?}"))
}

fn unsafe_sysctl(world: &World) -> Outcome {
    for (number, (name, value)) in [
        ("kernel.core_pattern", "x"),
        ("kernel.msgmax", "1"),
        ("net.ipv4.ip_forward", "1"),
        ("vm.swappiness", "1"),
        ("kernel/../vm/swappiness", "1"),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}, "containers": [shell("echo began")]});
        let ended = world.run(&format!("unsafe-sysctl-{number}"), spec);
        check(!ended.logs.contains("began") && !ended.why.is_empty(), &format!("{name}: {ended:?}"))?;
    }
    Ok(())
}

fn port_of_the_api(world: &World) -> Outcome {
    let server =
        world.instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
    let port: u16 = server.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut container = shell("echo began; sleep 5");
    container["ports"] = json!([{"containerPort": port, "hostPort": port}]);
    let ended = world.run("port-of-the-api", json!({"containers": [container]}));
    check(!ended.logs.contains("began"), &format!("{ended:?}"))?;
    check(world.instance.kubectl(&["get", "--raw", "/readyz"]).out == "ok", "the API is cut off")
}

fn mounts_that_travel_back(world: &World) -> Outcome {
    let mut container = shell("echo began");
    container["volumeMounts"] =
        json!([{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
    world
        .run("mounts-that-travel-back", spec)
        .never_began("Bidirectional mount propagation is available only to privileged containers")
}

fn environment_that_doubles(world: &World) -> Outcome {
    let mut variables = vec![json!({"name": "A0", "value": "xxxxxxxx"})];
    for number in 1..40 {
        let value = format!("$(A{0})$(A{0})", number - 1);
        variables.push(json!({"name": format!("A{number}"), "value": value}));
    }
    let mut container = shell("echo began");
    container["env"] = json!(variables);
    let ended = world.run("environment-that-doubles", json!({"containers": [container]}));
    check(!ended.logs.contains("began"), &format!("{ended:?}"))?;
    check(world.instance.kubectl(&["get", "--raw", "/readyz"]).out == "ok", "the daemon is gone")
}

fn address_of_the_host_as_pod(world: &World) -> Outcome {
    let name = "address-of-the-host-as-pod";
    let refused =
        world.create(name, json!({"containers": [shell("sleep 600")], "nodeSelector": {"no": "where"}}));
    check(refused.is_empty(), &refused)?;
    for address in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1"] {
        let patch = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        world.instance.kubectl(&[
            "patch",
            "pod",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch.to_string(),
        ]);
        let path = format!("/api/v1/namespaces/default/pods/{name}:1/proxy/");
        let said = world.instance.kubectl(&["get", "--raw", &path]);
        check(
            said.code != 0 && !said.err.contains("refused"),
            &format!("{address}: {} {}", said.out, said.err),
        )?;
    }
    world.delete(name);
    Ok(())
}

fn claim_of_another_namespace(world: &World) -> Outcome {
    let words = ["create", "secret", "generic", "elsewhere", "-n", "kube-system", "--from-literal=k=hidden"];
    world.instance.kubectl(&words).ok();
    for (number, reference) in
        ["elsewhere", "../kube-system/elsewhere", "kube-system/elsewhere"].iter().enumerate()
    {
        let name = format!("claim-of-another-{number}");
        let mut container = shell("cat /v/k; echo began");
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let volume = json!({"name": "v", "secret": {"secretName": reference, "optional": true}});
        let refused = world.create(&name, json!({"containers": [container], "volumes": [volume]}));
        if !refused.is_empty() {
            continue;
        }
        // A name that cannot be one keeps the Pod waiting; by the time another one has run to its end, this
        // one has done what it ever will.
        world.script(&format!("{name}-other"), "sleep 1").clean()?;
        let ended = world.until(&name, |_| true);
        world.delete(&name);
        check(!ended.logs.contains("hidden"), &format!("{reference}: {ended:?}"))?;
    }
    Ok(())
}
