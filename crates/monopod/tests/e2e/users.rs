//! Pods with `hostUsers: false`: root within, nobody on the host, and all else as with any Pod.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::archives::{Tar, digest, docker_archive};
use crate::harness::Instance;

const POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {word: hidden}
---
apiVersion: v1
kind: Pod
metadata: {name: apart}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 2000, sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - {name: key, secret: {secretName: key, defaultMode: 0400}}
  - {name: host, hostPath: {path: HOME/given, type: DirectoryOrCreate}}
  - {name: image, image: {reference: "data:1", pullPolicy: IfNotPresent}}
  - {name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  initContainers:
  - {name: first, image: "busybox:1.36", command: [sh, -c, "echo init > /scratch/init; id -u > /dev/termination-log"],
     volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
  - name: c
    image: "busybox:1.36"
    command: [sh, -c, "echo to the log; mkdir /www; echo served > /www/index.html; httpd -p 8080 -h /www; trap 'exit 3' TERM; while true; do sleep 1; done"]
    ports: [{containerPort: 8080}]
    startupProbe: {exec: {command: [cat, /scratch/init]}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 60}
    resources: {requests: {cpu: 10m}, limits: {memory: 64Mi}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: scratch, mountPath: /part, subPath: below}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: key, mountPath: /key}
    - {name: host, mountPath: /host}
    - {name: image, mountPath: /image}
    - {name: about, mountPath: /about}
  - name: user
    image: "busybox:1.36"
    command: [sleep, "3600"]
    securityContext: {runAsUser: 1000, runAsGroup: 1001}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
"#;

fn import(instance: &Instance) {
    let layer = Tar::new().file("top.txt", b"of the image\n").bytes();
    let file = instance.dir.path().join("data.tar");
    std::fs::write(&file, docker_archive("data:1", &layer, &digest(&layer))).expect("written");
    instance.monopod(&["image", "import", &file.display().to_string()]).ok();
}

fn exec(instance: &Instance, pod: &str, container: &str, command: &str) -> String {
    let said = instance.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", command]);
    format!("{}{}", said.out, said.err)
}

/// Where the Pod's files are on the host.
fn directory(instance: &Instance, pod: &str) -> PathBuf {
    instance.dir.path().join("pods").join(instance.field(&format!("pod/{pod}"), "{.metadata.uid}"))
}

/// The first user of the host that is the Pod's.
fn first_user(instance: &Instance, pod: &str) -> u32 {
    let map = exec(instance, pod, "c", "cat /proc/self/uid_map");
    map.split_ascii_whitespace()
        .nth(1)
        .and_then(|first| first.parse().ok())
        .unwrap_or_else(|| panic!("{map}"))
}

#[test]
fn root_of_a_pod_apart_is_nobody_and_has_all_that_pods_have() {
    let mut instance = Instance::start(&["busybox.tar"]);
    import(&instance);
    instance.apply(&POD.replace("HOME", &instance.dir.path().display().to_string()));
    instance.wait("condition=Ready", "pod/apart");
    let first = first_user(&instance, "apart");
    assert!(first >= 65_536 && first % 65_536 == 0, "{first}");
    let message = "{.status.initContainerStatuses[0].state.terminated.message}";
    assert_eq!(instance.field("pod/apart", message), "0\n");
    look_from_inside(&instance);
    look_from_outside(&instance, first);
    work_with_it(&instance);
    crash_and_restart(&mut instance, first);
    let home = directory(&instance, "apart");
    instance.kubectl(&["delete", "pod", "apart", "second"]).ok();
    instance.eventually("its directory is gone, and its users free", || {
        if home.exists() { Err(home.display().to_string()) } else { Ok(()) }
    });
    assert_eq!(processes_of(first), Vec::<String>::new());
}

const LOOK: &str = "id -u; cat /scratch/init /settings/colour /key/word /image/top.txt /about/name; echo; \
    stat -Lc '%u:%g %n' /scratch/init /key/word /image/top.txt /etc/hosts /dev/shm /host; \
    touch /scratch/c /memory/c /part/c /host/c /dev/shm/c /new && echo written; \
    cat /proc/sys/kernel/shm_rmid_forced";

const SEEN: [&str; 8] = [
    "0\ninit\ngreenhiddenof the image\napart\n",
    "0:2000 /scratch/init\n",
    "0:2000 /key/word\n",
    "0:0 /image/top.txt\n",
    "0:0 /etc/hosts\n",
    "0:0 /dev/shm\n",
    "0:0 /host\n",
    "written\n1\n",
];

fn look_from_inside(instance: &Instance) {
    let seen = exec(instance, "apart", "c", LOOK);
    for wanted in SEEN {
        assert!(seen.contains(wanted), "{wanted:?} is not in:\n{seen}");
    }
    let script = "id; touch /scratch/u && stat -c '%u:%g' /scratch/u; (echo x > /etc/passwd) 2>&1";
    let seen = exec(instance, "apart", "user", script);
    assert!(seen.starts_with("uid=1000 gid=1001") && seen.contains("1000:2000\n"), "{seen}");
    assert!(seen.contains("denied"), "{seen}");
}

fn look_from_outside(instance: &Instance, first: u32) {
    let owner = |path: PathBuf| {
        std::fs::metadata(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display())).uid()
    };
    assert_eq!(owner(instance.dir.path().join("given/c")), 0, "volumes hold the Pod's own numbers");
    let volumes = directory(instance, "apart").join("volumes");
    assert_eq!(owner(volumes.join("kubernetes.io~empty-dir/scratch/u")), 1000);
    assert!(!processes_of(first).is_empty(), "its root is user {first} of the host");
}

