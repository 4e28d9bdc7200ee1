//! Volumes on real containers: what a Pod asks of them is what it gets.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Instance, Said, data_directory, unmount_below};

/// A Pod of one busybox; `spec` and `container` are flow mappings without their braces.
pub fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {spec} \
         containers: [{{name: c, image: \"busybox:1.36\", {container}}}]}}\n"
    )
}

/// A program that does nothing for an hour.
pub const SLEEPS: &str = "command: [sleep, \"3600\"]";

pub fn sh(instance: &Instance, pod: &str, script: &str) -> Said {
    instance.kubectl(&["exec", pod, "-c", "c", "--", "sh", "-c", script])
}

/// Runs a program of the host.
fn host(program: &str, words: &[&str]) -> String {
    let said = std::process::Command::new(program).args(words).output().expect("it runs");
    Said::from(said).ok()
}

/// Waits until an Event of this reason says something.
pub fn told(instance: &Instance, pod: &str, reason: &str, words: &str) {
    instance.eventually(&format!("{reason} of {pod}: {words}"), || {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        let path = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
        let said = instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).ok();
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
}

/// Waits until the container waits with a reason and words.
pub fn waits(instance: &Instance, pod: &str, reason: &str, words: &str) {
    instance.eventually(&format!("{pod} waits: {reason}: {words}"), || {
        let path = "{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}";
        let said = instance.field(&format!("pod/{pod}"), path);
        if said.starts_with(reason) && said.contains(words) { Ok(()) } else { Err(said) }
    });
}

fn ready(instance: &Instance, pods: &[&str]) {
    pods.iter().for_each(|pod| instance.wait("condition=Ready", &format!("pod/{pod}")));
}

/// Pods whose variables come from a file that another container wrote.
fn read_files(instance: &Instance) {
    let from = |key: &str, optional: bool| {
        format!("{{fileKeyRef: {{volumeName: v, path: d/a.env, key: {key}, optional: {optional}}}}}")
    };
    let init = "volumes: [{name: v, emptyDir: {}}], initContainers: [{name: w, image: \"busybox:1.36\", \
                command: [sh, -c, \"mkdir /v/d; printf \\\"# said\\\\nA='one two'\\\\nB='\\\\$A'\\\\n\\\" > /v/d/a.env\"], \
                volumeMounts: [{name: v, mountPath: /v}]}],";
    let env = format!(
        "{SLEEPS}, env: [{{name: ONE, valueFrom: {}}}, {{name: TWO, valueFrom: {}}}, {{name: SIX, valueFrom: {}}}, \
         {{name: ALL, value: \"<$(ONE)>\"}}]",
        from("A", false),
        from("B", false),
        from("C", true)
    );
    instance.apply(&pod("reads", init, &env));
    instance.apply(&pod(
        "misses",
        init,
        &format!("{SLEEPS}, env: [{{name: X, valueFrom: {}}}]", from("C", false)),
    ));
}

#[test]
fn variables_come_from_files_that_init_containers_write() {
    let instance = Instance::start(&["busybox.tar"]);
    read_files(&instance);
    ready(&instance, &["reads"]);
    // It does not mount the volume, and sees only what it asked for.
    let said = sh(&instance, "reads", "echo \"$ONE,$TWO,${SIX-unset},$ALL\"; ls -d /v 2>&1").out;
    assert_eq!(said, "one two,$A,unset,<one two>\nls: /v: No such file or directory\n");
    waits(
        &instance,
        "misses",
        "CreateContainerConfigError",
        "environment variable key \"C\" not found in file \"d/a.env\"",
    );
}

/// A loop device with a file of its own behind it, for as long as the test.
struct Loop(String);

impl Loop {
    fn over(file: &Path, text: &str) -> Self {
        let mut content = text.as_bytes().to_vec();
        content.resize(1 << 20, 0);
        fs::write(file, content).expect("written");
        Loop(host("losetup", &["--find", "--show", &file.display().to_string()]).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A volume of the node and a claim for it.
fn local(instance: &Instance, name: &str, path: &str, mode: &str) -> String {
    let node = instance.kubectl(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec:\n  volumeMode: {mode}\n  \
         capacity: {{storage: 1Mi}}\n  accessModes: [ReadWriteOnce]\n  storageClassName: \"\"\n  \
         local: {{path: {path}}}\n  claimRef: {{namespace: default, name: {name}}}\n  nodeAffinity: {{required: \
         {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}\n\
         ---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  volumeMode: {mode}\n  \
         volumeName: {name}\n  storageClassName: \"\"\n  accessModes: [ReadWriteOnce]\n  \
         resources: {{requests: {{storage: 1Mi}}}}\n"
    )
}

/// Pods that use the claims `disk` and `home`, rightly and wrongly.
fn use_claims(instance: &Instance) {
    let volume = |claim: &str, more: &str| {
        format!("volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}{more}}}}}],")
    };
    let passed = format!("{SLEEPS}, volumeDevices: [{{name: v, devicePath: /dev/xvda}}]");
    instance.apply(&pod("writes", &volume("disk", ""), &passed));
    instance.apply(&pod("reads", &volume("disk", ", readOnly: true"), &passed));
    instance.apply(&pod(
        "mounts",
        &volume("disk", ""),
        &format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]"),
    ));
    instance.apply(&pod("passes", &volume("home", ""), &passed));
}

#[test]
fn a_block_device_of_the_node_is_one_of_the_container() {
    let instance = Instance::start(&["busybox.tar"]);
    let device = Loop::over(&instance.dir.path().join("disk"), "on the disk");
    instance.apply(&local(&instance, "disk", &device.0, "Block"));
    let home = instance.dir.path().join("home");
    fs::create_dir(&home).expect("made");
    instance.apply(&local(&instance, "home", &home.display().to_string(), "Filesystem"));
    use_claims(&instance);
    ready(&instance, &["writes", "reads"]);
    let read = "test -b /dev/xvda && dd if=/dev/xvda bs=11 count=1 2>/dev/null";
    assert_eq!(sh(&instance, "writes", read).ok(), "on the disk");
    let write = "printf OFF | dd of=/dev/xvda conv=notrunc 2>&1 && sync /dev/xvda && echo done";
    assert!(sh(&instance, "writes", write).ok().ends_with("done\n"));
    // Who may only read it reads, and its group forbids the rest, whatever node it makes.
    assert_eq!(sh(&instance, "reads", read).ok(), "OFFthe disk");
    assert!(!sh(&instance, "reads", write).out.contains("done"));
    let own = "mknod /d b $((0x$(stat -c %t /dev/xvda))) $((0x$(stat -c %T /dev/xvda))); test -b /d && echo made; \
               printf X | dd of=/d conv=notrunc 2>&1 && echo done";
    let said = sh(&instance, "reads", own).out;
    assert!(said.contains("made") && !said.contains("done"), "{said}");
    told(
        &instance,
        "mounts",
        "FailedMapVolume",
        "volume v has volumeMode Block, but is specified in volumeMounts",
    );
    told(
        &instance,
        "passes",
        "FailedMount",
        "volume v has volumeMode Filesystem, but is specified in volumeDevices",
    );
}

#[test]
fn huge_pages_are_a_file_system_of_the_container() {
    let instance = Instance::start(&["busybox.tar"]);
    let mount = format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]");
    for (name, medium) in [("one", "HugePages"), ("two", "HugePages-2Mi")] {
        instance.apply(&pod(
            name,
            &format!("volumes: [{{name: v, emptyDir: {{medium: {medium}}}}}],"),
            &mount,
        ));
    }
    ready(&instance, &["one", "two"]);
    for name in ["one", "two"] {
        let said = sh(&instance, name, "grep ' /v hugetlbfs ' /proc/mounts; stat -c %a /v").ok();
        assert!(said.contains("pagesize=2M") && said.ends_with("777\n"), "{said}");
    }
}

#[test]
fn a_sub_path_is_part_of_a_volume_and_may_be_named_by_variables() {
    let instance = Instance::start(&["busybox.tar"]);
    let shared = instance.dir.path().join("shared");
    fs::create_dir(&shared).expect("made");
    let volume = format!("volumes: [{{name: v, hostPath: {{path: {}}}}}],", shared.display());
    let own = format!(
        "{SLEEPS}, env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}], \
         volumeMounts: [{{name: v, mountPath: /own, subPathExpr: \"logs/$(POD)\"}}, {{name: v, mountPath: /all, subPath: .}}]"
    );
    instance.apply(&pod("a", &volume, &own));
    instance.apply(&pod("b", &volume, &own));
    ready(&instance, &["a", "b"]);
    for name in ["a", "b"] {
        sh(&instance, name, &format!("echo {name} > /own/said")).ok();
    }
    assert_eq!(fs::read_to_string(shared.join("logs/a/said")).expect("there"), "a\n");
    assert_eq!(sh(&instance, "a", "cat /own/said; ls /all/logs").ok(), "a\na\nb\n");
    // A link that leads out of the volume leads nowhere.
    std::os::unix::fs::symlink("/etc", shared.join("out")).expect("made");
    instance.apply(&pod(
        "c",
        &volume,
        &format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /own, subPath: out}}]"),
    ));
    waits(&instance, "c", "CreateContainerConfigError", "failed to prepare subPath for volumeMount");
}

