//! The instance that is attacked, and what its host looks like.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Outcome;
use crate::archives::{digest, docker_archive};
use crate::harness::{Instance, PATIENCE, program};
use serde_json::{Value, json};

/// What no container may ever show or change: the content of the files in [`World::prey`].
pub(crate) const SECRET: &str = "the host's own secret 5f1c7e";

/// The instance under attack.
pub(crate) struct World {
    pub(crate) instance: Instance,
    /// A directory of the host that no Pod was given. It lies in the instance's, so that it goes with it.
    prey: PathBuf,
}

/// How a Pod ended, or why it could not begin.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `Succeeded`, `Failed` or `Pending`.
    pub(crate) phase: String,
    /// Reason and message of the Pod and of what its containers wait for or ended by.
    pub(crate) why: String,
    pub(crate) logs: String,
}

impl Ended {
    /// The output, which must not have the secret in it.
    pub(crate) fn clean(self) -> Result<String, String> {
        if self.logs.contains(SECRET) || self.why.contains(SECRET) {
            return Err(format!("the secret of the host was read: {}{}", self.why, self.logs));
        }
        Ok(self.logs)
    }

    /// The Pod must not have begun, for a reason with these words.
    pub(crate) fn never_began(self, words: &str) -> Outcome {
        let began = matches!(self.phase.as_str(), "Succeeded" | "Running") || !self.logs.is_empty();
        if began || !self.why.contains(words) {
            return Err(format!("should not begin, with {words:?}: {self:?}"));
        }
        Ok(())
    }
}

/// Fails unless it holds, with what was seen.
pub(crate) fn check(holds: bool, seen: &str) -> Outcome {
    if holds { Ok(()) } else { Err(format!("saw:\n{seen}")) }
}

/// A container that runs a script of the shell.
pub(crate) fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "busybox:1.36", "command": ["sh", "-c", script]})
}

impl World {
    pub(crate) fn start() -> Self {
        let instance = Instance::start(&["busybox.tar"]);
        let prey = instance.dir.path().join("prey");
        for name in ["secret", "inner/file"] {
            let path = prey.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(&path, SECRET).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        }
        World { instance, prey }
    }

    /// Path of the directory on the host.
    pub(crate) fn prey(&self) -> &Path {
        &self.prey
    }

    /// Runs a Pod to its end, or to the reason why it does not begin.
    pub(crate) fn run(&self, name: &str, spec: Value) -> Ended {
        let refused = self.create(name, spec);
        if !refused.is_empty() {
            return Ended { phase: "Pending".to_owned(), why: refused, logs: String::new() };
        }
        self.ended(name)
    }

    /// Runs one container with a script, nothing else asked for.
    pub(crate) fn script(&self, name: &str, script: &str) -> Ended {
        self.run(name, json!({"containers": [shell(script)]}))
    }

    /// Creates a Pod that is not started again; the refusal, or nothing.
    pub(crate) fn create(&self, name: &str, mut spec: Value) -> String {
        if spec.get("restartPolicy").is_none() {
            spec["restartPolicy"] = json!("Never");
        }
        spec["terminationGracePeriodSeconds"] = json!(0);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let said = self.instance.kubectl_with(&["create", "-f", "-"], &pod.to_string());
        if said.code == 0 { String::new() } else { said.err }
    }

    /// Waits for the end of a Pod, reads its logs and deletes it.
    pub(crate) fn ended(&self, name: &str) -> Ended {
        let ended = self.until(name, |_| false);
        self.delete(name);
        ended
    }