/// Logs, copies both ways, a debugger among its processes.
fn work_with_it(instance: &Instance) {
    assert_eq!(instance.kubectl(&["logs", "apart", "-c", "c"]).ok(), "to the log\n");
    let copy = instance.dir.path().join("copied");
    let copied = copy.display().to_string();
    instance.kubectl(&["cp", "-c", "c", "apart:/www/index.html", &copied]).ok();
    assert_eq!(std::fs::read_to_string(&copy).expect("copied"), "served\n");
    instance.kubectl(&["cp", "-c", "c", &copied, "apart:/scratch/in"]).ok();
    assert_eq!(exec(instance, "apart", "c", "cat /scratch/in"), "served\n");
    let debug = ["debug", "apart", "--image=busybox:1.36", "--target=c", "-c", "look", "--profile=general"];
    let command = ["--", "sh", "-c", "ps | grep -c '[h]ttpd'; id -u"];
    instance.kubectl(&[&debug[..], &command].concat()).ok();
    instance.eventually("the debugger has looked", || {
        let log = instance.kubectl(&["logs", "apart", "-c", "look"]).out;
        if log.ends_with("0\n") && !log.starts_with('0') { Ok(()) } else { Err(log) }
    });
}

/// Nothing of it is lost with the daemon, another Pod gets other users, and a container that is started again
/// the same.
fn crash_and_restart(instance: &mut Instance, first: u32) {
    instance.crash();
    instance.up();
    assert_eq!(first_user(instance, "apart"), first);
    instance.apply(&bare("second", "{}"));
    instance.wait("condition=Ready", "pod/second");
    assert_ne!(first_user(instance, "second"), first);
    exec(instance, "apart", "c", "kill -TERM 1");
    instance.eventually("it is started again", || {
        let count = instance.field("pod/apart", "{.status.containerStatuses[?(@.name==\"c\")].restartCount}");
        let owner = exec(instance, "apart", "c", "stat -c %u /scratch/c");
        if count == "1" && owner == "0\n" { Ok(()) } else { Err(format!("{count} {owner}")) }
    });
}

/// Processes of the host that run as a user.
fn processes_of(user: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.join("status").exists());
    paths
        .filter(|path| std::fs::metadata(path).is_ok_and(|meta| meta.uid() == user))
        .map(|path| path.display().to_string())
        .collect()
}

fn bare(name: &str, context: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostUsers: false\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: \"busybox:1.36\", \
         command: [sleep, \"3600\"], securityContext: {context}}}\n"
    )
}

