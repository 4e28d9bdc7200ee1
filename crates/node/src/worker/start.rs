//! Making the sandbox and starting containers.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Part;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use runtime::{
    ContainerState, Device, Error, IdRange, Mount, NamespaceMode, Propagation, SandboxConfig, Seccomp,
};

use super::kill::exit_of;
use super::{Files, Message, PodWorker, lock};
use crate::Config;
use crate::container::config::{self, Start};
use crate::container::security::Profiles;
use crate::container::{dns, env, expand, hosts, security, services};
use crate::hooks;
use crate::pod::event::{Event, Record, StartFailure};
use crate::pod::spec::{self, spec};
use crate::shared::Shared;
use crate::threads::Threads;
use crate::users::Ranges;
use crate::volumes::{self, Plan, PodDirectory, Source, file, sub_path};

/// By volume and path.
type EnvFiles = HashMap<(String, String), Result<Option<String>, String>>;

impl PodWorker {
    pub(super) fn run_sandbox(&mut self, attempt: u32) {
        let (node, pod, threads) =
            (Arc::clone(&self.node), Arc::clone(&self.state.pod), self.threads.clone());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let full_name = spec::full_name(&pod);
        let (resolv, events) = dns::config(spec(&pod), &namespace, &full_name, &node.dns);
        // What was left out of resolv.conf would be missed by nobody but the Pod: its events say so.
        for (reason, message) in events {
            node.record(&pod, &Record::pod_warning(reason, message));
        }
        let lost = "the task that makes it panicked".to_owned();
        self.spawn(Event::SandboxFailed { attempt, message: lost }, async move {
            // Asked of the API and not of a cache: the class decides on isolation, and Pods with one are few.
            if let Err(message) = check_runtime_class(&node, &pod).await {
                return Event::SandboxFailed { attempt, message };
            }
            let logs = &node.config.logs_directory;
            let config = config::sandbox(&pod, attempt, logs, resolv, &node.config.cluster_domain);
            let with_users = match config {
                Ok(config) => {
                    users_of(&node, &pod, &threads).await.map(|users| SandboxConfig { users, ..config })
                }
                Err(message) => Err(message),
            };
            let config = match with_users {
                Ok(config) => config,
                Err(message) => return Event::SandboxFailed { attempt, message },
            };
            match node.runtime.run_sandbox(config).await {
                Ok(status) => Event::SandboxReady { attempt, id: status.id, ips: status.ips },
                Err(err) => Event::SandboxFailed { attempt, message: err.to_string() },
            }
        });
    }

    pub(super) fn start_container(
        &mut self,
        container: String,
        attempt: u32,
        sandbox: String,
        image: String,
    ) {
        let Some(spec) = self.state.spec_of(&container) else { return };
        // Made now: when the container has ended, the spec may be another.
        let Some(reader) = self.message_reader(&container) else { return };
        let threads = self.threads.clone();
        let starter = Arc::new(Starter {
            threads: threads.clone(),
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.state.pod),
            ips: self.state.sandbox.ips().to_vec(),
            target: self.ephemeral_target(&container),
            files: Arc::clone(&self.files),
            directory: self.directory.clone(),
            container: spec,
            attempt,
            sandbox,
            image,
        });
        let outbox = self.outbox.clone();
        let lost = Event::ContainerFailed {
            container: container.clone(),
            attempt,
            failure: StartFailure::Create,
            message: "the task that starts it panicked".into(),
        };
        self.spawn(lost, async move {
            let send = |event| async { drop(outbox.send(Message::Event(event)).await) };
            match starter.start(&send).await {
                Err((failure, message)) => {
                    Some(Event::ContainerFailed { container, attempt, failure, message })
                }
                Ok(id) => {
                    // An exit before the start was known here would have gone unheard.
                    let exit = exit_of(&starter.node, &threads, &id, reader).await?;
                    Some(Event::ContainerExited { container, exit })
                }
            }
        });
    }

    /// The container whose processes an ephemeral container wants to see.
    fn ephemeral_target(&self, container: &str) -> Option<NamespaceMode> {
        let all = spec(&self.state.pod).ephemeral_containers.iter().flatten();
        let name = all.clone().find(|one| one.name == container)?.target_container_name.clone()?;
        // One that does not run has no namespace to join: the debugger then starts in one of its own.
        let run = self.state.containers.iter().find(|one| one.name == name)?.phase.run()?;
        Some(NamespaceMode::Target(run.id.clone()))
    }

    pub(super) fn run_post_start(&mut self, container: String, id: String) {
        let Some(target) = self.target(&container, id.clone()) else { return };
        let hook = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let Some(hook) = hook else { return };
        let lost = Err("the task that ran the hook panicked".to_owned());
        let lost = Event::PostStartDone { container: container.clone(), id: id.clone(), result: lost };
        self.spawn(lost, async move {
            let result = hooks::run(&target, &hook).await;
            Event::PostStartDone { container, id, result }
        });
    }
}

