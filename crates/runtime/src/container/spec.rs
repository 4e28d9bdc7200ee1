//! From what the node asks and what the image says to what the shim is told. Pure.

use std::path::{Path, PathBuf};

use shim::protocol::{self, ContainerSpec, LogSpec, MountSource, PidMode, Rootfs};

use crate::interface::{
    ContainerConfig, Device, Error, Image, Mount, NamespaceMode, Propagation, Resources, Seccomp,
    SecurityContext,
};
use crate::sandbox::SandboxRecord;

/// What containerd puts in front of every environment.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a Image,
    pub(crate) sandbox: &'a SandboxRecord,
    pub(crate) sandbox_directory: &'a Path,
    /// The container's own directory.
    pub(crate) directory: &'a Path,
    /// The image's layers, the topmost first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) cgroup: String,
    pub(crate) hostname: &'a str,
    pub(crate) log: LogSpec,
}

/// The specification for the shim.
pub(crate) fn spec(parts: Parts<'_>) -> Result<ContainerSpec, Error> {
    let Parts { config, image, .. } = parts;
    let upper = parts.directory.join("upper");
    let rootfs = Rootfs::Overlay { lowers: parts.layers.clone(), upper, work: parts.directory.join("work") };
    let mut spec = ContainerSpec::new(parts.id, rootfs, argv(config, image)?, parts.cgroup.clone());
    spec.readonly_rootfs = config.security.readonly_rootfs;
    spec.mounts = mounts(&parts);
    spec.devices = config.devices.iter().map(device).collect();
    spec.env = environment(config, image, parts.hostname);
    spec.cwd = first_of(&config.working_dir, &image.working_dir).to_owned();
    spec.user = user(&config.security, image);
    spec.security = security(&config.security);
    spec.tty = config.tty;
    spec.stdin = config.stdin;
    spec.stdin_once = config.stdin_once;
    spec.resources = resources(&config.resources);
    spec.oom_score_adj = config.resources.oom_score_adj;
    spec.pid = pid(config.pid.as_ref().unwrap_or(&parts.sandbox.config.pid));
    spec.log = Some(parts.log);
    Ok(spec)
}

/// `command` replaces the image's entrypoint and makes the image's command forgotten;
/// `args` replaces the image's command.
fn argv(config: &ContainerConfig, image: &Image) -> Result<Vec<String>, Error> {
    let (entrypoint, arguments) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let argv: Vec<String> = entrypoint.iter().chain(arguments).cloned().collect();
    if argv.is_empty() {
        return Err(Error::Start { message: "no command specified".into() });
    }
    Ok(argv)
}

/// The default `PATH`, the host name, the image's, the container's: later ones replace earlier ones
/// in place.
fn environment(config: &ContainerConfig, image: &Image, hostname: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    let own = config.env.iter().map(|(name, value)| format!("{name}={value}"));
    for variable in image.env.iter().cloned().chain(own) {
        let name = name_of(&variable);
        match all.iter_mut().find(|known| name_of(known) == name) {
            Some(known) => *known = variable,
            None => all.push(variable),
        }
    }
    all
}

fn name_of(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

fn first_of<'a>(own: &'a str, image: &'a str) -> &'a str {
    if own.is_empty() { image } else { own }
}

fn user(security: &SecurityContext, image: &Image) -> protocol::UserSpec {
    let id = |number: Option<i64>| number.and_then(|n| u32::try_from(n).ok());
    protocol::UserSpec {
        uid: id(security.run_as_user),
        gid: id(security.run_as_group),
        image_user: image.user.clone(),
        groups: security.supplemental_groups.iter().filter_map(|g| id(Some(*g))).collect(),
        strict_groups: security.strict_groups,
    }
}

fn security(security: &SecurityContext) -> protocol::Security {
    protocol::Security {
        privileged: security.privileged,
        no_new_privileges: security.no_new_privileges,
        add_capabilities: security.add_capabilities.clone(),
        drop_capabilities: security.drop_capabilities.clone(),
        seccomp: match &security.seccomp {
            Seccomp::Unconfined => protocol::Seccomp::Unconfined,
            Seccomp::RuntimeDefault => protocol::Seccomp::RuntimeDefault,
            Seccomp::Localhost(path) => protocol::Seccomp::Localhost(path.clone()),
        },
        unmasked_proc: security.unmasked_proc,
    }
}

/// Limits in the shim's words.
pub(crate) fn resources(resources: &Resources) -> protocol::Resources {
    protocol::Resources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit: resources.memory_limit,
        pids_limit: resources.pids_limit,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        ..protocol::Resources::default()
    }
}