#[test]
fn what_cannot_be_apart_is_refused_by_name() {
    let instance = Instance::start(&["busybox.tar"]);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        let pod = bare("none", "{}").replace("  hostUsers", &format!("  {field}: true\n  hostUsers"));
        let said = instance.kubectl_with(&["apply", "-f", "-"], &pod).fails();
        assert!(said.contains("Forbidden: when `hostUsers` is false"), "{field}: {said}");
    }
    let unmasked = bare("none", "{procMount: Unmasked}").replace("hostUsers: false", "hostUsers: true");
    let said = instance.kubectl_with(&["apply", "-f", "-"], &unmasked).fails();
    assert!(said.contains("`hostUsers` must be false to use `Unmasked`"), "{said}");
    instance.apply(&bare("strange", "{runAsUser: 70000}"));
    let words = ["user 70000 is not in the Pod's user namespace, which has 0 to 65535"];
    waits_with(&instance, "strange", &words);
    instance.apply(&bare("open", "{procMount: Unmasked, seccompProfile: {type: Unconfined}}"));
    instance.wait("condition=Ready", "pod/open");
    let script = "unshare -Urpfm --mount-proc sh -c 'id -u; ls -d /proc/1' 2>&1";
    assert_eq!(exec(&instance, "open", "c", script), "0\n/proc/1\n", "a container in the container");
}

/// Waits until the Pod's container cannot be created, with these words.
fn waits_with(instance: &Instance, name: &str, words: &[&str]) {
    instance.eventually(name, || {
        let found = instance.field(&format!("pod/{name}"), "{.status.containerStatuses[0].state.waiting}");
        let told = found.contains("CreateContainerError") && words.iter().all(|word| found.contains(word));
        if told { Ok(()) } else { Err(found) }
    });
}

const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;

/// A Pod with the host's users and a security context.
fn with_context(name: &str, pod: &str, own: &str) -> String {
    bare(name, own).replace("  hostUsers: false\n", &format!("  securityContext: {pod}\n"))
}

#[test]
fn the_node_says_which_sysctls_pods_may_set() {
    let flags = ["--allowed-unsafe-sysctls=kernel.msg*,net.core.somaxconn", "--seccomp-default=false"];
    let instance = Instance::start_with(&["busybox.tar"], &flags);
    let pod = |name: &str, sysctl: &str, value: &str, own: &str| {
        let sysctls = format!("{{sysctls: [{{name: {sysctl}, value: \"{value}\"}}]}}");
        instance.apply(&with_context(name, &sysctls, own));
    };
    pod("allowed", "kernel.msgmax", "12345", "{}");
    pod("safe", "net.ipv4.tcp_fin_timeout", "7", "{seccompProfile: {type: RuntimeDefault}}");
    pod("forbidden", "kernel.sem", "1 2 3 4", "{}");
    instance.wait("condition=Ready", "pod/allowed");
    instance.wait("condition=Ready", "pod/safe");
    let look = |name: &str, sysctl: &str| {
        let filter = "grep Seccomp: /proc/self/status | cut -f2";
        exec(&instance, name, "c", &format!("cat /proc/sys/{sysctl}; {filter}"))
    };
    assert_eq!(look("allowed", "kernel/msgmax"), "12345\n0\n", "no filter, as the node is told");
    assert_eq!(look("safe", "net/ipv4/tcp_fin_timeout"), "7\n2\n");
    instance.wait("jsonpath={.status.phase}=Failed", "pod/forbidden");
    let told = instance.field("pod/forbidden", "{.status.reason}: {.status.message}");
    assert_eq!(told, "SysctlForbidden: forbidden sysctl: \"kernel.sem\" not allowlisted");
}

#[test]
fn a_profile_of_the_node_filters_system_calls() {
    let instance = Instance::start(&["busybox.tar"]);
    let profiles = instance.dir.path().join("seccomp");
    std::fs::create_dir_all(&profiles).expect("made");
    std::fs::write(profiles.join("no-mkdir.json"), PROFILE).expect("written");
    let pod = |name: &str, file: &str| {
        let profile = format!("{{seccompProfile: {{type: Localhost, localhostProfile: {file}}}}}");
        instance.apply(&with_context(name, "{}", &profile));
    };
    pod("local", "no-mkdir.json");
    pod("absent", "nosuch.json");
    instance.wait("condition=Ready", "pod/local");
    let said = exec(&instance, "local", "c", "mkdir /x 2>&1");
    assert!(said.starts_with("mkdir: can't create directory '/x': No space left on device\n"), "{said}");
    waits_with(&instance, "absent", &["cannot load seccomp profile", "nosuch.json", "no such file"]);
}