    /// Waits until a Pod has ended, cannot begin, or is as asked for.
    pub(crate) fn until(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Ended {
        let start = Instant::now();
        loop {
            let said = self.instance.kubectl(&["get", "pod", name, "-o", "json"]).ok();
            let pod: Value = serde_json::from_str(&said).expect("JSON");
            let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
            let why = reasons(&pod);
            let stuck = ["Error", "ErrImageNeverPull", "InvalidImageName"].iter().any(|word| {
                why.lines().any(|line| line.split(':').next().unwrap_or_default().ends_with(word))
            });
            if matches!(phase.as_str(), "Succeeded" | "Failed") || stuck || holds(&pod) {
                let logs = self.instance.kubectl(&["logs", name, "--all-containers", "--ignore-errors"]).out;
                // What kubectl says of a container that has no log yet is not the container's.
                let own = logs.split_inclusive('\n').filter(|line| !line.starts_with("error: container "));
                return Ended { phase, why, logs: own.collect() };
            }
            assert!(start.elapsed() < PATIENCE, "{name} never ended: {pod}\n{}", self.instance.log_tail());
            // Polls a state of several parts that no single `kubectl wait` tells.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn delete(&self, name: &str) {
        self.instance.kubectl(&["delete", "pod", name, "--now", "--wait=false"]);
    }

    /// Imports an image of these layers; the refusal, or nothing.
    pub(crate) fn import(&self, tag: &str, layer: &[u8]) -> Result<(), String> {
        let archive = docker_archive(&format!("docker.io/library/{tag}"), layer, &digest(layer));
        let file = self.instance.dir.path().join(format!("{}.tar", tag.replace([':', '/'], "-")));
        std::fs::write(&file, archive).expect("written");
        let said = self.instance.monopod(&["image", "import", file.to_str().expect("text")]);
        if said.code == 0 { Ok(()) } else { Err(said.err) }
    }
}

/// Reason and message of everything in a status that has one, a line each.
fn reasons(pod: &Value) -> String {
    let status = &pod["status"];
    let mut lines = vec![(&status["reason"], &status["message"])];
    let containers = ["initContainerStatuses", "containerStatuses"].map(|field| status[field].as_array());
    for container in containers.into_iter().flatten().flatten() {
        for state in ["waiting", "terminated"] {
            let state = &container["state"][state];
            lines.push((&state["reason"], &state["message"]));
        }
    }
    let line = |(reason, message): (&Value, &Value)| {
        reason.as_str().map(|reason| format!("{reason}: {}\n", message.as_str().unwrap_or_default()))
    };
    lines.into_iter().filter_map(line).collect()
}

/// What an attack could have changed on the host.
#[derive(PartialEq, Eq)]
pub(crate) struct Host(BTreeMap<String, String>);

/// Switches of the kernel that lead out of a container when written.
const SWITCHES: [&str; 9] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/panic",
    "/proc/sys/fs/binfmt_misc/status",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/ip_forward",
    "/sys/kernel/uevent_helper",
];

impl Host {
    pub(crate) fn look(world: &World) -> Self {
        let mut seen = BTreeMap::new();
        for switch in SWITCHES {
            seen.insert(switch.to_owned(), std::fs::read_to_string(switch).unwrap_or_default());
        }
        tree(world.prey(), &mut seen);
        for agent in release_agents() {
            let value = std::fs::read_to_string(&agent).unwrap_or_default();
            seen.insert(agent.display().to_string(), value);
        }
        let program = std::fs::read(program("MONOPOD")).expect("the program");
        seen.insert("the program".to_owned(), digest(&program));
        let null = std::fs::metadata("/dev/null").expect("there");
        seen.insert("/dev/null".to_owned(), format!("{:o} {:x}", null.mode(), null.rdev()));
        // Mounts of this and other instances come and go; none of them is made there.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let point =
            |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(world.prey()));
        let strange = mounts.lines().filter(point);
        seen.insert("mounts".to_owned(), strange.collect::<Vec<_>>().join("\n"));
        Host(seen)
    }

    /// What is not as it was.
    pub(crate) fn compare(&self, now: &Host) -> Outcome {
        let keys = self.0.keys().chain(now.0.keys());
        let changed = keys.filter(|key| self.0.get(*key) != now.0.get(*key));
        let lines: Vec<String> = changed
            .map(|key| format!("the host's {key}: {:?} -> {:?}", self.0.get(key), now.0.get(key)))
            .collect();
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }
}

fn release_agents() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join("release_agent")).filter(|path| path.exists()).collect()
}

fn tree(dir: &Path, seen: &mut BTreeMap<String, String>) {
    let about = std::fs::symlink_metadata(dir).expect("there");
    let line = format!("{:o} {} {}", about.mode(), about.uid(), about.gid());
    let content = about.is_file().then(|| std::fs::read_to_string(dir).unwrap_or_default());
    seen.insert(dir.display().to_string(), format!("{line} {}", content.unwrap_or_default()));
    if about.is_dir() {
        for entry in std::fs::read_dir(dir).expect("readable").flatten() {
            tree(&entry.path(), seen);
        }
    }
}