/// The ids of a Pod in a user namespace of its own.
async fn users_of(node: &Arc<Shared>, pod: &Arc<Pod>, threads: &Threads) -> Result<Option<IdRange>, String> {
    if spec(pod).host_users != Some(false) {
        return Ok(None);
    }
    let (node, uid) = (Arc::clone(node), pod.metadata.uid.clone().unwrap_or_default());
    let reserve = move || {
        let Config { default_users, max_pods, pods_directory, .. } = &node.config;
        Ranges::of_host(*default_users, *max_pods)?.of_pod(pods_directory, &uid)
    };
    let reserved = threads.run(reserve).await?;
    reserved.map(Some).map_err(|why| format!("create user namespace: {why}"))
}

/// There is one runtime: a Pod of a class that means another, with more isolation perhaps, does not start.
async fn check_runtime_class(node: &Shared, pod: &Pod) -> Result<(), String> {
    let Some(name) = spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let class = node.client.get::<RuntimeClass>("", name).await;
    let handler = class.map_err(|error| format!("failed to get RuntimeClass {name:?}: {error}"))?.handler;
    if api::limits::RUNTIME_HANDLERS.contains(&handler.as_str()) {
        return Ok(());
    }
    Err(format!("failed to get sandbox runtime: no runtime for {handler:?} is configured"))
}

/// Longest wait for the proxy to program a Pod's policies; the start is tried again after it.
const ADMIT_AT_MOST: Duration = Duration::from_secs(30);
/// The word by which runtimes say that an image cannot be mounted as a volume.
const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";

/// One start.
struct Starter {
    threads: Threads,
    node: Arc<Shared>,
    pod: Arc<Pod>,
    ips: Vec<std::net::IpAddr>,
    target: Option<NamespaceMode>,
    files: Arc<Files>,
    directory: PodDirectory,
    container: Container,
    attempt: u32,
    sandbox: String,
    image: String,
}

type Failure = (StartFailure, String);

impl Starter {
    /// Creates and starts; tells `ContainerCreated` and `ContainerStarted` on the way.
    async fn start<F, R>(self: &Arc<Self>, send: &F) -> Result<String, Failure>
    where
        F: Fn(Event) -> R,
        R: Future<Output = ()>,
    {
        let name = || self.container.name.clone();
        let (ready, admitted) = tokio::join!(self.ready_config(), self.admitted());
        let config = ready?;
        admitted.map_err(|message| (StartFailure::Create, message))?;
        // Creating and starting are told apart, as Events and the status do: what was created and did not start
        // has an id, a log and an exit code of its own.
        let created = self.node.runtime.create_container(&self.sandbox, config).await;
        let id = created.map_err(|err| (StartFailure::Create, err.to_string()))?;
        send(Event::ContainerCreated { container: name(), id: id.clone() }).await;
        let started = self.node.runtime.start_container(&id).await;
        let status = self.node.runtime.container_status(&id).await.ok();
        // One that had been started before, and has ended since, is told as what it was.
        let ran = status.as_ref().is_some_and(|status| status.started_at.is_some());
        match started {
            Ok(()) => {}
            Err(Error::NotRunning { .. }) if ran => {}
            Err(err) => return Err(start_failed(status, id, err)),
        }
        let started_at = status.as_ref().and_then(|status| status.started_at).unwrap_or_else(Timestamp::now);
        // Read from the process: the image may name its user by a name, which only the runtime resolves.
        let user = status.and_then(|status| status.user).filter(|_| self.tells_user());
        self.link_log(&id);
        let attempt = self.attempt;
        send(Event::ContainerStarted { container: name(), attempt, id: id.clone(), started_at, user }).await;
        Ok(id)
    }

