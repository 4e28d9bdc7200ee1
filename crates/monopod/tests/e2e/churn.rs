//! Many Deployments, changed all the time while the daemon is killed: what was acknowledged stays, all of
//! them arrive where they were sent, and nothing is left of what they had on the way.
//!
//! `MONOPOD_CHURN` says how many Deployments (20), `MONOPOD_CHURN_SECONDS` how long they are changed (at
//! least three kills; five minutes when their number is given), `MONOPOD_CHURN_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::crash::nothing_of_pods_is_left;
use crate::harness::{Instance, PATIENCE, Random, number};
use crate::host::{Traces, instance_id, shims_of};

/// Of each Deployment, as the manifest says.
const REPLICAS: u64 = 2;
/// Old ReplicaSets that each may keep.
const HISTORY: usize = 2;
const KILLS_MIN: u64 = 3;
/// Deployments that one command changes.
const SLICE: u64 = 8;
/// Bytes that a daemon may grow by, whatever comes and goes: what watchers may still ask for of the past.
const HISTORY_BYTES: i64 = 64 << 20;
/// Bytes that it may grow by for each Pod that came and went.
const KEPT_OF_A_POD: i64 = 32 << 10;

/// A Deployment with a Service over it; its Pods have a volume of memory, one of the API, and a token.
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  revisionHistoryLimit: 2
  paused: false
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME, churned: "true"}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes:
      - {name: scratch, emptyDir: {medium: Memory}}
      - {name: root, configMap: {name: kube-root-ca.crt}}
      containers:
      - name: c
        image: docker.io/library/busybox:1.36
        command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
        env: [{name: VERSION, value: "VERSION_NOW"}]
        volumeMounts: [{name: scratch, mountPath: /scratch}, {name: root, mountPath: /root-ca}]
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80}]}
---
"#;

fn manifest(name: &str, version: &str) -> String {
    MANIFEST.replace("NAME", name).replace("VERSION_NOW", version)
}

fn manifests(names: &[String], version: &str) -> String {
    names.iter().map(|name| manifest(name, version)).collect()
}

/// What must be true of Deployments once the command that asked for it was answered.
#[derive(Debug, Clone, PartialEq)]
enum Acknowledged {
    Replicas(u64),
    Version(String),
    Paused(bool),
    /// Gone, or going.
    Deleted,
    /// Nothing that could be read from it.
    Something,
}

impl Acknowledged {
    /// Of a Deployment that somebody has asked to delete nothing else is promised than that it may be gone.
    fn holds(&self, deployment: Option<&Value>, is_going: bool) -> bool {
        let Some(deployment) = deployment else { return is_going };
        let spec = &deployment["spec"];
        match self {
            Acknowledged::Replicas(replicas) => spec["replicas"] == *replicas,
            Acknowledged::Version(version) => {
                spec["template"]["spec"]["containers"][0]["env"][0]["value"] == **version
            }
            Acknowledged::Paused(paused) => spec["paused"].as_bool().unwrap_or(false) == *paused,
            Acknowledged::Deleted => deployment["metadata"]["deletionTimestamp"].is_string(),
            Acknowledged::Something => true,
        }
    }
}

/// A command on its way, for some Deployments.
struct Change {
    names: Vec<String>,
    asked: Acknowledged,
    /// Whether it was answered.
    answer: JoinHandle<bool>,
}

struct Churn {
    instance: Instance,
    random: Random,
    names: Vec<String>,
    /// Those whose deletion was asked for, answered or not, since all were there.
    going: BTreeSet<String>,
    versions: u64,
    changes: u64,
    kills: u64,
}

impl Churn {
    fn start(count: u64) -> Self {
        // Those that go and those that come are there at once.
        let most = (count * REPLICAS * 2).clamp(110, 1000).to_string();
        let instance = Instance::start_with(&["busybox.tar"], &["--max-pods", &most]);
        let names: Vec<String> = (0..count).map(|n| format!("d{n:03}")).collect();
        let random = Random::of("MONOPOD_CHURN_SEED");
        Churn { instance, random, names, going: BTreeSet::new(), versions: 0, changes: 0, kills: 0 }
    }