fn pid(mode: &NamespaceMode) -> PidMode {
    match mode {
        NamespaceMode::Pod => PidMode::Sandbox,
        NamespaceMode::Container => PidMode::Own,
        NamespaceMode::Node => PidMode::Host,
        NamespaceMode::Target(id) => PidMode::Container(id.clone()),
    }
}

/// The sandbox's files, unless the Pod mounts something there itself, and the Pod's mounts; what
/// is mounted above comes before what is mounted below it, in whatever order the Pod names them
/// (containerd's order).
fn mounts(parts: &Parts<'_>) -> Vec<protocol::Mount> {
    let mounted = |path: &str| parts.config.mounts.iter().any(|m| m.container_path == Path::new(path));
    let shm = match parts.sandbox.config.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => parts.sandbox_directory.join("shm"),
    };
    let files = [
        ("/etc/hostname", parts.sandbox_directory.join("hostname"), parts.config.security.readonly_rootfs),
        (
            "/etc/resolv.conf",
            parts.sandbox_directory.join("resolv.conf"),
            parts.config.security.readonly_rootfs,
        ),
        ("/dev/shm", shm, false),
    ];
    let own = files.into_iter().filter(|(path, ..)| !mounted(path)).map(|(path, source, read_only)| {
        protocol::Mount {
            destination: path.into(),
            source: MountSource::Bind(source),
            read_only,
            recursive_read_only: false,
            propagation: protocol::Propagation::Private,
            mapped: false,
        }
    });
    let mut all: Vec<protocol::Mount> = own.chain(parts.config.mounts.iter().map(mount)).collect();
    all.sort_by_key(|mount| mount.destination.components().count());
    all
}

fn mount(mount: &Mount) -> protocol::Mount {
    protocol::Mount {
        destination: mount.container_path.clone(),
        source: MountSource::Bind(mount.host_path.clone()),
        read_only: mount.read_only,
        recursive_read_only: mount.recursive_read_only,
        mapped: mount.mapped,
        propagation: match mount.propagation {
            Propagation::Private => protocol::Propagation::Private,
            Propagation::HostToContainer => protocol::Propagation::HostToContainer,
            Propagation::Bidirectional => protocol::Propagation::Bidirectional,
        },
    }
}

fn device(device: &Device) -> protocol::Device {
    protocol::Device {
        host_path: device.host_path.clone(),
        container_path: device.container_path.clone(),
        // As upstream's node asks for them.
        permissions: if device.read_only { "r" } else { "mrw" }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(command: &[&str], args: &[&str]) -> ContainerConfig {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        ContainerConfig {
            name: "c".into(),
            attempt: 0,
            image: String::new(),
            command: strings(command),
            args: strings(args),
            working_dir: String::new(),
            env: vec![("A".into(), "own".into()), ("B".into(), "b=c".into())],
            mounts: Vec::new(),
            devices: Vec::new(),
            stop_signal: String::new(),
            log_path: PathBuf::new(),
            stdin: false,
            stdin_once: false,
            tty: false,
            resources: Resources::default(),
            security: SecurityContext::default(),
            pid: None,
            labels: Default::default(),
            annotations: Default::default(),
        }
    }

    fn image() -> Image {
        Image {
            entrypoint: vec!["entry".into()],
            cmd: vec!["cmd".into()],
            env: vec!["A=image".into(), "PATH=/bin".into()],
            ..Image::default()
        }
    }

    #[test]
    fn command_and_args_replace_as_the_table_of_the_documentation_says() {
        let run = |command: &[&str], args: &[&str]| argv(&config(command, args), &image()).unwrap().join(" ");
        assert_eq!(run(&[], &[]), "entry cmd");
        assert_eq!(run(&["own"], &[]), "own");
        assert_eq!(run(&[], &["arg"]), "entry arg");
        assert_eq!(run(&["own"], &["arg"]), "own arg");
        let error = argv(&config(&[], &[]), &Image::default()).unwrap_err();
        assert_eq!(error.to_string(), "no command specified");
    }

    #[test]
    fn a_later_variable_replaces_an_earlier_one() {
        let env = environment(&config(&[], &[]), &image(), "pod-1");
        assert_eq!(env, ["PATH=/bin", "HOSTNAME=pod-1", "A=own", "B=b=c"]);
    }
}