    /// Returns once the network policies of the Pod hold. One on the node's network has none.
    async fn admitted(&self) -> Result<(), String> {
        let on_host = spec(&self.pod).host_network == Some(true);
        match self.node.config.policies.as_ref().filter(|_| !on_host && !self.ips.is_empty()) {
            Some(policies) => policies.admitted(Arc::clone(&self.pod), self.ips.clone(), ADMIT_AT_MOST).await,
            None => Ok(()),
        }
    }

    /// The status shows the user of the first process where the Pod says something about users.
    fn tells_user(&self) -> bool {
        let whole = spec(&self.pod).security_context.as_ref();
        let own = self.container.security_context.as_ref();
        let groups = |context: &k8s_openapi::api::core::v1::PodSecurityContext| {
            context.supplemental_groups.is_some()
                || context.supplemental_groups_policy.is_some()
                || context.fs_group.is_some()
        };
        whole
            .is_some_and(|whole| groups(whole) || whole.run_as_user.is_some() || whole.run_as_group.is_some())
            || own.is_some_and(|own| own.run_as_user.is_some() || own.run_as_group.is_some())
    }

    /// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`, where log collectors look.
    fn link_log(&self, id: &str) {
        let Some(links) = &self.node.config.log_links_directory else { return };
        let identity = config::identity(&self.pod, 0);
        let link =
            links.join(format!("{}_{}_{}-{id}.log", identity.name, identity.namespace, self.container.name));
        let logs = config::log_directory(&self.node.config.logs_directory, &self.pod);
        let target = logs.join(config::log_path(&self.container.name, self.attempt));
        // A log is not worth a container: one that cannot be linked is told, and the program runs.
        let linked = fs::create_dir_all(links).and_then(|()| std::os::unix::fs::symlink(&target, &link));
        if let Err(error) = linked.or_else(|err| if link.is_symlink() { Ok(()) } else { Err(err) }) {
            tracing::warn!(link = %link.display(), %error, "log collectors will not find a log");
        }
    }

    async fn ready_config(self: &Arc<Self>) -> Result<runtime::ContainerConfig, Failure> {
        self.mount_images().await.map_err(|message| (StartFailure::Create, message))?;
        self.config().await
    }

    /// Puts the images in place that the container mounts as volumes. Their layers are here.
    async fn mount_images(&self) -> Result<(), String> {
        let plans = lock(&self.files.plans).clone();
        for mount in self.container.volume_mounts.iter().flatten() {
            let Some(plan) = plans.get(&mount.name) else { continue };
            let Source::Image { reference, .. } = &plan.source else { continue };
            // One at a time: another container of the Pod may be about to mount it too.
            let released = Arc::clone(&self.files.released).lock_owned().await;
            let target = volumes::path_of(&self.directory, plan);
            if *released || self.node.mounts.is_mounted(&target) {
                continue;
            }
            let failed = |why: String| {
                format!("{IMAGE_VOLUME_FAILED}: volume {:?}, image {reference:?}: {why}", plan.name)
            };
            let image =
                self.node.runtime.image_status(reference).await.map_err(|err| failed(err.to_string()))?;
            let id = image.ok_or_else(|| failed("it is gone".into()))?.id;
            let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
            self.node.runtime.mount_image(&id, uid, &target).await.map_err(|err| failed(err.to_string()))?;
        }
        Ok(())
    }

    async fn config(self: &Arc<Self>) -> Result<runtime::ContainerConfig, Failure> {
        let wrong = |message: String| (StartFailure::Config, message);
        let image =
            self.node.runtime.image_status(&self.image).await.map_err(|err| wrong(err.to_string()))?;
        let user = image.map(|image| image.user).unwrap_or_default();
        // Before anything is made: runAsNonRoot is a promise that must hold for the first instruction.
        security::check_non_root(&self.pod, &self.container, &user).map_err(wrong)?;
        let devices = self.devices().map_err(wrong)?;
        let env = self.environment().await.map_err(wrong)?;
        let (this, known) = (Arc::clone(self), env.clone());
        // Sub-paths are looked for in volumes, whose server may be gone.
        let mounts = self.threads.run(move || this.mounts(&known)).await.map_err(wrong)??;
        config::container(
            &self.pod,
            &self.container,
            Start {
                attempt: self.attempt,
                image: &self.image,
                env,
                mounts,
                seccomp: Profiles {
                    directory: &self.node.config.seccomp_directory,
                    unset: match self.node.config.seccomp_default {
                        true => Seccomp::RuntimeDefault,
                        false => Seccomp::Unconfined,
                    },
                },
                devices,
                node_memory: self.node.memory(),
                pid: self.target.clone(),
            },
        )
        .map_err(wrong)
    }