/// A directory of the host in which things are mounted, gone with all of them.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}

/// A directory with a tmpfs in it.
fn nested(place: &Place) -> PathBuf {
    let above = place.0.path().join("above");
    let below = above.join("below");
    fs::create_dir_all(&below).expect("made");
    host("mount", &["-t", "tmpfs", "nested", &below.display().to_string()]);
    above
}

#[test]
fn read_only_reaches_below_where_it_is_asked_for() {
    let place = Place(data_directory());
    let instance = Instance::start(&["busybox.tar"]);
    let above = nested(&place);
    let volume = format!("volumes: [{{name: v, hostPath: {{path: {}}}}}],", above.display());
    let mount = |mode: &str| {
        format!(
            "{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: {mode}}}]"
        )
    };
    for mode in ["Disabled", "IfPossible", "Enabled"] {
        instance.apply(&pod(&mode.to_lowercase(), &volume, &mount(mode)));
    }
    ready(&instance, &["disabled", "ifpossible", "enabled"]);
    let write = "touch /v/x 2>/dev/null && echo above; touch /v/below/x 2>/dev/null && echo below; true";
    assert_eq!(sh(&instance, "disabled", write).ok(), "below\n");
    for name in ["ifpossible", "enabled"] {
        assert_eq!(sh(&instance, name, write).ok(), "", "{name}");
        let shown = instance.field(
            &format!("pod/{name}"),
            "{.status.containerStatuses[0].volumeMounts[0].recursiveReadOnly}",
        );
        assert_eq!(shown, "Enabled");
    }
    let shown = "{.status.containerStatuses[0].volumeMounts[0].recursiveReadOnly}";
    assert_eq!(instance.field("pod/disabled", shown), "Disabled");
}

