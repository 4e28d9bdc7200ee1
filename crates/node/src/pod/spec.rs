//! Short questions to a Pod's spec that several parts ask.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, VolumeMount};

/// Where a Pod comes from: "file" for a static one. On a Pod of the API it is [`of_api`]'s to write.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The content of a static Pod's file, summed up.
pub const HASH: &str = "kubernetes.io/config.hash";
/// When the node saw the file first.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// On what shows a static Pod in the API: the hash of its content.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Priorities from here on are critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What a container is to its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs to success before the next starts.
    Init,
    /// An init container that stays: restartPolicy Always.
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added to a running Pod to look at it; never restarted.
    Ephemeral,
}

/// The spec, or an empty one: the API refuses Pods without.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// An annotation of a Pod.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Namespace and name.
pub fn name(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Whether a Pod comes from a file of the node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file")
}

/// Whether a Pod is never evicted, and is let in where others are not.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// A Pod as the API has it, with no claim to come from a file: anybody could write that.
pub fn of_api(pod: Arc<Pod>) -> Arc<Pod> {
    if !is_static(&pod) {
        return pod;
    }
    let mut pod = Pod::clone(&pod);
    pod.metadata.annotations.get_or_insert_default().insert(SOURCE.into(), "api".into());
    Arc::new(pod)
}

/// Whether all that lies below a read-only mount is read-only too. It is possible on every kernel that the
/// program runs on, so `IfPossible` is as good as `Enabled`.
pub fn recursive_read_only(mount: &VolumeMount) -> bool {
    matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// All containers with their roles: init containers, mains, ephemeral ones.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Role, Container)> + '_ {
    let spec = spec(pod);
    let init =
        spec.init_containers.iter().flatten().map(|container| (init_role(container), container.clone()));
    let mains = spec.containers.iter().map(|container| (Role::Main, container.clone()));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|one| (Role::Ephemeral, as_container(one)));
    init.chain(mains).chain(ephemeral)
}

/// The container of this name, whatever its role.
pub fn container(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    let spec = spec(pod);
    let init = spec.init_containers.iter().flatten().find(|container| container.name == name);
    let main = spec.containers.iter().find(|container| container.name == name);
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name);
    init.map(|container| (init_role(container), container.clone()))
        .or_else(|| main.map(|container| (Role::Main, container.clone())))
        .or_else(|| ephemeral.map(|one| (Role::Ephemeral, as_container(one))))
}

fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// The fields an ephemeral container shares with others.
fn as_container(one: &EphemeralContainer) -> Container {
    Container {
        name: one.name.clone(),
        image: one.image.clone(),
        image_pull_policy: one.image_pull_policy.clone(),
        command: one.command.clone(),
        args: one.args.clone(),
        working_dir: one.working_dir.clone(),
        env: one.env.clone(),
        env_from: one.env_from.clone(),
        volume_mounts: one.volume_mounts.clone(),
        volume_devices: one.volume_devices.clone(),
        termination_message_path: one.termination_message_path.clone(),
        termination_message_policy: one.termination_message_policy.clone(),
        security_context: one.security_context.clone(),
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        tty: one.tty,
        ..Container::default()
    }
}

/// `spec.containers{name}` and its siblings, as Events point at a container.
pub fn field_path(role: Role, name: &str) -> String {
    match role {
        Role::Init | Role::Sidecar => format!("spec.initContainers{{{name}}}"),
        Role::Main => format!("spec.containers{{{name}}}"),
        Role::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// The Pod's restart policy.
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// `name_namespace(uid)`: how the kubelet names a Pod in messages.
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// The grace of the spec in seconds.
pub fn grace_period_seconds(pod: &Pod) -> i64 {
    spec(pod).termination_grace_period_seconds.unwrap_or(30)
}
/// What is to be said of host ports on addresses of IPv6: the node's rules are of IPv4.
pub fn host_ports_of_ipv6(pod: &Pod) -> Vec<String> {
    let ports = spec(pod).containers.iter().flat_map(|container| container.ports.iter().flatten());
    let of_ipv6 = ports.filter_map(|port| {
        let address = port.host_ip.as_deref()?.parse::<std::net::Ipv6Addr>().ok()?;
        let number = port.host_port?;
        Some(format!(
            "hostPort {number} is not opened: hostIP {address} is an IPv6 address, and the node has no IPv6"
        ))
    });
    of_ipv6.collect()
}
