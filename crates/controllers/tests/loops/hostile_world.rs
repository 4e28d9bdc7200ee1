//! All owners of Pods at once in a world where nothing can be relied on: others change and delete what is
//! theirs, caches lag, writes conflict, are lost and are the last of their process. What they promise holds
//! all the time; once the world is calm they arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use client::{Client, ListOptions, Patch, PatchKind, WatchEvent};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::faults::{Chance, Faults};

const APPS: &str = "/apis/apps/v1/namespaces/default";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const PODS: &str = "/api/v1/namespaces/default/pods";
const STEPS: u64 = 60;
/// Of the Job.
const COMPLETIONS: usize = 5;
const PARALLELISM: usize = 2;
/// Of anything else; a Deployment has a quarter more for a while.
const REPLICAS_MAX: u64 = 5;
const WITH_SURGE: usize = 7;

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn owner(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": name}}, "template": template(name, "first")}})
}

fn job() -> Value {
    let mut template = template("job", "i");
    template["spec"]["restartPolicy"] = "Never".into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": {
        "completions": COMPLETIONS, "parallelism": PARALLELISM, "backoffLimit": 1_000_000, "template": template}})
}

fn autoscaler() -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "scaled"},
        "spec": {"minReplicas": 1, "maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"}}})
}

/// What the node saw of the Pods.
#[derive(Default)]
struct Seen {
    /// Uids of those that are there, by the label `app`.
    there: BTreeMap<String, BTreeSet<String>>,
    /// The most of them at once.
    most: BTreeMap<String, usize>,
    /// Of the Job: that ended well, and that did not.
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, pod: &Pod, is_active: bool) -> String {
        let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).cloned();
        let (app, uid) = (app.unwrap_or_default(), pod.metadata.uid.clone().unwrap_or_default());
        let there = self.there.entry(app.clone()).or_default();
        if is_active {
            there.insert(uid);
        } else {
            there.remove(&uid);
        }
        let most = self.most.entry(app.clone()).or_default();
        *most = (*most).max(there.len());
        app
    }
}

/// Makes Pods ready; those of the Job end, some of them badly.
fn kubelet(client: Client, seed: u64) -> (Arc<Mutex<Seen>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let noted = seen.clone();
    let node = tokio::spawn(async move {
        let mut chance = Chance(seed);
        let mut watch = client.watch::<Pod>("default", &ListOptions::default(), "").await.unwrap();
        while let Some(event) = watch.next().await {
            let (pod, gone) = match event.unwrap() {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                WatchEvent::Deleted(pod) => (pod, true),
                WatchEvent::Bookmark { .. } => continue,
            };
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
            let is_active =
                !gone && pod.metadata.deletion_timestamp.is_none() && matches!(phase, "Pending" | "Running");
            let app = noted.lock().unwrap().note(&pod, is_active);
            if is_active {
                run(&client, &pod, &app, &mut chance, &noted).await;
            }
        }
    });
    (seen, node)
}