    async fn environment(self: &Arc<Self>) -> Result<Vec<(String, String)>, String> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let (config_maps, secrets) = env::names(&self.container);
        let mut sources = volumes_sources(&self.node, &self.files, namespace, &config_maps, &secrets).await;
        sources.files = self.env_files().await?;
        let facts = self.node.facts(&self.pod, &self.ips);
        // A static Pod needs no API, and so has the variables of those Services alone that are known.
        if !spec::is_static(&self.pod) {
            self.node.services.synced().await;
        }
        let known = self.node.services.list();
        let links = spec(&self.pod).enable_service_links != Some(false);
        // As they are at this moment: a Service that comes later has no variables in this container, with
        // upstream neither.
        let services = services::variables(known.iter().map(|service| &**service), namespace, links);
        let mut all =
            vec![("HOSTNAME".to_string(), hosts::hostname(&self.pod, &self.node.config.cluster_domain).0)];
        all.extend(env::environment(&self.pod, &self.container, &facts, &sources, &services)?);
        Ok(all)
    }

    /// Block devices of the node.
    fn devices(&self) -> Result<Vec<Device>, String> {
        let plans = lock(&self.files.plans);
        let devices = self.container.volume_devices.iter().flatten().map(|device| {
            let (name, container) = (&device.name, &self.container.name);
            match plans.get(name) {
                Some(Plan { source: Source::Block { path }, read_only, .. }) => Ok(Device {
                    host_path: path.clone(),
                    container_path: device.device_path.clone().into(),
                    read_only: *read_only,
                }),
                _ => Err(format!("cannot find volume {name:?} to pass into container {container:?}")),
            }
        });
        devices.collect()
    }

    /// The files of its volumes that its variables come from.
    async fn env_files(self: &Arc<Self>) -> Result<EnvFiles, String> {
        let mut all = EnvFiles::new();
        for (volume, path) in env::files(&self.container) {
            let plan = lock(&self.files.plans).get(&volume).cloned();
            let plan =
                plan.ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
            let (root, below) = (volumes::path_of(&self.directory, &plan), path.clone());
            let text = self.threads.run(move || file::text(&root, below.as_ref())).await?;
            all.insert((volume, path), text);
        }
        Ok(all)
    }

    fn mounts(&self, env: &[(String, String)]) -> Result<Vec<Mount>, Failure> {
        let wrong = |message: String| (StartFailure::Config, message);
        let plans = lock(&self.files.plans).clone();
        let known: HashMap<&str, &str> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut all = Vec::new();
        for (index, mount) in self.container.volume_mounts.iter().flatten().enumerate() {
            let plan = plans.get(&mount.name).ok_or_else(|| {
                wrong(format!(
                    "cannot find volume {:?} to mount into container {:?}",
                    mount.name, self.container.name
                ))
            })?;
            let volume = volumes::path_of(&self.directory, plan);
            let sub = match (&mount.sub_path_expr, &mount.sub_path) {
                (Some(expr), _) if !expr.is_empty() => expand::expand(expr, |name| known.get(name).copied())
                    .map_err(|error| wrong(format!("failed to expand subPath {expr:?}: {error}")))?,
                (_, sub) => sub.clone().unwrap_or_default(),
            };
            let host_path = match (sub.is_empty(), &plan.source) {
                (true, _) => volume,
                (false, source) => self.sub_path(&volume, &sub, &mount.name, index).map_err(|message| {
                    // Nothing is made in an image: what is not there never will be.
                    let missing =
                        || format!("{IMAGE_VOLUME_FAILED}: subPath {sub:?} does not exist: {message}");
                    match source {
                        Source::Image { .. } => (StartFailure::Create, missing()),
                        _ => wrong(message),
                    }
                })?,
            };
            // A claim may be read-only as a whole, whatever the container says.
            let read_only = mount.read_only == Some(true) || plan.read_only;
            all.push(Mount {
                host_path,
                container_path: PathBuf::from(&mount.mount_path),
                read_only,
                recursive_read_only: read_only && spec::recursive_read_only(mount),
                propagation: config::propagation(mount.mount_propagation.as_deref()),
                mapped: matches!(plan.source, Source::Image { .. }),
            });
        }
        self.add_own_files(&mut all).map_err(|err| {
            wrong(format!("failed to make files of container {:?}: {err}", self.container.name))
        })?;
        Ok(all)
    }

    fn sub_path(&self, volume: &Path, sub: &str, name: &str, index: usize) -> Result<PathBuf, String> {
        let target = self.directory.sub_path(name, &self.container.name, index);
        sub_path::bind(&*self.node.mounts, volume, sub, &target).map_err(|error| {
            // The path on the host is for the administrator's eyes: it stands in the log, not in the event.
            tracing::warn!(volume = name, sub, %error, "a sub-path cannot be mounted");
            format!(
                "failed to prepare subPath for volumeMount {name:?} of container {:?}",
                self.container.name
            )
        })
    }

    /// /etc/hosts and the termination message file, unless the container mounts something there.
    fn add_own_files(&self, mounts: &mut Vec<Mount>) -> std::io::Result<()> {
        let taken =
            |path: &str, mounts: &[Mount]| mounts.iter().any(|mount| mount.container_path == Path::new(path));
        let bind = |host_path: PathBuf, path: &str| Mount {
            host_path,
            container_path: path.into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            mapped: false,
        };
        if !taken("/etc/hosts", mounts) {
            let path = self.directory.hosts();
            fs::create_dir_all(self.directory.root())?;
            // Written at each start: a sandbox that was made anew has other addresses.
            fs::write(&path, self.hosts_file())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            mounts.push(bind(path, "/etc/hosts"));
        }
        let message = self.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        if !message.is_empty() && !taken(message, mounts) {
            let path = self.directory.termination_log(&self.container.name, self.attempt);
            fs::create_dir_all(path.parent().unwrap_or(self.directory.root()))?;
            fs::write(&path, "")?;
            // Whoever the container runs as writes it.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
            mounts.push(bind(path, message));
        }
        Ok(())
    }

    fn hosts_file(&self) -> String {
        let aliases = spec(&self.pod).host_aliases.clone().unwrap_or_default();
        if spec(&self.pod).host_network == Some(true) {
            let node = fs::read_to_string("/etc/hosts").unwrap_or_default();
            return hosts::host_network_file(&node, &aliases);
        }
        let (host, domain) = hosts::hostname(&self.pod, &self.node.config.cluster_domain);
        hosts::file(&self.ips, &host, &domain, &aliases)
    }
}