    /// How long a wait for all of them may take: they share the processors with whatever else runs.
    fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs(2) * u32::try_from(self.names.len()).expect("few")
    }

    fn chance(&mut self, below: usize) -> usize {
        usize::try_from(self.random.next(below as u64)).expect("small")
    }

    /// Changes some Deployments, kills the daemon at some instant of that, and looks whether what was
    /// acknowledged is there.
    fn round(&mut self) {
        let slice = usize::try_from(SLICE).expect("small").min(self.names.len() / 3);
        let begin = self.chance(self.names.len());
        let mut rotated = self.names.clone();
        rotated.rotate_left(begin);
        let slices: Vec<Vec<String>> = rotated.chunks(slice).take(3).map(<[String]>::to_vec).collect();
        let changes: Vec<Change> = slices.into_iter().map(|names| self.change(names)).collect();
        std::thread::sleep(Duration::from_millis(self.random.next(1500)));
        self.instance.crash();
        if self.random.next(3) == 0 {
            self.instance.crash_starting(Duration::from_millis(self.random.next(300)));
        }
        let answered: Vec<(Vec<String>, Acknowledged, bool)> = changes
            .into_iter()
            .map(|change| (change.names, change.asked, change.answer.join().expect("joined")))
            .collect();
        self.instance.up();
        self.kills += 1;
        let deployments = by_name(&list(&self.instance, &["deployments"]));
        for (names, asked, answered) in answered {
            for name in names.iter().filter(|_| answered) {
                let (now, is_going) = (deployments.get(name), self.going.contains(name));
                assert!(
                    asked.holds(now, is_going),
                    "{asked:?} of {name} was acknowledged and is lost: {now:?}"
                );
            }
        }
    }

    fn change(&mut self, names: Vec<String>) -> Change {
        self.changes += 1;
        let deployments: Vec<String> = names.iter().map(|name| format!("deployment/{name}")).collect();
        let to = |words: &[&str], more: &[&str]| -> Vec<String> {
            let words = words.iter().map(|word| (*word).to_owned());
            let more = more.iter().map(|word| (*word).to_owned());
            words.chain(deployments.iter().cloned()).chain(more).collect()
        };
        let (words, asked) = match self.random.next(9) {
            0 | 1 => {
                let replicas = self.random.next(4);
                (to(&["scale"], &[&format!("--replicas={replicas}")]), Acknowledged::Replicas(replicas))
            }
            2 | 3 => {
                self.versions += 1;
                let version = format!("v{}", self.versions);
                (to(&["set", "env"], &[&format!("VERSION={version}")]), Acknowledged::Version(version))
            }
            4 => (to(&["rollout", "restart"], &[]), Acknowledged::Something),
            5 => (to(&["rollout", "pause"], &[]), Acknowledged::Paused(true)),
            6 => (to(&["rollout", "resume"], &[]), Acknowledged::Paused(false)),
            7 => {
                self.going.extend(names.iter().cloned());
                let cascade = ["background", "foreground", "orphan"][self.chance(3)];
                let more = [&*format!("--cascade={cascade}"), "--wait=false", "--ignore-not-found"];
                (to(&["delete"], &more), Acknowledged::Deleted)
            }
            _ => {
                let selector = format!("app in ({})", names.join(","));
                let words = ["delete", "pods", "--wait=false", "-l", &selector];
                (words.map(str::to_owned).to_vec(), Acknowledged::Something)
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.instance.kubectl_command(&words);
        let answer = std::thread::spawn(move || command.output().expect("kubectl runs").status.success());
        Change { names, asked, answer }
    }

    /// Gives all of them one template and their size, and waits until that is what there is.
    fn settle(&mut self, version: &str) -> World {
        // One that goes would take what is applied to it along.
        self.instance.eventually_within(self.patience(), "Deployments that were deleted are gone", || {
            let going = |one: &&Value| one["metadata"]["deletionTimestamp"].is_string();
            let left: Vec<String> =
                list(&self.instance, &["deployments"]).iter().filter(going).map(name_of).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
        });
        self.instance.apply(&manifests(&self.names, version));
        self.going.clear();
        let (instance, names) = (&self.instance, &self.names);
        instance.eventually_within(self.patience(), "all Deployments arrive", || {
            let world = World::look(instance);
            let wrong = world.wrong(names, version);
            if wrong.is_empty() { Ok(world) } else { Err(wrong) }
        })
    }

    /// What the host has is what the objects say.
    fn check_host(&self, world: &World) {
        self.instance.eventually_within(self.patience(), "the host has what the objects say", || {
            let wrong = host_differs(&self.instance, world);
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        });
    }

    fn memory(&self) -> i64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.instance.pid()));
        let text = text.expect("a running daemon");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        line.and_then(|number| number.trim().parse::<i64>().ok()).expect("a number") << 10
    }
}

