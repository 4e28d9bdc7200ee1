//! Both versions on trees made of plain files, and one real group.

use super::*;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

/// A directory that looks like a version 2 tree.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Fake(tempfile::tempdir().unwrap());
        fake.put("cgroup.controllers", "cpuset cpu memory hugetlb pids");
        fake.put("cgroup.subtree_control", "");
        fake
    }

    /// A group whose children have all controllers, and the files that limits are written to.
    fn with_limits(group: &str) -> Self {
        let fake = Fake::new();
        let above = Path::new(group).ancestors().skip(1);
        for directory in above.filter_map(Path::to_str).filter(|name| !name.is_empty()) {
            fake.put(&format!("{directory}/cgroup.subtree_control"), "cpu memory pids");
        }
        for file in ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max"]
        {
            fake.put(&format!("{group}/{file}"), "-");
        }
        fake
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap()
    }

    fn group(&self, path: &str) -> Group {
        Hierarchy::unified_at(self.0.path()).group(path)
    }
}

#[test]
fn a_hybrid_machine_is_version_1_with_the_unified_tree_beside() {
    let found = Hierarchy::parse(HYBRID).unwrap();
    assert_eq!(found.version(), Version::V1);
    assert_eq!(found.v1.len(), 2);
    assert!(found.v1[0].has("cpu") && found.v1[0].has("cpuacct"));
    assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
}

#[test]
fn a_unified_machine_is_version_2() {
    let found =
        Hierarchy::parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
            .unwrap();
    assert_eq!(found.version(), Version::V2);
    assert_eq!(found, Hierarchy::unified_at("/sys/fs/cgroup"));
}

#[test]
fn a_machine_without_cgroups_is_said_to_have_none() {
    assert_eq!(Hierarchy::parse("31 23 0:28 / / rw - ext4 /dev/vda rw\n"), None);
}

/// Everything that is written for one wish, in the order of the files in `with_limits`.
fn written(level: Level, milli_cpu: u64, resources: Resources) -> String {
    let fake = Fake::with_limits("pods/a");
    let resources = Resources { cpu_shares: milli_cpu * 1024 / 1000, level, ..resources };
    fake.group("pods/a").create(&resources).unwrap();
    let files = ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max"];
    files.map(|file| fake.get(&format!("pods/a/{file}"))).join(", ")
}

#[test]
fn limits_are_written_as_the_kubelet_and_runc_write_them() {
    let limits =
        Resources { cpu_quota: 20_000, memory_limit: 1 << 20, pids_limit: 7, ..Resources::default() };
    let none = Resources::default();
    assert_eq!(written(Level::Container, 1000, limits.clone()), "100, 20000 100000, 1048576, 0, 1, 7");
    assert_eq!(written(Level::Container, 250, none.clone()), "35, -, -, 0, 1, -");
    assert_eq!(written(Level::Pod, 1000, limits), "39, 20000 100000, 1048576, -, -, 7");
    assert_eq!(written(Level::Pod, 250, none), "10, -, -, -, -, -");
}

#[test]
fn shares_become_weights_on_upstreams_two_curves() {
    let shares = [2, 100, 256, 512, 1024, 2048, 10_000, 262_144];
    let container = shares.map(|shares| v2::weight(shares, Level::Container));
    assert_eq!(container, [1, 17, 35, 59, 100, 174, 627, 10_000]);
    let pod = shares.map(|shares| v2::weight(shares, Level::Pod));
    assert_eq!(pod, [1, 4, 10, 20, 39, 79, 382, 10_000]);
}

#[test]
fn controllers_are_passed_down_in_one_write() {
    let fake = Fake::new();
    fake.group("a").create(&Resources::default()).unwrap();
    assert_eq!(fake.get("cgroup.subtree_control"), "+cpu +memory +pids +cpuset", "what containers use");
}

#[test]
fn a_tree_without_a_needed_controller_is_refused_by_its_name() {
    let fake = Fake::new();
    fake.put("cgroup.controllers", "cpuset cpu pids");
    let error = fake.group("pods/a").create(&Resources::default()).unwrap_err().to_string();
    let place = fake.0.path().display();
    assert_eq!(error, format!("use the cgroup controllers memory in {place}: no such device"));
}

