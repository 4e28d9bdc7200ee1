//! What every test has: a data directory, an image, a runtime, and an eye on what is left behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::{
    Config, ContainerConfig, ContainerState, ContainerStatus, Error, Event, ExecOutput, NamespaceMode,
    Native, PodIdentity, QosClass, Resources, Runtime, SandboxConfig, SandboxStatus, SecurityContext,
};
use tokio::sync::mpsc;

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Test = fn(Setting) -> Pin<Box<dyn Future<Output = ()>>>;

/// Why these tests cannot run here.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces and cgroups need root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("no /bin/busybox (Debian: busybox-static)");
    }
    None
}

/// A data directory with the names that go with it.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) data: PathBuf,
    pub(crate) instance: String,
    subnet: String,
}

/// Runs a test, removes what it made, and compares the machine with what it was.
pub(crate) fn run(test: Test) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let setting = Setting {
        data: directory.path().to_owned(),
        instance: format!("{:08x}", std::process::id() * 64 + number),
        subnet: format!("10.213.{}.0/24", (std::process::id() + number) % 250),
    };
    let before = traces(&setting);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    let local = tokio::task::LocalSet::new();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        local.block_on(&runtime, test(setting.clone()));
    }));
    let removed = runtime.block_on(async {
        let native = setting.open().await;
        native.shutdown_all().await
    });
    drop(runtime);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    let removed = removed.expect("everything can be removed");
    assert!(removed.iter().any(|r| r.starts_with("bridge mp")), "{removed:?}");
    assert_eq!(traces(&setting), before, "something was left behind");
}

/// Everything on the machine that belongs to the instance.
fn traces(setting: &Setting) -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let data = setting.data.to_str().expect("utf-8");
    let mut traces: BTreeSet<String> =
        mounts.lines().filter(|l| l.contains(data)).map(str::to_owned).collect();
    traces.extend(names("/sys/class/net").into_iter().filter(|n| n.contains(&setting.instance)));
    for tree in names("/sys/fs/cgroup") {
        let group = format!("/sys/fs/cgroup/{tree}/monopod-{}", setting.instance);
        traces.extend(Path::new(&group).exists().then_some(group));
    }
    traces.extend(
        names(data)
            .contains(&"pods".to_owned())
            .then(|| names(setting.data.join("pods")))
            .into_iter()
            .flatten(),
    );
    let rules = sys::command::run("nft", &["list", "tables"], b"").expect("nft").stdout;
    let rules = String::from_utf8_lossy(&rules).into_owned();
    traces.extend(rules.lines().filter(|l| l.contains(&setting.instance)).map(str::to_owned));
    traces
}

fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

impl Setting {
    pub(crate) fn config(&self) -> Config {
        Config::new(&self.data, &self.instance, self.subnet.parse().expect("a subnet"))
    }

    pub(crate) async fn open(&self) -> Native {
        Native::open(self.config()).await.expect("the runtime opens")
    }

    /// A runtime with the image `busybox:1`.
    pub(crate) async fn node(&self) -> Node {
        let node = self.node_with_image().await;
        let archive = archive();
        let images = node.native.images();
        images.import(archive.as_slice(), &Default::default()).expect("the image is imported");
        node
    }

    /// A runtime whose data directory has the image already.
    pub(crate) async fn node_with_image(&self) -> Node {
        let native = self.open().await;
        Node { events: native.events(), native, data: self.data.clone() }
    }

    /// In words, for another process.
    pub(crate) fn words(&self) -> [String; 3] {
        [self.data.to_str().expect("utf-8").to_owned(), self.instance.clone(), self.subnet.clone()]
    }

    /// Of such words.
    pub(crate) fn read(words: &[String]) -> Self {
        let [data, instance, subnet] = words else { panic!("{words:?} are no setting") };
        Setting { data: data.into(), instance: instance.clone(), subnet: subnet.clone() }
    }
}

/// A runtime with its events.
pub(crate) struct Node {
    pub(crate) native: Native,
    pub(crate) events: mpsc::Receiver<Event>,
    data: PathBuf,
}

