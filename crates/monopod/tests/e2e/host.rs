//! What a host looks like, so that before and after can be compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Every trace that an instance could leave, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at the host now. Traces of other instances are left out by their names: only what carries
    /// `instance` (the eight digits) or `dir` (the data directory) counts, and what carries no name at all.
    pub fn of(instance: &str, dir: &Path) -> Self {
        let dir = dir.display().to_string();
        let ours = |line: &str| line.contains(instance) || line.contains(&dir);
        let mut lines = BTreeSet::new();
        let mut add = |kind: &str, found: Vec<String>| {
            lines.extend(found.into_iter().map(|line| format!("{kind}: {line}")))
        };
        add("mount", read_lines("/proc/self/mountinfo").into_iter().filter(|l| ours(l)).collect());
        add("unix socket", read_lines("/proc/net/unix").into_iter().filter(|l| ours(l)).collect());
        add("link", names("/sys/class/net").into_iter().filter(|l| ours(l)).collect());
        add("route", read_lines("/proc/net/route").into_iter().filter(|l| ours(l)).collect());
        add("cgroup", cgroups(Path::new("/sys/fs/cgroup"), 4).into_iter().filter(|l| ours(l)).collect());
        add("process", processes().into_iter().filter(|l| ours(l)).collect());
        add("nftables", nft_tables().into_iter().filter(|l| ours(l)).collect());
        add("runtime file", names("/run").into_iter().filter(|l| ours(l)).collect());
        Traces(lines)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many traces of a kind there are.
    pub fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|line| line.starts_with(kind)).count()
    }
}

impl Traces {
    /// How many traces of a kind contain a text.
    pub fn matching(&self, kind: &str, text: &str) -> usize {
        self.0.iter().filter(|line| line.starts_with(kind) && line.contains(text)).count()
    }
}

/// The eight digits that name the instance of a data directory: as the links and cgroups carry them.
pub fn instance_id(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).expect("the data directory exists");
    let digest = ring::digest::digest(&ring::digest::SHA256, dir.as_os_str().as_encoded_bytes());
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn cgroups(dir: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        found.push(entry.path().display().to_string());
        if depth > 0 {
            found.extend(cgroups(&entry.path(), depth - 1));
        }
    }
    found
}

fn processes() -> Vec<String> {
    let pids = names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    // What has ended and waits for an init that takes its time does not run.
    let runs = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z'))
    };
    let pids = pids.filter(runs);
    let line = |pid: String| {
        // A process that has ended waits for the host's init to take note: nothing of it is left but its number.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        if state.starts_with(['Z', 'X']) {
            return None;
        }
        let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
            .replace('\0', " ");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().replace('\n', " ");
        Some(format!("{pid} {line} {cgroup}"))
    };
    pids.filter_map(line).collect()
}

/// The processes in the cgroups of an instance: its shims and what they started.
pub fn processes_of(instance: &str) -> Vec<rustix::process::Pid> {
    let lines = processes().into_iter().filter(|line| line.contains(&format!("/monopod-{instance}/")));
    let pids = lines.filter_map(|line| line.split(' ').next()?.parse().ok());
    pids.filter_map(rustix::process::Pid::from_raw).collect()
}

fn nft_tables() -> Vec<String> {
    let out = Command::new("nft").args(["list", "tables"]).output().expect("nft runs");
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// The shims of an instance.
pub fn shims_of(instance: &str) -> Vec<rustix::process::Pid> {
    let mine = format!("/monopod-{instance}/shims");
    let lines = processes().into_iter().filter(|line| line.contains(&mine));
    let pids = lines.filter_map(|line| line.split(' ').next()?.parse().ok());
    pids.filter_map(rustix::process::Pid::from_raw).collect()
}

/// As when the power fails while the daemon is dead: nothing of the instance runs, and the kernel has
/// forgotten its mounts, groups and tables. What the program knows of a boot is only this: the
/// shims do not answer. Files stay.
pub fn power_off(instance: &str, dir: &Path) {
    loop {
        let left = processes_of(instance);
        if left.is_empty() {
            break;
        }
        for pid in left {
            // One that has ended meanwhile is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // The kernel needs a moment to take them down; the state decides, not the time.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    crate::harness::unmount_below(dir);
    let mut groups: Vec<String> = cgroups(Path::new("/sys/fs/cgroup"), 6);
    groups.retain(|group| group.contains(&format!("/monopod-{instance}")));
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    groups.iter().for_each(|group| drop(fs::remove_dir(group)));
    for table in nft_tables().iter().filter(|table| table.contains(instance)) {
        let words = table.split(' ').skip(1);
        let deleted = Command::new("nft").args(["delete", "table"]).args(words).status().expect("nft runs");
        assert!(deleted.success(), "{table} cannot be deleted");
    }
}