fn list(instance: &Instance, what: &[&str]) -> Vec<Value> {
    let text = instance.kubectl(&[&["get", "-o", "json"], what].concat()).ok();
    let mut list: Value = serde_json::from_str(&text).expect("JSON");
    list["items"].as_array_mut().map(std::mem::take).expect("a list")
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn by_name(objects: &[Value]) -> BTreeMap<String, Value> {
    objects.iter().map(|object| (name_of(object), object.clone())).collect()
}

/// The uid of who manages an object.
fn manager(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let manager = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    manager.and_then(|owner| owner["uid"].as_str()).unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The addresses in EndpointSlices.
fn addresses<'a>(slices: impl IntoIterator<Item = &'a Value>) -> BTreeSet<&'a str> {
    let endpoints = slices.into_iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()).collect()
}

/// The objects of one moment.
#[derive(Debug)]
struct World {
    deployments: BTreeMap<String, Value>,
    sets: Vec<Value>,
    pods: Vec<Value>,
    slices: Vec<Value>,
}

impl World {
    fn look(instance: &Instance) -> Self {
        let mut of_kind: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for object in list(instance, &["deployments,replicasets,pods,endpointslices"]) {
            of_kind.entry(object["kind"].as_str().unwrap_or_default().to_owned()).or_default().push(object);
        }
        let mut take = |kind: &str| of_kind.remove(kind).unwrap_or_default();
        World {
            deployments: by_name(&take("Deployment")),
            sets: take("ReplicaSet"),
            pods: take("Pod"),
            slices: take("EndpointSlice"),
        }
    }

    fn uids(&self) -> BTreeSet<String> {
        self.pods.iter().map(uid_of).collect()
    }

    /// What is not as it was asked for.
    fn wrong(&self, names: &[String], version: &str) -> String {
        let mut wrong = String::new();
        for name in names {
            let one = self.deployments.get(name).cloned().unwrap_or_default();
            let status = &one["status"];
            let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
            let arrived = one["metadata"]["generation"] == status["observedGeneration"]
                && Acknowledged::Version(version.to_owned()).holds(Some(&one), false)
                && counts.iter().all(|count| status[count] == REPLICAS);
            if !arrived {
                let _ = writeln!(wrong, "deployment {name}: {status}");
            }
            self.sets_wrong(name, &uid_of(&one), &mut wrong);
        }
        self.pods_wrong(&mut wrong);
        let of_pods: BTreeSet<&str> =
            self.pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
        let listed = addresses(self.slices.iter().filter(|slice| name_of(slice) != "kubernetes"));
        if listed != of_pods {
            let _ = writeln!(wrong, "endpoints {listed:?} of Pods {of_pods:?}");
        }
        wrong
    }

    /// The ReplicaSets of a Deployment: one that has its size, and no more old ones than it may keep.
    fn sets_wrong(&self, name: &str, uid: &str, wrong: &mut String) {
        let sets: Vec<&Value> = self.sets.iter().filter(|set| manager(set) == uid).collect();
        let sizes: Vec<u64> =
            sets.iter().filter_map(|set| set["spec"]["replicas"].as_u64()).filter(|size| *size > 0).collect();
        if sizes != [REPLICAS] || sets.len() > HISTORY + 1 {
            let _ = writeln!(wrong, "the {} ReplicaSets of {name}: {sizes:?}", sets.len());
        }
    }

    fn pods_wrong(&self, wrong: &mut String) {
        let deployments: BTreeSet<String> = self.deployments.values().map(uid_of).collect();
        for set in self.sets.iter().filter(|set| !deployments.contains(manager(set))) {
            let _ = writeln!(wrong, "nobody owns replicaset {}", name_of(set));
        }
        let sets: BTreeSet<String> = self.sets.iter().map(uid_of).collect();
        for pod in &self.pods {
            let going = pod["metadata"]["deletionTimestamp"].is_string();
            if going || !is_ready(pod) || !sets.contains(manager(pod)) {
                let _ = writeln!(wrong, "pod {}: going {going}, {}", name_of(pod), pod["status"]["phase"]);
            }
        }
        let wanted = self.deployments.len() * usize::try_from(REPLICAS).expect("small");
        if self.pods.len() != wanted {
            let _ = writeln!(wrong, "{} Pods, not {wanted}", self.pods.len());
        }
    }
}

/// Every uid in the text.
fn uids(text: &str) -> impl Iterator<Item = &str> {
    let is_uid =
        |word: &&str| word.len() == 36 && [8, 13, 18, 23].iter().all(|at| word.as_bytes()[*at] == b'-');
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '-').filter(is_uid)
}