fn start_failed(status: Option<runtime::ContainerStatus>, id: String, err: Error) -> Failure {
    let at = status.as_ref().and_then(|status| status.finished_at).unwrap_or_else(Timestamp::now);
    // A program that cannot be executed has 127 or 128 from the runtime; a runtime that failed before has
    // nothing to say, and upstream writes 128.
    let exit_code = match status.map(|status| (status.state, status.exit_code)) {
        Some((ContainerState::Exited, code)) if code != 0 => code,
        _ => 128,
    };
    (StartFailure::Run { id, at, exit_code }, err.to_string())
}

/// Reads what is named, and holds it so that a change is heard.
pub(super) async fn volumes_sources(
    node: &Shared,
    files: &Files,
    namespace: &str,
    config_maps: &[String],
    secrets: &[String],
) -> env::Sources {
    let mut sources = env::Sources::default();
    // One that is absent is left out here: whether it is optional only the reader of each key knows.
    for name in config_maps {
        let object = source(node, files, namespace, name).await;
        sources.config_maps.extend(object.map(|object| (name.clone(), object)));
    }
    for name in secrets {
        let object = source(node, files, namespace, name).await;
        sources.secrets.extend(object.map(|object| (name.clone(), object)));
    }
    sources
}

async fn source<K: client::Object>(
    node: &Shared,
    files: &Files,
    namespace: &str,
    name: &str,
) -> Option<Arc<K>> {
    let informer = node.informers.part::<K>(Part::object(namespace, name));
    informer.synced().await;
    let object = informer.get(namespace, name);
    // Held as it was read, so that a change between now and the mounting is seen as one.
    lock(&files.held).hold(&informer, namespace, name, object.as_deref());
    object
}