#[test]
fn a_limit_that_the_kernel_lacks_names_the_file() {
    let fake = Fake::with_limits("pods/a");
    fs::remove_file(fake.0.path().join("pods/a/pids.max")).unwrap();
    let resources = Resources { pids_limit: 7, ..Resources::default() };
    let error = fake.group("pods/a").create(&resources).unwrap_err();
    assert!(error.to_string().ends_with("/a/pids.max: no such file or directory"), "{error}");
}

#[test]
fn a_group_that_dies_whole_was_killed_once() {
    let fake = Fake::new();
    fake.put("a/memory.events", "oom 1\noom_kill 3\noom_group_kill 1\n");
    fake.put("b/memory.events", "oom 1\noom_kill 3\noom_group_kill 0\n");
    fake.put("c/memory.events", "oom 1\noom_kill 2\n");
    assert_eq!(["a", "b", "c"].map(|group| fake.group(group).oom_kills()), [1, 3, 2]);
}

#[test]
fn usage_and_kills_are_read() {
    let fake = Fake::new();
    fake.put("a/memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n");
    fake.put("a/memory.current", "1000\n");
    fake.put("a/memory.stat", "anon 500\nfile 400\ninactive_file 300\n");
    fake.put("a/cpu.stat", "usage_usec 12\nuser_usec 7\n");
    fake.put("a/pids.current", "3\n");
    let group = fake.group("a");
    assert_eq!(group.oom_kills(), 1);
    let stats = group.stats();
    assert_eq!(
        (stats.memory_working_set, stats.memory_rss, stats.cpu_nanoseconds, stats.pids),
        (700, 500, 12_000, 3)
    );
}

#[test]
fn processes_of_groups_below_count() {
    let fake = Fake::new();
    fake.put("a/cgroup.procs", "10\n12\n");
    fake.put("a/b/cgroup.procs", "11\n0\n");
    assert_eq!(fake.group("a").pids().unwrap(), [10, 11, 12]);
    assert_eq!(fake.group("nothing").pids().unwrap(), []);
}

#[test]
fn a_group_that_is_gone_is_removed_without_complaint() {
    let fake = Fake::new();
    fake.group("never/made").remove().unwrap();
}

#[test]
fn rules_read_as_version_1_takes_them() {
    let usual: Vec<String> = DeviceRule::usual().iter().map(ToString::to_string).collect();
    assert_eq!(usual[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
    assert_eq!(usual.last().map(String::as_str), Some("c 136:* rwm"));
    assert_eq!(Access::parse("rw").to_string(), "rw");
}

#[test]
fn a_real_group_is_made_limited_and_removed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let hierarchy = Hierarchy::detect().unwrap();
    let group = hierarchy.group(&format!("monopod-test-{}/a", std::process::id()));
    let resources = Resources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        memory_limit: 64 << 20,
        pids_limit: 10,
        ..Resources::default()
    };
    group.create(&resources).unwrap();
    group.allow_devices(&DeviceRule::usual()).unwrap();
    let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
    group.attach(child.id().cast_signed()).unwrap();
    assert_eq!(group.pids().unwrap(), [child.id().cast_signed()]);
    assert!(group.stats().pids == 1);
    group.signal_all(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
    let parent = hierarchy.group(&format!("monopod-test-{}", std::process::id()));
    parent.remove().unwrap();
    assert!(!parent.exists());
}

#[test]
fn the_device_program_is_accepted_by_the_kernel_and_attaches() {
    let Ok(Hierarchy { unified: Some(root), .. }) = Hierarchy::detect() else {
        eprintln!("skipped: no version 2 tree");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let directory = root.join(format!("monopod-bpf-{}", std::process::id()));
    files::make_directory(&directory).unwrap();
    let done = device::attach_program(&directory, &DeviceRule::usual());
    // /dev/loop-control (10:237) or any disk would be refused; /dev/null is not.
    let verdict = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(format!(
            "echo $$ > {0}/cgroup.procs && mknod {1} b 7 0 && : < /dev/null && ! (: < {1}) 2>/dev/null && rm {1} && mknod {1} c 1 11 && ! (: < {1})",
            directory.display(),
            std::env::temp_dir().join(format!("monopod-node-{}", std::process::id())).display()
        ))
        .status();
    let _ = fs::remove_file(std::env::temp_dir().join(format!("monopod-node-{}", std::process::id())));
    files::remove_tree(&directory).unwrap();
    done.unwrap();
    assert!(verdict.unwrap().success());
}