#[test]
fn mounts_travel_as_their_propagation_says() {
    let home = Place(data_directory());
    let instance = Instance::start(&["busybox.tar"]);
    let place = home.0.path().join("place");
    fs::create_dir(&place).expect("made");
    let at = place.display().to_string();
    // Mounts travel only where the host lets them.
    host("mount", &["--bind", &at, &at]);
    host("mount", &["--make-shared", &at]);
    let volume = format!("volumes: [{{name: v, hostPath: {{path: {at}}}}}],");
    let mount = |mode: &str, more: &str| {
        format!("{SLEEPS}, {more} volumeMounts: [{{name: v, mountPath: /v, mountPropagation: {mode}}}]")
    };
    instance.apply(&pod("none", &volume, &mount("None", "")));
    instance.apply(&pod("follows", &volume, &mount("HostToContainer", "")));
    instance.apply(&pod("gives", &volume, &mount("Bidirectional", "securityContext: {privileged: true},")));
    ready(&instance, &["none", "follows", "gives"]);
    for name in ["h", "c"] {
        fs::create_dir(place.join(name)).expect("made");
    }
    host("mount", &["-t", "tmpfs", "from-host", &place.join("h").display().to_string()]);
    sh(&instance, "gives", "mount -t tmpfs from-container /v/c && echo x > /v/c/said").ok();
    assert_eq!(fs::read_to_string(place.join("c/said")).expect("seen by the host"), "x\n");
    let mounted = "grep -o 'from-[a-z]* /v' /proc/mounts; true";
    assert_eq!(sh(&instance, "follows", mounted).ok(), "from-host /v\nfrom-container /v\n");
    assert_eq!(sh(&instance, "none", mounted).ok(), "");
    sh(&instance, "gives", "umount /v/c").ok();
    assert!(!place.join("c/said").exists());
    let refused = pod("wants", &volume, &mount("Bidirectional", ""));
    let said = instance.kubectl_with(&["apply", "-f", "-"], &refused).fails();
    assert!(
        said.contains("Bidirectional mount propagation is available only to privileged containers"),
        "{said}"
    );
}

