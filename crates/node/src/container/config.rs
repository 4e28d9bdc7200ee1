//! Sandbox and container configurations for the runtime.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{
    ContainerConfig, Device, Mount, NamespaceMode, PodIdentity, PortMapping, Propagation, SandboxConfig,
};

use super::expand::{Budget, TooLong, expand};
use super::security::{self, Profiles};
use super::{hosts, resources};
use crate::pod::qos;
use crate::pod::spec::spec;

/// Everything about one start that is not in the Pod.
#[derive(Debug)]
pub struct Start<'a> {
    /// Restart number.
    pub attempt: u32,
    /// Image id.
    pub image: &'a str,
    /// The finished environment.
    pub env: Vec<(String, String)>,
    /// The finished mounts.
    pub mounts: Vec<Mount>,
    /// Its seccomp profiles.
    pub seccomp: Profiles<'a>,
    /// Block devices of its volumes.
    pub devices: Vec<Device>,
    /// Memory of the node in bytes.
    pub node_memory: i64,
    /// PID namespace to join (ephemeral containers).
    pub pid: Option<NamespaceMode>,
}

/// Who the Pod is.
pub fn identity(pod: &Pod, attempt: u32) -> PodIdentity {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    PodIdentity {
        name: text(&pod.metadata.name),
        namespace: text(&pod.metadata.namespace),
        uid: text(&pod.metadata.uid),
        attempt,
    }
}

/// `<logs>/<namespace>_<name>_<uid>`.
pub fn log_directory(logs: &Path, pod: &Pod) -> PathBuf {
    let identity = identity(pod, 0);
    logs.join(format!("{}_{}_{}", identity.namespace, identity.name, identity.uid))
}

/// `<name>/<attempt>.log`, relative to the Pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> PathBuf {
    Path::new(container).join(format!("{attempt}.log"))
}

/// The Pod's sandbox; an error is the text of `FailedCreatePodSandBox`.
pub fn sandbox(
    pod: &Pod,
    attempt: u32,
    logs: &Path,
    dns: runtime::DnsConfig,
    cluster_domain: &str,
) -> Result<SandboxConfig, String> {
    let spec = spec(pod);
    let or_node =
        |host: Option<bool>, mode: NamespaceMode| if host == Some(true) { NamespaceMode::Node } else { mode };
    let shared = spec.share_process_namespace == Some(true);
    let own_pid = if shared { NamespaceMode::Pod } else { NamespaceMode::Container };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    Ok(SandboxConfig {
        pod: identity(pod, attempt),
        hostname: hosts::kernel_hostname(pod, cluster_domain)?,
        log_directory: log_directory(logs, pod),
        dns: Some(dns),
        port_mappings: port_mappings(pod),
        network: or_node(spec.host_network, NamespaceMode::Pod),
        pid: or_node(spec.host_pid, own_pid),
        ipc: or_node(spec.host_ipc, NamespaceMode::Pod),
        qos: qos::class(pod),
        resources: resources::pod(pod),
        cpu_request: resources::cpu_request(pod),
        sysctls: sysctls.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect(),
        users: None,
        labels: labels(pod, None),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
    })
}

/// Host ports; on the node's own network there is nothing to map.
fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
            Some(PortMapping {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                container_port: number(port.container_port)?,
                host_port: number(port.host_port?)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// The labels by which tools know a kubelet's containers.
fn labels(pod: &Pod, container: Option<&str>) -> BTreeMap<String, String> {
    let identity = identity(pod, 0);
    let mut labels = match container {
        None => pod.metadata.labels.clone().unwrap_or_default(),
        Some(_) => BTreeMap::new(),
    };
    labels.insert("io.kubernetes.pod.name".into(), identity.name);
    labels.insert("io.kubernetes.pod.namespace".into(), identity.namespace);
    labels.insert("io.kubernetes.pod.uid".into(), identity.uid);
    if let Some(name) = container {
        labels.insert("io.kubernetes.container.name".into(), name.into());
    }
    labels
}

/// One container; an error is the text of `CreateContainerConfigError`.
pub fn container(pod: &Pod, container: &Container, start: Start<'_>) -> Result<ContainerConfig, String> {
    let (command, args) = arguments(container, &start.env)
        .map_err(|error| format!("failed to make the command of container {:?}: {error}", container.name))?;
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: start.attempt,
        image: start.image.into(),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: start.mounts,
        devices: start.devices,
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone())
            .unwrap_or_default(),
        log_path: log_path(&container.name, start.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::container(pod, container.resources.as_ref(), start.node_memory),
        security: security::context(pod, container, &start.seccomp),
        pid: start.pid,
        labels: labels(pod, Some(&container.name)),
        annotations: BTreeMap::from([(
            "io.kubernetes.container.restartCount".into(),
            start.attempt.to_string(),
        )]),
        env: start.env,
    })
}

/// Command and arguments with their variables replaced; with the environment they are to fit into
/// what a program may be started with.
fn arguments(container: &Container, env: &[(String, String)]) -> Result<(Vec<String>, Vec<String>), TooLong> {
    let mut budget = Budget::default();
    env.iter().try_for_each(|(name, value)| budget.variable(name, value))?;
    let known: HashMap<&str, &str> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut expanded = |list: Option<&Vec<String>>| {
        let one = |text: &String| {
            let text = expand(text, |name| known.get(name).copied())?;
            budget.argument(&text).map(|()| text)
        };
        list.into_iter().flatten().map(one).collect::<Result<Vec<String>, TooLong>>()
    };
    Ok((expanded(container.command.as_ref())?, expanded(container.args.as_ref())?))
}

/// The propagation of a mount.
pub fn propagation(mode: Option<&str>) -> Propagation {
    match mode {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_fit_with_the_environment_into_what_a_kernel_takes() {
        let env = vec![("A".to_owned(), "x".repeat(100_000)), ("A".to_owned(), "last".to_owned())];
        let container = |args: Vec<&str>| -> Container {
            serde_json::from_value(serde_json::json!({"name": "c", "args": args})).unwrap()
        };
        let (_, args) = arguments(&container(vec!["$(A)!"]), &env).unwrap();
        assert_eq!(args, ["last!"]);
        assert_eq!(arguments(&container(vec!["$(A)$(A)"]), &env[..1]), Err(TooLong), "one argument");
        assert_eq!(arguments(&container(vec!["$(A)"; 100]), &env[..1]), Err(TooLong), "all of them");
    }
}