async fn run(client: &Client, pod: &Pod, app: &str, chance: &mut Chance, seen: &Mutex<Seen>) {
    let next = match (app, pod.status.as_ref().and_then(|status| status.phase.as_deref())) {
        (_, Some("Pending")) => "Running",
        ("job", _) if chance.below(3) == 0 => "Failed",
        ("job", _) => "Succeeded",
        _ => return,
    };
    let ready = if next == "Running" { "True" } else { "False" };
    let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": next, "conditions":
        [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let written = client.patch::<Pod>("default", name, &Patch::status(PatchKind::Merge, status)).await;
    // It may be gone by now.
    if written.is_ok() {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut seen = seen.lock().unwrap();
        match next {
            "Succeeded" => drop(seen.succeeded.insert(uid)),
            "Failed" => drop(seen.failed.insert(uid)),
            _ => {}
        }
    }
}

/// Those who change things without asking.
struct Others {
    cluster: Cluster,
    chance: Chance,
    /// How large the owners are to be, by their paths.
    sizes: BTreeMap<String, u64>,
    image: &'static str,
    /// What was written on them last.
    marks: BTreeMap<String, String>,
}

impl Others {
    fn chance(&mut self, below: usize) -> usize {
        usize::try_from(self.chance.below(below as u64)).unwrap()
    }

    /// Those whose status their controllers write.
    fn marked(&self) -> Vec<String> {
        let others = [format!("{JOBS}/job"), format!("{AUTOSCALERS}/scaled")];
        self.sizes.keys().cloned().chain(others).collect()
    }

    async fn patch(&self, path: &str, body: Value) {
        // The server tries a patch five times against others' writes, as upstream does.
        while let Err(error) = self.cluster.ask(Method::PATCH, path, body.clone()).await {
            assert!(error.is_conflict(), "{path}: {error}");
        }
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let mut list = self.cluster.ask(Method::GET, path, Value::Null).await.unwrap();
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A Pod that belongs to none but the Job, which counts what others delete as failed.
    async fn some_pod(&mut self) -> Option<String> {
        let pods = self.items(&format!("{PODS}?labelSelector=app!=job")).await;
        let pod = pods.get(self.chance(8))?;
        Some(format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap()))
    }

    async fn step(&mut self) {
        match self.chance.below(9) {
            0 | 1 => {
                let paths: Vec<String> = self.sizes.keys().cloned().collect();
                let path = &paths[self.chance(paths.len())];
                let size = self.chance.below(REPLICAS_MAX + 1);
                self.sizes.insert(path.clone(), size);
                self.patch(path, json!({"spec": {"replicas": size}})).await;
            }
            2 => {
                self.image = ["first", "second", "third"][self.chance(3)];
                let spec = json!({"containers": [{"name": "c", "image": self.image}]});
                let path = format!("{APPS}/deployments/web");
                self.patch(&path, json!({"spec": {"template": {"spec": spec}}})).await;
            }
            3 => {
                let paused = self.chance.below(2) == 0;
                self.patch(&format!("{APPS}/deployments/web"), json!({"spec": {"paused": paused}})).await;
            }
            4 => {
                if let Some(pod) = self.some_pod().await {
                    // It may be gone by now.
                    let _ = self.cluster.ask(Method::DELETE, &pod, Value::Null).await;
                }
            }
            // An orphan: its owner adopts it again, or has another by then.
            5 => {
                if let Some(pod) = self.some_pod().await {
                    let body = json!({"metadata": {"ownerReferences": null}});
                    let _ = self.cluster.ask(Method::PATCH, &pod, body).await;
                }
            }
            6 => {
                // None at all would switch the autoscaler off.
                let replicas = self.chance.below(8) + 1;
                let path = format!("{APPS}/deployments/scaled");
                self.patch(&path, json!({"spec": {"replicas": replicas}})).await;
            }
            // What is written over from an older state would lose it.
            7 => {
                let (paths, mark) = (self.marked(), self.chance.below(1000).to_string());
                let path = &paths[self.chance(paths.len())];
                self.patch(path, json!({"metadata": {"annotations": {"mark": mark}}})).await;
                self.marks.insert(path.clone(), mark);
            }
            _ => self.cluster.restart_controllers().await,
        }
    }

    /// Each owner has the Pods that it is to have, ready and of the newest template.
    async fn until_arrived(&self) {
        for (path, size) in &self.sizes {
            let arrived = |answer: &Result<Value, client::Error>| {
                answer.as_ref().is_ok_and(|one| {
                    let count = |name: &str| one["status"][name].as_u64().unwrap_or(0) == *size;
                    let updated = !path.contains("deployments") || count("updatedReplicas");
                    one["status"]["observedGeneration"] == one["metadata"]["generation"]
                        && updated
                        && ["replicas", "availableReplicas"].into_iter().all(count)
                })
            };
            self.cluster.until(path, arrived).await;
        }
        let bounded = |answer: &Result<Value, client::Error>| {
            answer.as_ref().is_ok_and(|one| (1..=4).contains(&one["spec"]["replicas"].as_u64().unwrap()))
        };
        self.cluster.until(&format!("{APPS}/deployments/scaled"), bounded).await;
        let complete = |answer: &Result<Value, client::Error>| {
            let conditions = answer.as_ref().ok().and_then(|job| job["status"]["conditions"].as_array());
            conditions.into_iter().flatten().any(|one| one["type"] == "Complete" && one["status"] == "True")
        };
        self.cluster.until(&format!("{JOBS}/job"), complete).await;
    }

    async fn check(&self, seen: &Seen, unknown: usize) {
        for (path, size) in &self.sizes {
            let app = path.rsplit('/').next().unwrap();
            let pods = self.items(&format!("{PODS}?labelSelector=app={app}")).await;
            assert_eq!(pods.len() as u64, *size, "{app}");
            let image = if app == "web" { self.image } else { "first" };
            let managed = |pod: &Value| pod["metadata"]["ownerReferences"][0]["controller"] == true;
            assert!(pods.iter().all(|pod| managed(pod) && pod["spec"]["containers"][0]["image"] == image));
            let most = seen.most.get(app).copied().unwrap_or(0);
            assert!(most <= WITH_SURGE + unknown, "{most} Pods of {app} at once");
        }
        for (path, mark) in &self.marks {
            let one = self.cluster.ask(Method::GET, path, Value::Null).await.unwrap();
            assert_eq!(one["metadata"]["annotations"]["mark"], **mark, "{path}");
        }
        let most = seen.most.get("job").copied().unwrap_or(0);
        assert!(most <= PARALLELISM + unknown, "{most} Pods of the Job at once");
        let job = self.cluster.ask(Method::GET, &format!("{JOBS}/job"), Value::Null).await.unwrap();
        let counted = |name: &str| job["status"][name].as_u64().unwrap_or(0);
        // One that nobody knew of is deleted as one too many, and ends as it likes.
        let miscounted = counted("failed").abs_diff(seen.failed.len() as u64);
        assert!(miscounted <= unknown as u64, "{} failed: {}", seen.failed.len(), job["status"]);
        assert!(counted("succeeded") >= COMPLETIONS as u64 && seen.succeeded.len() <= COMPLETIONS + unknown);
        for pod in self.items(&format!("{PODS}?labelSelector=app=job")).await {
            assert_eq!(pod["metadata"]["finalizers"], Value::Null, "everyone that is counted is let go");
        }
    }
}

async fn begin(seed: u64, faults: Arc<Faults>) -> Others {
    let cluster = Cluster::start_faulty(faults).await;
    cluster.until("/api/v1/namespaces/default/serviceaccounts/default", Result::is_ok).await;
    let mut sizes = BTreeMap::new();
    for (kind, plural, name) in [("Deployment", "deployments", "web"), ("ReplicaSet", "replicasets", "set")] {
        cluster.post(&format!("{APPS}/{plural}"), owner(kind, name)).await;
        sizes.insert(format!("{APPS}/{plural}/{name}"), 3);
    }
    cluster.post(&format!("{APPS}/deployments"), owner("Deployment", "scaled")).await;
    cluster.post(AUTOSCALERS, autoscaler()).await;
    cluster.post(JOBS, job()).await;
    Others { cluster, chance: Chance(seed), sizes, image: "first", marks: BTreeMap::new() }
}

async fn live_through(seed: u64) {
    let faults = Faults::new(seed.wrapping_mul(31));
    let mut others = begin(seed, faults.clone()).await;
    let (seen, node) = kubelet(others.cluster.client.clone(), seed);
    for _ in 0..STEPS {
        others.step().await;
        if faults.is_dead() {
            others.cluster.restart_controllers().await;
        }
    }
    faults.cease();
    // What was not answered is never answered: a process that begins anew asks again.
    others.cluster.restart_controllers().await;
    others.patch(&format!("{APPS}/deployments/web"), json!({"spec": {"paused": false}})).await;
    others.until_arrived().await;
    node.abort();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    others.check(&seen, faults.unknown()).await;
    others.cluster.stop().await;
}

/// `MONOPOD_WORLDS` says how many beginnings are tried, each a world of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_owner_arrives_and_keeps_its_promises_on_the_way() {
    let worlds = std::env::var("MONOPOD_WORLDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for seed in 1..=worlds {
        println!("world {seed}");
        live_through(seed).await;
    }
}
