//! A node with the real API server in one process, on a runtime made of maps.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Client, DeleteOptions, InProcess, Informer, Informers};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node as NodeObject, Pod, ServiceAccount};
use node::eviction::threshold::Eviction;
use node::{Config, ConfirmEndpoints, Node};
use serde_json::{Value, json};
use server::Server;
use store::{Embedded, History, Store};
use testkit::FakeRuntime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::Handler;

#[path = "whole_node/stand_ins.rs"]
mod stand_ins;
#[path = "whole_node/statics.rs"]
mod statics;

use stand_ins::{Away, NoMounts, NoNodes, PanicsOnce};

const NAME: &str = "n1";
const NAMESPACE: &str = "default";

fn evicts_below(hard: &[(&str, &str)]) -> Eviction {
    let hard = hard.iter().map(|(signal, value)| ((*signal).to_owned(), (*value).to_owned())).collect();
    let none = Default::default();
    Eviction::parse(&hard, &none, &none, &none).unwrap()
}

struct Cluster {
    endpoints: Option<Arc<dyn ConfirmEndpoints>>,
    hanging: Arc<Mutex<()>>,
    directory: tempfile::TempDir,
    server: Arc<Server>,
    admin: Client,
    runtime: Arc<FakeRuntime>,
    node: Option<Node>,
    pulses: node::Pulses,
    /// When Pods are evicted: not by what this machine has.
    eviction: Eviction,
    manifests: Option<std::path::PathBuf>,
    /// While it is true the node does not reach the API.
    away: tokio::sync::watch::Sender<bool>,
    pods: Informer<Pod>,
    tasks: JoinSet<()>,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(endpoints: Option<Arc<dyn ConfirmEndpoints>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            Embedded::open(&directory.path().join("state"), server::stamp, History::default()).unwrap();
        let config = server::Config {
            service_cidr: "10.43.0.0/16".into(),
            advertise: "127.0.0.1:6443".parse().unwrap(),
            authority_pem: "PEM".into(),
            service_account_key: server::auth::TokenKey::generate().unwrap(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: false,
            nodes: Arc::new(NoNodes),
            limits: server::Limits::default(),
            audit: None,
            metrics: Arc::new(|_| {}),
            checks: Vec::new(),
        };
        let server = Server::start(Arc::new(store) as Arc<dyn Store>, config).await.unwrap();
        let handler: Arc<dyn Handler> = server.clone();
        let groups = ["system:masters", "system:authenticated"];
        let admin = Client::new(Arc::new(InProcess::new(handler, "admin", &groups)));
        let mut tasks = JoinSet::new();
        let informers = Informers::spawn(admin.clone(), &mut tasks, CancellationToken::new());
        let mut cluster = Self {
            endpoints,
            hanging: Arc::default(),
            directory,
            server,
            admin,
            runtime: Arc::default(),
            node: None,
            pulses: node::Pulses::default(),
            eviction: evicts_below(&[]),
            manifests: None,
            away: tokio::sync::watch::Sender::new(false),
            pods: informers.of(),
            tasks,
        };
        cluster.furnish().await;
        cluster.start_node().await;
        cluster
    }

    /// What controllers make in a real cluster.
    async fn furnish(&self) {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        let made = self.admin.create(NAMESPACE, &account).await;
        assert!(made.as_ref().map_or_else(|err| err.is_already_exists(), |_| true), "{made:?}");
        let root = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "PEM"}});
        let root: ConfigMap = serde_json::from_value(root).unwrap();
        let made = self.admin.create(NAMESPACE, &root).await;
        assert!(made.as_ref().map_or_else(|err| err.is_already_exists(), |_| true), "{made:?}");
        self.runtime.add_image("busybox:1.36");
    }

    async fn start_node(&mut self) {
        self.begin_node();
        let mut ready = self.node.as_ref().unwrap().ready();
        within(ready.wait_for(|ready| *ready)).await.unwrap();
    }

    fn begin_node(&mut self) {
        let handler: Arc<dyn Handler> = self.server.clone();
        let user = format!("system:node:{NAME}");
        let transport = InProcess::new(handler, &user, &["system:nodes", "system:authenticated"]);
        let root = self.directory.path();
        let config = Config {
            node_name: NAME.into(),
            hostname: NAME.into(),
            node_ips: vec!["192.0.2.1".parse().unwrap()],
            pods_directory: root.join("pods"),
            logs_directory: root.join("logs"),
            log_links_directory: None,
            images_directory: root.join("images"),
            reserved: Default::default(),
            eviction: self.eviction.clone(),
            images: Default::default(),
            manifests_directory: self.manifests.clone(),
            timelines_directory: root.join("timelines"),
            seccomp_directory: root.join("seccomp"),
            seccomp_default: true,
            kubelet_version: "v1.36.2".into(),
            runtime_version: "monopod://0.1.0".into(),
            kubelet_port: 10250,
            cluster_dns: None,
            cluster_domain: "cluster.local".into(),
            api_server: "127.0.0.1:6443".parse().unwrap(),
            max_pods: 110,
            default_users: 65_536,
            allowed_sysctls: Vec::new(),
            labels: Vec::new(),
            taints: Vec::new(),
            pod_cidr: None,
            endpoints: self.endpoints.clone(),
            policies: None,
            not_ready: None,
            pulses: self.pulses.clone(),
        };
        let transport = Away { there: transport, away: self.away.clone() };
        let client = Client::new(Arc::new(transport));
        // Its own, as where the server is elsewhere: what it reads, a node must be allowed to.
        let informers = Informers::spawn(client.clone(), &mut self.tasks, CancellationToken::new());
        let node = Node::start_with(
            client,
            informers,
            self.runtime.clone(),
            config,
            Arc::new(NoMounts { hanging: self.hanging.clone() }),
        );
        self.node = Some(node);
    }

    async fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = NAME.into();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.admin.create(NAMESPACE, &pod).await.unwrap();
    }

    /// Waits until the API shows the Pod as wanted; `None` means that there is no such Pod.
    async fn until(&self, name: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let mut changes = self.pods.subscribe();
        let look = || self.pods.get(NAMESPACE, name).map(|pod| serde_json::to_value(&*pod).unwrap());
        let wait = async {
            loop {
                let now = look();
                if wanted(now.as_ref()) {
                    return now;
                }
                changes.next().await.expect("the informer goes on");
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{name} is {:#}, calls {:?}",
                look().unwrap_or_default()["status"],
                self.runtime.calls()
            ),
        }
    }

    fn called(&self, call: &str) -> usize {
        self.runtime.calls().iter().filter(|one| one.starts_with(call)).count()
    }

    async fn running(&self, name: &str) -> Value {
        self.until(name, |pod| pod.is_some_and(|pod| pod["status"]["phase"] == "Running")).await.unwrap()
    }

    async fn kubelet(&self, path: &str) -> (u16, String) {
        let request = http::Request::get(path).body(wire::empty()).unwrap();
        let response = within(self.node.as_ref().unwrap().handler().handle(request)).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn plain() -> Value {
    json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_logged_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    cluster.create("web", plain()).await;
    let pod = cluster.running("web").await;
    let status = &pod["status"];
    let kinds: Vec<&str> =
        status["conditions"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    );
    assert_eq!((&status["hostIP"], &status["qosClass"]), (&json!("192.0.2.1"), &json!("BestEffort")));
    assert!(status["containerStatuses"][0]["containerID"].as_str().unwrap().starts_with("monopod://"));
    let config = cluster.runtime.config("c").unwrap();
    let value = |name: &str| config.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert_eq!(value("HOSTNAME").as_deref(), Some("web"));
    assert_eq!(value("KUBERNETES_SERVICE_HOST").as_deref(), Some("10.43.0.1"));
    let token = config.mounts.iter().find(|mount| mount.container_path.ends_with("serviceaccount")).unwrap();
    assert!(
        token.read_only && std::fs::read_to_string(token.host_path.join("token")).unwrap().starts_with("ey")
    );
    assert_eq!(std::fs::read_to_string(token.host_path.join("ca.crt")).unwrap(), "PEM");

    assert_eq!(cluster.kubelet("/containerLogs/default/web/c").await, (200, "hello from c\n".into()));
    let (code, text) = cluster.kubelet("/containerLogs/default/web/c?previous=true").await;
    assert_eq!((code, text.as_str()), (400, "previous terminated container \"c\" in pod \"web\" not found"));
    let refused = cluster.kubelet("/exec/default/web/nosuch?command=x&output=1").await.1;
    assert_eq!(refused, "container not found (\"nosuch\")");

    cluster.admin.delete::<Pod>(NAMESPACE, "web", &DeleteOptions::default()).await.unwrap();
    cluster.until("web", |pod| pod.is_none()).await;
    assert_eq!(cluster.runtime.count(), (0, 0));
    let left = std::fs::read_dir(cluster.directory.path().join("pods")).unwrap().count();
    assert_eq!(left, 0, "directories are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_restarted_and_a_finished_pod_stays_with_its_logs() {
    let cluster = Cluster::start().await;
    cluster.create("crash", plain()).await;
    cluster.running("crash").await;
    cluster.runtime.exit("c", 3);
    within(cluster.runtime.running("c", 1)).await;
    let restarted = |pod: Option<&Value>| {
        pod.is_some_and(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    };
    let pod = cluster.until("crash", restarted).await.unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);

    let mut once = plain();
    once["restartPolicy"] = "Never".into();
    once["containers"][0]["name"] = "once".into();
    cluster.create("done", once).await;
    cluster.running("done").await;
    cluster.runtime.exit("once", 0);
    cluster.until("done", |pod| pod.is_some_and(|pod| pod["status"]["phase"] == "Succeeded")).await;
    assert_eq!(cluster.kubelet("/containerLogs/default/done/once").await.1, "hello from once\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_adopts_what_runs() {
    let mut cluster = Cluster::start().await;
    cluster.create("web", plain()).await;
    cluster.running("web").await;
    cluster.node.take().unwrap().shutdown().await;
    cluster.start_node().await;
    cluster.runtime.exit("c", 1);
    within(cluster.runtime.running("c", 1)).await;
    let starts = cluster.runtime.calls().iter().filter(|call| call.starts_with("run_sandbox")).count();
    assert_eq!(starts, 1, "the sandbox was not made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_volume_that_comes_late_holds_back_only_who_mounts_it() {
    let cluster = Cluster::start().await;
    let mut spec = plain();
    let mut other = spec["containers"][0].clone();
    other["name"] = "other".into();
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    spec["containers"] = json!([other, spec["containers"][0]]);
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "data:1", "pullPolicy": "IfNotPresent"}}]);
    cluster.create("web", spec).await;
    let waits = |pod: Option<&Value>| {
        let shown = pod.map(|pod| pod["status"]["containerStatuses"].to_string()).unwrap_or_default();
        shown.contains("ImagePullBackOff") && shown.contains(r#"Back-off pulling image \"data:1\""#)
    };
    cluster.until("web", waits).await;
    within(cluster.runtime.running("other", 0)).await;
    cluster.runtime.add_image("data:1");
    within(cluster.runtime.running("c", 0)).await;
    let config = cluster.runtime.config("c").unwrap();
    let mount = config.mounts.iter().find(|mount| mount.container_path == Path::new("/v")).unwrap();
    assert!(mount.read_only && mount.host_path.ends_with("volumes/kubernetes.io~image/v"), "{mount:?}");
    assert_eq!(cluster.called("mount_image v"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_short_of_memory_lets_pods_go_one_by_one_in_upstreams_order() {
    let mut cluster = Cluster::start().await;
    let requests = json!({"requests": {"cpu": "1m", "memory": "64Mi"}});
    let mut limits = requests.clone();
    limits["limits"] = requests["requests"].clone();
    for (name, resources, used) in [
        ("guaranteed", limits, 64_u64 << 20),
        ("burstable", requests, 65 << 20),
        ("effort", json!({}), 2 << 20),
    ] {
        let mut spec = plain();
        spec["containers"][0]["name"] = name.into();
        spec["containers"][0]["resources"] = resources;
        cluster.create(name, spec).await;
        cluster.running(name).await;
        cluster.runtime.use_memory(name, used);
    }
    cluster.node.take().unwrap().shutdown().await;
    // No machine has as much.
    cluster.eviction = evicts_below(&[("memory.available", "1Ei")]);
    cluster.start_node().await;
    let failed = |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["phase"] == "Failed");
    let mut ended = Vec::new();
    for name in ["effort", "burstable", "guaranteed"] {
        let pod = cluster.until(name, failed).await.unwrap();
        assert_eq!(pod["status"]["reason"], "Evicted");
        let message = pod["status"]["message"].as_str().unwrap().to_owned();
        assert!(
            message.starts_with("The node was low on resource: memory. Threshold quantity: "),
            "{message}"
        );
        let above = "Container effort was using 2Mi, request is 0, has larger consumption of memory. ";
        assert_eq!(message.ends_with(above), name == "effort", "{message}");
        ended.push(pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"].to_string());
    }
    let stops: Vec<String> =
        cluster.runtime.calls().into_iter().filter(|call| call.starts_with("terminate ")).collect();
    assert_eq!(stops, ["terminate effort", "terminate burstable", "terminate guaranteed"], "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_without_room_is_given_it_by_one_that_matters_less() {
    let cluster = Cluster::start().await;
    let node: NodeObject = cluster.admin.get("", NAME).await.unwrap();
    let all = node.status.unwrap().allocatable.unwrap()["cpu"].0.clone();
    let mut spec = plain();
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": all}});
    cluster.create("filler", spec).await;
    cluster.running("filler").await;
    let mut spec = plain();
    spec["priorityClassName"] = "system-node-critical".into();
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    cluster.create("critical", spec).await;
    let failed = |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["phase"] == "Failed");
    let status = cluster.until("filler", failed).await.unwrap()["status"].clone();
    let message = "Preempted in order to admit critical pod";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Preempting"), &json!(message)));
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let told = conditions.find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&told["reason"], &told["message"]), (&json!("TerminationByKubelet"), &json!(message)));
    cluster.running("critical").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_comes_late_is_mounted_at_once() {
    let cluster = Cluster::start().await;
    let mut spec = plain();
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "late"}}]);
    cluster.create("web", spec).await;
    cluster.until("web", |pod| pod.is_some_and(|pod| pod["status"]["startTime"].is_string())).await;
    let map = json!({"metadata": {"name": "late", "namespace": NAMESPACE}, "data": {"k": "1"}});
    cluster.admin.create::<ConfigMap>(NAMESPACE, &serde_json::from_value(map).unwrap()).await.unwrap();
    cluster.running("web").await;
    let config = cluster.runtime.config("c").unwrap();
    let mount = config.mounts.iter().find(|mount| mount.container_path == Path::new("/v")).unwrap();
    assert_eq!(std::fs::read_to_string(mount.host_path.join("k")).unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_object_is_ready_with_the_kubelets_words() {
    let cluster = Cluster::start().await;
    let node: NodeObject = cluster.admin.get("", NAME).await.unwrap();
    let node = serde_json::to_value(node).unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("KubeletReady")));
    assert_eq!(ready["message"], "kubelet is posting ready status");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.2");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_is_tried_again_and_wedges_nothing() {
    let cluster = Cluster::start().await;
    cluster.runtime.panic("start", 1);
    cluster.create("web", plain()).await;
    // It panics when the program runs already: what runs is taken over, not started again.
    cluster.running("web").await;
    assert_eq!((cluster.called("create"), cluster.called("start")), (1, 1), "{:?}", cluster.runtime.calls());
    cluster.runtime.panic("terminate", 1);
    cluster.admin.delete::<Pod>(NAMESPACE, "web", &DeleteOptions::default()).await.unwrap();
    cluster.until("web", |pod| pod.is_none()).await;
    assert_eq!(cluster.runtime.count(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_panics_is_begun_anew_with_what_runs() {
    let cluster = Cluster::start_with(Some(Arc::new(PanicsOnce::default()))).await;
    cluster.create("web", plain()).await;
    cluster.running("web").await;
    // A ready Pod that is deleted asks for its endpoints: the worker panics, and there is another.
    cluster.admin.delete::<Pod>(NAMESPACE, "web", &DeleteOptions::default()).await.unwrap();
    cluster.until("web", |pod| pod.is_none()).await;
    let calls = ["run_sandbox", "start c", "terminate c"].map(|call| cluster.called(call));
    assert_eq!(calls, [1, 1, 1], "{:?}", cluster.runtime.calls());
    assert_eq!(cluster.runtime.count(), (0, 0));
}

/// Their names are those of no object that could be made, and of none that can be asked for without care.
#[tokio::test(flavor = "multi_thread")]
async fn optional_sources_of_impossible_names_are_absent_ones() {
    let cluster = Cluster::start().await;
    for (name, source) in [("comma", "a,b"), ("equals", "a=b"), ("capital", "A\\B C")] {
        let mut spec = plain();
        spec["volumes"] = json!([
            {"name": "secret", "secret": {"secretName": source, "optional": true}},
            {"name": "config", "configMap": {"name": source, "optional": true}},
        ]);
        cluster.create(name, spec).await;
        cluster.running(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_does_not_answer_is_told_with_its_reason_until_it_does() {
    let mut cluster = Cluster::start().await;
    within(cluster.node.take().unwrap().shutdown()).await;
    cluster.runtime.fail("snapshot", u32::MAX);
    cluster.start_node().await;
    let runtime = cluster.pulses.runtime.clone();
    let holds = || runtime.holds(std::time::Instant::now(), Duration::ZERO);
    let said = within(async {
        loop {
            match holds() {
                Err(why) if why.contains("told to fail") => return why,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    assert!(said.await.contains("failed to look"));
    cluster.runtime.fail("snapshot", 0);
    cluster.create("web", plain()).await;
    cluster.running("web").await;
    assert_eq!(holds(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_events_were_lost_is_found() {
    let cluster = Cluster::start().await;
    cluster.create("web", plain()).await;
    cluster.running("web").await;
    cluster.runtime.lose(Some("c"));
    cluster.runtime.overflow();
    within(cluster.runtime.running("c", 1)).await;
    assert_eq!(cluster.called("run_sandbox"), 1);
    let told = |pod: Option<&Value>| {
        pod.is_some_and(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    };
    cluster.until("web", told).await;
    cluster.runtime.lose(None);
    cluster.runtime.overflow();
    let backs_off = |pod: Option<&Value>| {
        let state = pod.map(|pod| pod["status"]["containerStatuses"][0]["state"].clone());
        state.is_some_and(|state| state["waiting"]["reason"] == "CrashLoopBackOff")
    };
    cluster.until("web", backs_off).await;
    assert_eq!(cluster.called("run_sandbox"), 2, "{:?}", cluster.runtime.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_does_not_answer_is_not_taken_for_an_empty_one() {
    let mut cluster = Cluster::start().await;
    cluster.create("web", plain()).await;
    cluster.running("web").await;
    cluster.node.take().unwrap().shutdown().await;
    cluster.runtime.fail("snapshot", 2);
    cluster.start_node().await;
    cluster.runtime.exit("c", 1);
    within(cluster.runtime.running("c", 1)).await;
    assert_eq!((cluster.called("run_sandbox"), cluster.called("start c/0")), (1, 1));
}

/// Mounts of more Pods than there are blocking threads hang, and another Pod runs all the same.
#[test]
fn mounts_that_hang_stop_no_other_pod() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start().await;
        let hanging = cluster.hanging.clone();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (locked, is_locked) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _held = hanging.lock();
            locked.send(()).unwrap();
            // Ends when the test does, also when it fails.
            let _ = wait.recv();
        });
        is_locked.recv().unwrap();
        for n in 0..8 {
            let mut spec = plain();
            spec["volumes"] = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
            spec["automountServiceAccountToken"] = false.into();
            cluster.create(&format!("hung{n}"), spec).await;
        }
        for n in 0..8 {
            let seen = |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["startTime"].is_string());
            cluster.until(&format!("hung{n}"), seen).await;
        }
        let mut other = plain();
        other["automountServiceAccountToken"] = false.into();
        cluster.create("web", other).await;
        cluster.running("web").await;
        drop(release);
        holder.join().unwrap();
        for n in 0..8 {
            cluster.running(&format!("hung{n}")).await;
        }
    });
}