/// What the host has that no Pod accounts for, or has not.
fn host_differs(instance: &Instance, world: &World) -> String {
    let id = &instance_id(instance.dir.path());
    let (pods, traces) = (world.uids(), Traces::of(id, instance.dir.path()));
    let mut wrong = String::new();
    let strangers: Vec<&str> =
        traces.lines().filter(|line| uids(line).any(|uid| !pods.contains(uid))).collect();
    if !strangers.is_empty() {
        let _ = writeln!(wrong, "of nobody: {strangers:#?}");
    }
    let directories = std::fs::read_dir(instance.dir.path().join("pods")).map_or(0, Iterator::count);
    // Beside the links of the Pods there is the bridge.
    for (what, count) in [
        ("shims", shims_of(id).len()),
        ("directories", directories),
        ("links", traces.count("link").saturating_sub(1)),
    ] {
        if count != pods.len() {
            let _ = writeln!(wrong, "{count} {what} of {} Pods", pods.len());
        }
    }
    let _ = writeln!(wrong, "{}", rules_differ(instance));
    wrong.trim().to_owned()
}

/// Where rules lead that no EndpointSlice names, and the other way round.
fn rules_differ(instance: &Instance) -> String {
    let slices = list(instance, &["endpointslices", "-A"]);
    let listed = addresses(&slices).into_iter().map(str::to_owned).collect();
    let led_to = led_to(&instance_id(instance.dir.path()));
    let (without, with) = (led_to.difference(&listed), listed.difference(&led_to));
    let (without, with): (Vec<_>, Vec<_>) = (without.collect(), with.collect());
    if without.is_empty() && with.is_empty() {
        return String::new();
    }
    format!("rules lead to {without:?}, which no slice has, and not to {with:?}")
}

/// The addresses that the rules of Services lead to.
fn led_to(id: &str) -> BTreeSet<String> {
    let rules = Command::new("nft").args(["list", "table", "ip", &format!("monopod-{id}")]).output();
    let rules = String::from_utf8_lossy(&rules.expect("nft runs").stdout).into_owned();
    let targets = rules.lines().filter_map(|line| line.split_once(" dnat ")).flat_map(|(_, rest)| {
        let target = rest.split(" comment ").next().unwrap_or_default();
        target.split(|c: char| !c.is_ascii_digit() && c != '.')
    });
    targets.filter(|word| word.matches('.').count() == 3).map(str::to_owned).collect()
}

#[test]
fn deployments_churned_under_a_daemon_that_is_killed_all_arrive_and_leave_nothing() {
    let asked = number("MONOPOD_CHURN");
    let seconds = number("MONOPOD_CHURN_SECONDS").unwrap_or(if asked.is_some() { 300 } else { 0 });
    let mut churn = Churn::start(asked.unwrap_or(20));
    churn.instance.apply(&manifests(&churn.names, "first"));
    let start = Instant::now();
    while churn.kills < KILLS_MIN || start.elapsed() < Duration::from_secs(seconds) {
        churn.round();
    }
    let churned = start.elapsed();
    let world = churn.settle("calm");
    churn.check_host(&world);
    println!(
        "{} changes and {} kills in {churned:?}, at rest {:?} later",
        churn.changes,
        churn.kills,
        start.elapsed() - churned
    );

    // Without kills, so that memory has nobody to free it.
    let before = churn.memory();
    let world = churn.settle("again");
    churn.check_host(&world);
    let grown = churn.memory() - before;
    println!("{before} bytes of memory at rest, {grown} more after a rollout of all");
    let pods = i64::try_from(world.pods.len()).expect("few");
    assert!(grown < HISTORY_BYTES + pods * KEPT_OF_A_POD, "{grown} more than {before} for {pods} Pods");

    let rest: Vec<&str> = churn.names.iter().map(String::as_str).collect();
    churn.instance.kubectl(&[&["delete", "deployments", "--wait=false"], &*rest].concat()).ok();
    churn.instance.kubectl(&[&["delete", "services", "--wait=false"], &*rest].concat()).ok();
    churn.instance.eventually_within(churn.patience(), "no object is left", || {
        let world = World::look(&churn.instance);
        let left = world.deployments.len() + world.sets.len() + world.pods.len() + world.slices.len();
        // The slice of the API itself stays.
        if left == 1 { Ok(()) } else { Err(format!("{left} objects")) }
    });
    nothing_of_pods_is_left(&churn.instance, churn.patience());
    churn.instance.eventually("rules", || {
        let wrong = rules_differ(&churn.instance);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    });
}