/// What root put into a claim is given away again, or not, as the policy says.
fn a_claim_is_given_away(instance: &Instance) {
    let mount = format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]");
    let context = |more: &str| format!("securityContext: {{fsGroup: 2000, runAsUser: 1000{more}}},");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], \
                 resources: {requests: {storage: 1Mi}}}\n";
    instance.apply(claim);
    let volume = "volumes: [{name: v, persistentVolumeClaim: {claimName: data}}],";
    instance.apply(&pod("first", &format!("{volume} {}", context("")), &mount));
    ready(instance, &["first"]);
    sh(instance, "first", "touch /v/x").ok();
    instance.kubectl(&["delete", "pod", "first"]).ok();
    instance.apply(&pod("spoils", volume, &mount));
    ready(instance, &["spoils"]);
    sh(instance, "spoils", "chown 0:0 /v/x && stat -c %g /v").ok();
    instance.kubectl(&["delete", "pod", "spoils"]).ok();
    instance.apply(&pod(
        "spares",
        &format!("{volume} {}", context(", fsGroupChangePolicy: OnRootMismatch")),
        &mount,
    ));
    ready(instance, &["spares"]);
    assert_eq!(sh(instance, "spares", "stat -c %g /v /v/x").ok(), "2000\n0\n");
    instance.kubectl(&["delete", "pod", "spares"]).ok();
    instance.apply(&pod("always", &format!("{volume} {}", context(", fsGroupChangePolicy: Always")), &mount));
    ready(instance, &["always"]);
    assert_eq!(sh(instance, "always", "stat -c %g /v /v/x").ok(), "2000\n2000\n");
}

#[test]
fn an_fs_group_owns_the_volumes_and_its_policy_spares_what_is_right_already() {
    let instance = Instance::start(&["busybox.tar"]);
    let context = |more: &str| format!("securityContext: {{fsGroup: 2000, runAsUser: 1000{more}}},");
    let empty = "volumes: [{name: v, emptyDir: {}}],";
    let mount = format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]");
    instance.apply(&pod("empty", &format!("{empty} {}", context("")), &mount));
    ready(&instance, &["empty"]);
    let said = sh(&instance, "empty", "stat -c '%g %a' /v; id -G; touch /v/x && stat -c %g /v/x").ok();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("2000 2777") && lines[1].contains("2000") && lines[2] == "2000", "{said}");

    a_claim_is_given_away(&instance);
}

#[test]
fn an_ephemeral_claim_is_made_for_its_pod_and_goes_with_it() {
    let instance = Instance::start(&["busybox.tar"]);
    let template = "metadata: {labels: {of: test}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}";
    let volume = format!("volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{{template}}}}}}}],");
    instance.apply(&pod("owner", &volume, &format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]")));
    ready(&instance, &["owner"]);
    sh(&instance, "owner", "echo x > /v/x && cat /v/x").ok();
    let claim = instance.field("pvc/owner-v", "{.metadata.labels.of} {.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name} {.status.phase}");
    assert_eq!(claim, "test Pod owner Bound");
    instance.kubectl(&["delete", "pod", "owner"]).ok();
    instance.eventually("the claim is gone", || {
        let said = instance.kubectl(&["get", "pvc,pv", "-o", "name"]).ok();
        if said.is_empty() { Ok(()) } else { Err(said) }
    });
}

#[test]
fn what_this_node_cannot_mount_is_refused_by_its_name() {
    let instance = Instance::start(&["busybox.tar"]);
    let kinds = [
        ("nfs", "nfs: {server: nfs.example.com, path: /}", "kubernetes.io/nfs"),
        (
            "iscsi",
            "iscsi: {targetPortal: 192.0.2.1, iqn: \"iqn.2001-04.com.example:s\", lun: 0}",
            "kubernetes.io/iscsi",
        ),
        ("csi", "csi: {driver: csi.example.com}", "kubernetes.io/csi"),
        ("fc", "fc: {targetWWNs: [\"50060e801049cfd1\"], lun: 0}", "kubernetes.io/fc"),
        ("flex", "flexVolume: {driver: example.com/x}", "kubernetes.io/flexvolume"),
        ("git", "gitRepo: {repository: \"https://example.com/x\"}", "kubernetes.io/git-repo"),
    ];
    for (name, source, plugin) in kinds {
        let volume = format!("volumes: [{{name: v, {source}}}],");
        instance.apply(&pod(name, &volume, &format!("{SLEEPS}, volumeMounts: [{{name: v, mountPath: /v}}]")));
        told(
            &instance,
            name,
            "FailedMount",
            &format!("volume plugin {plugin:?} is not supported by this node"),
        );
        assert_eq!(instance.field(&format!("pod/{name}"), "{.status.phase}"), "Pending");
    }
}
