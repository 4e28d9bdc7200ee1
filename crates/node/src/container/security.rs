//! Security contexts of Pod and container made into one, and the check of runAsNonRoot.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use runtime::{Seccomp, SecurityContext};

use crate::pod::spec::{full_name, spec};

/// Where a container's seccomp profile comes from.
#[derive(Debug)]
pub struct Profiles<'a> {
    /// Those named by `localhostProfile`.
    pub directory: &'a Path,
    /// That of a container that names none.
    pub unset: Seccomp,
}

/// What the container's process may do. A Pod that names no seccomp profile gets the runtime's default one
/// if the node is not told otherwise: safer than upstream's `Unconfined`, and what `seccompDefault` does there.
pub fn context(pod: &Pod, container: &Container, profiles: &Profiles<'_>) -> SecurityContext {
    let whole = spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let privileged = own.and_then(|own| own.privileged) == Some(true);
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let mut groups = names_of_groups(whole.and_then(|whole| whole.supplemental_groups.as_ref()));
    groups.extend(whole.and_then(|whole| whole.fs_group).filter(|group| !groups.contains(group)));
    let profile = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or(whole.and_then(|whole| whole.seccomp_profile.as_ref()));
    SecurityContext {
        run_as_user: own.and_then(|own| own.run_as_user).or(whole.and_then(|whole| whole.run_as_user)),
        run_as_group: own.and_then(|own| own.run_as_group).or(whole.and_then(|whole| whole.run_as_group)),
        supplemental_groups: groups,
        strict_groups: whole.and_then(|whole| whole.supplemental_groups_policy.as_deref()) == Some("Strict"),
        privileged,
        readonly_rootfs: own.and_then(|own| own.read_only_root_filesystem) == Some(true),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        add_capabilities: names(capabilities.and_then(|capabilities| capabilities.add.as_ref())),
        drop_capabilities: names(capabilities.and_then(|capabilities| capabilities.drop.as_ref())),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, profiles) },
        // Safe in a user namespace only, which the API sees to; should another have come in before, its /proc
        // is masked all the same.
        unmasked_proc: spec(pod).host_users == Some(false)
            && own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked"),
    }
}

fn names_of_groups(list: Option<&Vec<i64>>) -> Vec<i64> {
    list.cloned().unwrap_or_default()
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Profiles<'_>) -> Seccomp {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => Seccomp::Unconfined,
        Some(("Localhost", Some(file))) => Seccomp::Localhost(profiles.directory.join(file)),
        Some(_) => Seccomp::RuntimeDefault,
        None => profiles.unset.clone(),
    }
}

/// Refuses to run as root where the Pod forbids it. `image_user` is USER of the image.
pub fn check_non_root(pod: &Pod, container: &Container, image_user: &str) -> Result<(), String> {
    let whole = spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let demanded = own.and_then(|own| own.run_as_non_root).or(whole.and_then(|whole| whole.run_as_non_root));
    if demanded != Some(true) {
        return Ok(());
    }
    let about = format!("(pod: {:?}, container: {})", full_name(pod), container.name);
    match own.and_then(|own| own.run_as_user).or(whole.and_then(|whole| whole.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {about}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        _ if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {about}")),
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {about}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pod: serde_json::Value, own: serde_json::Value) -> Pod {
        let container = serde_json::json!({"name": "c", "securityContext": own});
        let json = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [container]}});
        serde_json::from_value(json).unwrap()
    }

    fn profiles(unset: Seccomp) -> Profiles<'static> {
        Profiles { directory: Path::new("/p"), unset }
    }

    #[test]
    fn the_node_says_what_a_container_without_a_profile_has() {
        let of = |profile: serde_json::Value, unset: Seccomp| {
            let pod = pod(serde_json::json!({}), serde_json::json!({"seccompProfile": profile}));
            context(&pod, &spec(&pod).containers[0], &profiles(unset)).seccomp
        };
        let (none, runtimes) = (serde_json::Value::Null, serde_json::json!({"type": "RuntimeDefault"}));
        assert_eq!(of(none.clone(), Seccomp::RuntimeDefault), Seccomp::RuntimeDefault);
        assert_eq!(of(none, Seccomp::Unconfined), Seccomp::Unconfined);
        assert_eq!(of(runtimes, Seccomp::Unconfined), Seccomp::RuntimeDefault);
        let local = serde_json::json!({"type": "Localhost", "localhostProfile": "a/b.json"});
        assert_eq!(of(local, Seccomp::RuntimeDefault), Seccomp::Localhost("/p/a/b.json".into()));
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let pod = pod(
            serde_json::json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [5]}),
            serde_json::json!({"runAsUser": 7, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false}),
        );
        let context = context(&pod, &spec(&pod).containers[0], &profiles(Seccomp::RuntimeDefault));
        assert_eq!((context.run_as_user, context.run_as_group), (Some(7), Some(3000)));
        assert_eq!(context.supplemental_groups, [5, 2000]);
        assert!(context.no_new_privileges);
        assert_eq!(
            (context.drop_capabilities, context.seccomp),
            (vec!["ALL".to_string()], Seccomp::RuntimeDefault)
        );
    }

    #[test]
    fn no_container_sees_an_unmasked_proc_as_the_hosts_root() {
        let pod = pod(serde_json::json!({}), serde_json::json!({"procMount": "Unmasked"}));
        let unmasked = |pod: &Pod| {
            context(pod, &spec(pod).containers[0], &profiles(Seccomp::RuntimeDefault)).unmasked_proc
        };
        assert!(!unmasked(&pod));
        let mut apart = pod;
        apart.spec.as_mut().unwrap().host_users = Some(false);
        assert!(unmasked(&apart));
    }

    #[test]
    fn root_is_refused_in_upstreams_words() {
        let pod = pod(serde_json::json!({"runAsNonRoot": true}), serde_json::json!({}));
        let check = |user| check_non_root(&pod, &spec(&pod).containers[0], user);
        let root = "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)";
        assert_eq!(check("").unwrap_err(), root);
        assert_eq!(check("0:0").unwrap_err(), root);
        assert!(check("1000").is_ok());
        assert!(check("nginx").unwrap_err().contains("non-numeric user (nginx)"));
    }
}
