//! Confinement that a Pod asks for and this node cannot give: the Pod is refused, since running it
//! without would look like protection and be none.

use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions};

use super::{Host, Reason, Refusal, refuse};
use crate::pod::spec::spec;

/// Upstream's beta annotation, one a container; the field is newer.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// User namespaces, AppArmor, SELinux.
pub(super) fn check(pod: &Pod, host: &Host) -> Result<(), Refusal> {
    check_user_namespace(pod, host)?;
    check_apparmor(pod, host)?;
    check_selinux(pod, host)
}

/// Upstream says so when it makes the sandbox, again and again; here the Pod fails at once.
fn check_user_namespace(pod: &Pod, host: &Host) -> Result<(), Refusal> {
    if spec(pod).host_users != Some(false) {
        return Ok(());
    }
    if let Some(why) = &host.no_users {
        let message =
            format!("can't set `spec.hostUsers: false`, runtime does not support user namespaces: {why}");
        return refuse(Reason::PodFeatureUnsupported, message);
    }
    let travels_back = |container: &Container| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.mount_propagation.as_deref() == Some("Bidirectional"))
    };
    if containers(pod).any(travels_back) {
        let message = "can't set `spec.hostUsers: false` with mountPropagation: Bidirectional, \
            the kernel lets no mount travel out of a user namespace";
        return refuse(Reason::PodFeatureUnsupported, message);
    }
    Ok(())
}

/// Upstream's words; where the host could, it is this program that cannot yet.
fn check_apparmor(pod: &Pod, host: &Host) -> Result<(), Refusal> {
    if !wants_apparmor(pod) {
        return Ok(());
    }
    let why = match host.apparmor {
        true => "this node does not apply AppArmor profiles yet",
        false => "AppArmor is not enabled on the host",
    };
    refuse(Reason::AppArmor, format!("Cannot enforce AppArmor: {why}"))
}

fn wants_apparmor(pod: &Pod) -> bool {
    let confined = |kind: &str| kind != "Unconfined";
    let whole = spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let own = |container: &Container| {
        let context = container.security_context.as_ref();
        context
            .and_then(|context| context.app_armor_profile.as_ref())
            .is_some_and(|profile| confined(&profile.type_))
    };
    let annotated = pod.metadata.annotations.iter().flatten().any(|(key, value)| {
        key.starts_with(APPARMOR_ANNOTATION) && !matches!(value.as_str(), "unconfined" | "")
    });
    whole.is_some_and(|profile| confined(&profile.type_)) || containers(pod).any(own) || annotated
}

/// A label that would confine. `spc_t` is the type of what is not confined, and a privileged container
/// is not confined either: nothing is lost when these do without.
fn check_selinux(pod: &Pod, host: &Host) -> Result<(), Refusal> {
    let confines = |options: &SELinuxOptions| {
        let set = [&options.level, &options.role, &options.type_, &options.user];
        set.into_iter().flatten().any(|part| !part.is_empty()) && options.type_.as_deref() != Some("spc_t")
    };
    let whole = spec(pod).security_context.as_ref().and_then(|context| context.se_linux_options.as_ref());
    let labelled = |container: &Container| {
        let context = container.security_context.as_ref();
        let privileged = context.and_then(|context| context.privileged) == Some(true);
        let own = context.and_then(|context| context.se_linux_options.as_ref());
        !privileged && own.or(whole).is_some_and(confines)
    };
    if !containers(pod).any(labelled) {
        return Ok(());
    }
    let why = match host.selinux {
        true => "this node does not apply SELinux labels yet",
        false => "SELinux is not enabled on the host",
    };
    refuse(Reason::SeLinux, format!("Cannot enforce SELinux: {why}"))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(pod: Value, host: &Host) -> Result<(), (String, String)> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        check(&pod, host).map_err(|refusal| (refusal.reason.word(), refusal.message))
    }

    fn with(pod: Value, container: Value) -> Value {
        json!({"spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]}})
    }

    #[test]
    fn a_profile_that_is_not_applied_refuses_the_pod_in_upstreams_words() {
        let bare = Host::default();
        let able = Host { apparmor: true, ..Host::default() };
        let runtime_default = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        let refused = |why: &str| Err(("AppArmor".into(), format!("Cannot enforce AppArmor: {why}")));
        let none = "AppArmor is not enabled on the host";
        for pod in [
            with(runtime_default.clone(), json!({})),
            with(json!({}), runtime_default),
            json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "localhost/p"}},
                "spec": {"containers": [{"name": "c"}]}}),
        ] {
            assert_eq!(checked(pod.clone(), &bare), refused(none));
            assert_eq!(checked(pod, &able), refused("this node does not apply AppArmor profiles yet"));
        }
        assert_eq!(
            checked(with(json!({"appArmorProfile": {"type": "Unconfined"}}), json!({})), &bare),
            Ok(())
        );
    }

    #[test]
    fn a_label_that_would_confine_refuses_the_pod() {
        let host = Host::default();
        let label = json!({"seLinuxOptions": {"level": "s0:c1,c2"}});
        let refused =
            Err(("SELinux".into(), "Cannot enforce SELinux: SELinux is not enabled on the host".into()));
        assert_eq!(checked(with(label.clone(), json!({})), &host), refused);
        assert_eq!(checked(with(json!({}), label.clone()), &host), refused);
        assert_eq!(checked(with(label, json!({"privileged": true})), &host), Ok(()));
        let unconfined = json!({"seLinuxOptions": {"type": "spc_t", "level": "s0"}});
        assert_eq!(checked(with(json!({}), unconfined), &host), Ok(()));
    }

    #[test]
    fn a_pod_that_wants_a_user_namespace_is_refused_where_there_is_none() {
        let pod = |apart: bool, propagation: &str| {
            let mount = json!({"name": "v", "mountPath": "/v", "mountPropagation": propagation});
            let container = json!({"name": "c", "volumeMounts": [mount]});
            json!({"spec": {"hostUsers": !apart, "containers": [container]}})
        };
        let unable = Host { no_users: Some("no".into()), ..Host::default() };
        let (reason, message) = checked(pod(true, "None"), &unable).unwrap_err();
        assert_eq!(reason, "PodFeatureUnsupported");
        let words = "can't set `spec.hostUsers: false`, runtime does not support user namespaces: no";
        assert_eq!(message, words);
        assert_eq!(checked(pod(false, "Bidirectional"), &unable), Ok(()));
        assert_eq!(checked(pod(true, "HostToContainer"), &Host::default()), Ok(()));
        let (_, message) = checked(pod(true, "Bidirectional"), &Host::default()).unwrap_err();
        assert!(message.contains("mountPropagation: Bidirectional"), "{message}");
    }
}