impl Node {
    pub(crate) fn sandbox(&self, uid: &str) -> SandboxConfig {
        SandboxConfig {
            users: None,
            pod: PodIdentity {
                name: format!("pod-{uid}"),
                namespace: "default".into(),
                uid: uid.into(),
                attempt: 0,
            },
            hostname: format!("pod-{uid}"),
            log_directory: self.data.join("logs").join(uid),
            dns: None,
            port_mappings: Vec::new(),
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            qos: QosClass::Burstable,
            resources: Resources::default(),
            cpu_request: 0,
            sysctls: Default::default(),
            labels: Default::default(),
            annotations: Default::default(),
        }
    }

    pub(crate) async fn run(&self, config: SandboxConfig) -> SandboxStatus {
        self.native.run_sandbox(config).await.expect("the sandbox runs")
    }

    /// A running container with a shell script.
    pub(crate) async fn start(&self, sandbox: &SandboxStatus, name: &str, script: &str) -> String {
        let id = self.create(sandbox, container(name, &["sh", "-c", script])).await;
        self.native.start_container(&id).await.expect("the container starts");
        id
    }

    pub(crate) async fn create(&self, sandbox: &SandboxStatus, config: ContainerConfig) -> String {
        self.native.create_container(&sandbox.id, config).await.expect("the container is made")
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> Result<ExecOutput, Error> {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.native.exec_sync(id, command, Some(PATIENCE)).await
    }

    pub(crate) async fn status(&self, id: &str) -> ContainerStatus {
        self.native.container_status(id).await.expect("the container is known")
    }

    /// Waits for the container's end to be told.
    pub(crate) async fn ended(&mut self, id: &str) -> ContainerStatus {
        let status = self.ended_somehow(id).await;
        assert_eq!(status.state, ContainerState::Exited);
        status
    }

    /// Waits for the container's end to be told, be it known how it ended or not.
    pub(crate) async fn ended_somehow(&mut self, id: &str) -> ContainerStatus {
        let told = async {
            while let Some(event) = self.events.recv().await {
                if matches!(&event, Event::ContainerExited { container_id, .. } if container_id == id) {
                    return;
                }
            }
            panic!("no more events");
        };
        tokio::time::timeout(PATIENCE, told).await.expect("the end is told");
        self.status(id).await
    }
}

pub(crate) fn container(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        name: name.into(),
        attempt: 0,
        image: "busybox:1".into(),
        command: command.iter().map(|c| (*c).to_owned()).collect(),
        args: Vec::new(),
        working_dir: String::new(),
        env: Vec::new(),
        devices: Vec::new(),
        stop_signal: String::new(),
        mounts: Vec::new(),
        log_path: PathBuf::from(name).join("0.log"),
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

/// A docker-archive of one layer: busybox, links to it, and the files that name root and a user.
fn archive() -> Vec<u8> {
    use runtime::image::Digest;
    let mut layer = Tar::new();
    layer.file("bin/busybox", &std::fs::read(BUSYBOX).expect("busybox"), 0o755);
    for applet in [
        "sh", "cat", "echo", "sleep", "nc", "httpd", "wget", "ip", "id", "hostname", "true", "ls", "stat",
        "dd", "tail", "touch", "ps", "kill", "mount", "df",
    ] {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n", 0o644);
    layer.file("www/hello", b"hello\n", 0o644);
    let layer = layer.finish();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["FROM=image"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let mut archive = Tar::new();
    archive.file("layer.tar", &layer, 0o644);
    archive.file("config.json", config.as_bytes(), 0o644);
    let manifest = br#"[{"Config":"config.json","RepoTags":["busybox:1"],"Layers":["layer.tar"]}]"#;
    archive.file("manifest.json", manifest, 0o644);
    archive.finish()
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        self.0.append_data(&mut header, name, content).expect("a tar entry");
    }

    fn link(&mut self, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.0.append_link(&mut header, name, target).expect("a tar link");
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar")
    }
}
