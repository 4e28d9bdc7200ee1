//! What the host shows of an instance, whoever answers or not: files, certificates, shims, tables, links.
//!
//! Each check is a function of what the kernel or a file shows, gives one line for the screen, and at most one
//! sentence for the list of what is wrong, which says what to do. None of them waits for anybody, and none
//! changes anything: `status` is asked in a hurry, by people and by scripts that ask every minute.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use runtime::Recorded;
use rustix::fs::{StatVfsMountFlags, statvfs};
use sys::netlink::Link;

use super::api::UNMANAGED;
use super::{Check, Line};
use crate::processes::{self, Process};
use crate::{access, instance};

/// Below these parts of a file system little works any more; upstream evicts Pods at 10 % and 5 %.
const SPACE_MIN_PERCENT: u64 = 5;
const INODES_MIN_PERCENT: u64 = 3;
/// Of the descriptors that the daemon may have.
const DESCRIPTORS_MAX_PERCENT: usize = 90;
/// Clocks of disks are coarse, and two files are not written at one instant.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(2);

/// All that can be looked at without asking the daemon.
pub(super) fn look(data_dir: &Path, daemon: Option<&Process>, answers: bool) -> Vec<Check> {
    let state = data_dir.join("state");
    let shims = shims(data_dir);
    let mut checks = vec![disk(data_dir)];
    if state.exists() {
        checks.push(store(&state, answers));
        checks.push(ranges(&state));
        checks.push(clock(&state, Timestamp::now()));
        checks.extend(certificates(data_dir, Timestamp::now()));
    }
    checks.extend(daemon.and_then(descriptors));
    if daemon.is_some() || shims.iter().any(|(_, shim)| shim.is_some()) {
        checks.push(network(data_dir));
        checks.push(tables(data_dir));
    }
    checks.push(shims_check(&shims));
    checks
}

/// Whether anything can be written. First of all, since most of what else goes wrong follows from it.
fn disk(data_dir: &Path) -> Check {
    const NAME: &str = "disk";
    let place = data_dir.display();
    let disk = match statvfs(data_dir) {
        Ok(disk) => disk,
        Err(rustix::io::Errno::NOENT) => {
            let problem = format!(
                "{place} does not exist: no instance has run here, or it was removed; \
                 `monopod down` clears what may be left in the kernel"
            );
            return Check::wrong(NAME, "no data directory", problem);
        }
        Err(err) => return Check::wrong(NAME, "unreadable", format!("cannot look at {place}: {err}")),
    };
    // A file system without a number of inodes has as many as it likes.
    let percent = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).unwrap_or(100);
    let (space, inodes) = (percent(disk.f_bavail, disk.f_blocks), percent(disk.f_favail, disk.f_files));
    let found = format!("{space} % free, {inodes} % of inodes");
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Check::wrong(NAME, "read-only", format!("{place} is on a read-only file system: remount it"));
    }
    if space < SPACE_MIN_PERCENT || inodes < INODES_MIN_PERCENT {
        let problem = format!(
            "the disk of {place} is nearly full ({found}): `monopod image prune` removes images that no \
             container uses"
        );
        return Check::wrong(NAME, found, problem);
    }
    Check::well(NAME, found)
}

/// A daemon that answers has it in memory, whole, and its own check of the file; else the file is read.
fn store(state: &Path, answers: bool) -> Check {
    const NAME: &str = "store";
    if answers {
        let bytes = fs::metadata(state.join("store.log")).map(|file| file.len());
        return match bytes {
            Ok(bytes) => Check::well(NAME, format!("{} KiB", bytes.div_ceil(1024))),
            Err(err) => Check::wrong(
                NAME,
                "gone",
                format!(
                    "{}/store.log: {err}; the daemon still has all objects in memory: save them with kubectl, \
                     then `monopod down` and `monopod restore` a backup",
                    state.display()
                ),
            ),
        };
    }
    match store::inspect(state) {
        Ok(found) => Check::well(NAME, format!("{} objects, {} KiB", found.keys, found.bytes.div_ceil(1024))),
        Err(err) => {
            let place = state.parent().unwrap_or(state).display().to_string();
            let problem = format!(
                "{:#}: `monopod repair --data-dir {place}` keeps what is whole, `monopod restore` takes a backup",
                anyhow::Error::from(err)
            );
            Check::wrong(NAME, "unusable", problem)
        }
    }
}

/// A damaged file keeps the next start from beginning; it is better known before that.
fn ranges(state: &Path) -> Check {
    match instance::ranges(state) {
        Ok(Some(ranges)) => {
            Check::well("addresses", format!("Pods {}, Services {}", ranges.pods, ranges.services))
        }
        Ok(None) => Check::well("addresses", "not chosen yet"),
        Err(err) => Check::wrong("addresses", "unusable", format!("{err:#}")),
    }
}

/// What was written cannot have been written later than now.
fn clock(state: &Path, now: Timestamp) -> Check {
    const NAME: &str = "clock";
    let written = fs::metadata(state.join("store.log")).and_then(|file| file.modified());
    let ahead = written.ok().and_then(|at| Timestamp::try_from(at).ok()).map(|at| at.duration_since(now));
    match ahead.filter(|ahead| *ahead > CLOCK_SLACK) {
        Some(ahead) => {
            let problem = format!(
                "the clock is behind: the store was written {} s after what it shows now; set it (is a time \
                 service running?)",
                ahead.as_secs()
            );
            Check::wrong(NAME, "behind", problem)
        }
        None => Check::well(NAME, now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    }
}

/// The authority, its key, and the administrator's file: those that nobody renews while the daemon is off.
/// The API's own certificate is never on disk, and is made anew at each start.
fn certificates(data_dir: &Path, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    let file = data_dir.join("pki/ca.crt");
    match fs::read_to_string(&file).map_err(|err| err.to_string()).and_then(|pem| validity(&pem)) {
        Ok(times) => {
            let renew = "the authority is renewed at the next start of the daemon within its last year";
            checks.push(certificate("authority", times, now, renew));
        }
        Err(why) => {
            let problem = format!("{}: {why}; take it from a backup", file.display());
            checks.push(Check::wrong("authority", "unusable", problem));
        }
    }
    if let Ok(access) = crate::kubeconfig::read(&data_dir.join("kubeconfig"))
        && let client::Credential::Certificate { certificate_pem, .. } = access.credential
        && let Ok(times) = validity(&certificate_pem)
    {
        let renew = "the daemon writes it anew at each start";
        checks.push(certificate("kubeconfig", times, now, renew));
    }
    if let Err(err) = access::authority(data_dir) {
        checks.push(Check::wrong("authority key", "unusable", format!("{err:#}; take it from a backup")));
    }
    checks
}

/// From when until when a certificate is valid, or why that cannot be told.
fn validity(pem: &str) -> Result<(Timestamp, Timestamp), String> {
    wire::pki::validity(pem).map_err(|err| err.to_string())
}

/// Whether a certificate is valid, and for a month more.
fn certificate(
    name: &'static str,
    (from, until): (Timestamp, Timestamp),
    now: Timestamp,
    renew: &str,
) -> Check {
    let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    let found = format!("valid until {}", day(until));
    if now < from {
        let problem =
            format!("the certificate of the {name} is valid from {} on: is the clock right?", day(from));
        return Check::wrong(name, found, problem);
    }
    let left = until.duration_since(now);
    if left <= SignedDuration::ZERO {
        return Check::wrong(
            name,
            "expired",
            format!("the certificate of the {name} has expired on {}: {renew}", day(until)),
        );
    }
    if left < wire::pki::RENEW_BEFORE {
        return Check::wrong(
            name,
            &*found,
            format!("the certificate of the {name} expires on {}: {renew}", day(until)),
        );
    }
    Check::well(name, found)
}

/// Each connection and each shim takes some. Nothing to say of a daemon that ends just now.
fn descriptors(daemon: &Process) -> Option<Check> {
    let (open, most) = processes::descriptors(daemon.pid)?;
    let found = format!("{open} of {most}");
    if open.saturating_mul(100) > most.saturating_mul(DESCRIPTORS_MAX_PERCENT) {
        let problem =
            format!("the daemon has {found} descriptors open: raise its limit (LimitNOFILE, ulimit -n)");
        return Some(Check::wrong("descriptors", found, problem));
    }
    Some(Check::well("descriptors", found))
}

/// The bridge of the Pods.
fn network(data_dir: &Path) -> Check {
    const NAME: &str = "network";
    let bridge = runtime::names(&instance::id(data_dir)).bridge;
    let link = Link::open().and_then(|links| links.find(&bridge));
    match link {
        Ok(link) if link.up => Check::well(NAME, bridge),
        Ok(_) => {
            Check::wrong(NAME, "down", format!("the bridge {bridge} is down: the daemon sets it up again"))
        }
        Err(_) => {
            let problem = format!(
                "the bridge {bridge} is gone, and no Pod has a network: the daemon makes it again while it runs"
            );
            Check::wrong(NAME, "gone", problem)
        }
    }
}

/// The tables that lead to Pods. What is in them the daemon compares; that they are there anybody can see.
fn tables(data_dir: &Path) -> Check {
    const NAME: &str = "tables";
    let listed = match sys::command::run("nft", &["list", "tables"], b"") {
        Ok(listed) => String::from_utf8_lossy(&listed.stdout).into_owned(),
        Err(err) => return Check::wrong(NAME, "unknown", format!("cannot look at nftables: {err}")),
    };
    let id = instance::id(data_dir);
    let wanted =
        [(proxy::table_name(&id), "Services"), (runtime::names(&id).table, "host ports and the way out")];
    let has = |table: &str| listed.lines().any(|line| line == format!("table ip {table}"));
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(table, _)| !has(table))
        .map(|(table, what)| format!("the nftables table {table} is gone ({what})"))
        .collect();
    if missing.is_empty() {
        return Check::well(NAME, "there");
    }
    Check::wrong(NAME, "gone", format!("{}: a running daemon makes it again", missing.join(", ")))
}

/// Each sandbox that should have a shim, and the shim.
type Shims = Vec<(Recorded, Option<Process>)>;

/// The sandboxes that were not taken down, by their records, each with the process that the kernel has for it.
fn shims(data_dir: &Path) -> Shims {
    let mut running: HashMap<PathBuf, Process> = processes::shims(data_dir).into_iter().collect();
    let of = |one: Recorded| {
        let shim = running.remove(&one.directory);
        (!one.ended).then_some((one, shim))
    };
    runtime::recorded(data_dir).into_iter().filter_map(of).collect()
}

/// A Pod without its shim does not run, whatever its record says; one whose shim is held cannot be stopped,
/// and its logs stand still.
fn shims_check(shims: &Shims) -> Check {
    const NAME: &str = "shims";
    let mut wrong = Vec::new();
    for (Recorded { pod, .. }, shim) in shims {
        let name = format!("{}/{}", pod.namespace, pod.name);
        match shim {
            None => {
                wrong.push(format!("the shim of Pod {name} is gone: a running daemon starts the Pod anew"))
            }
            Some(shim) => wrong.extend(shim.stopped().map(|how| {
                format!("the shim of Pod {name} is {how}; `kill -CONT {}` lets it go on", shim.pid)
            })),
        }
    }
    let found = format!("{}", shims.iter().filter(|(_, shim)| shim.is_some()).count());
    if wrong.is_empty() { Check::well(NAME, found) } else { Check::wrong(NAME, found, wrong.join("; ")) }
}

/// The Pods that run, by what is on disk and in the kernel.
/// Without a daemon nobody says whether they are ready: that they run is all there is to know.
pub(super) fn pods(data_dir: &Path) -> Vec<Line> {
    let running = shims(data_dir).into_iter().filter(|(_, shim)| shim.is_some());
    let line = |(one, _): (Recorded, _)| Line {
        name: format!("{}/{}", one.pod.namespace, one.pod.name),
        state: UNMANAGED.to_owned(),
    };
    running.map(line).collect()
}

/// How many images are here; none where the index cannot be read.
pub(super) fn images(data_dir: &Path) -> usize {
    // From the file: it is known whether the daemon runs or not.
    let index = fs::read(data_dir.join("images/index.json")).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    index["images"].as_array().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_about_a_month_before_its_end() {
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        let times = (time("2026-01-01T00:00:00Z"), time("2027-01-01T00:00:00Z"));
        let problem = |now: &str| certificate("authority", times, time(now), "renew it").problem;
        assert_eq!(problem("2026-11-01T00:00:00Z"), None);
        let warned = problem("2026-12-15T00:00:00Z").expect("soon");
        assert_eq!(warned, "the certificate of the authority expires on 2027-01-01: renew it");
        assert!(problem("2027-01-01T00:00:00Z").expect("over").contains("has expired"));
        assert!(problem("2025-01-01T00:00:00Z").expect("not yet").contains("is the clock right?"));
    }

    #[test]
    fn a_store_from_the_future_says_that_the_clock_is_behind() {
        let state = tempfile::tempdir().expect("a directory");
        fs::write(state.path().join("store.log"), "x").expect("written");
        let now = Timestamp::now();
        assert_eq!(clock(state.path(), now).problem, None);
        let behind = clock(state.path(), now - SignedDuration::from_hours(24)).problem.expect("behind");
        assert!(behind.starts_with("the clock is behind: the store was written 86"), "{behind}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_said_to_be_gone() {
        let place = tempfile::tempdir().expect("a directory");
        let gone = disk(&place.path().join("none")).problem.expect("gone");
        assert!(gone.contains("does not exist"), "{gone}");
    }

    #[test]
    fn a_shim_that_is_gone_or_held_is_named_with_its_pod() {
        let pod = runtime::PodIdentity {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u".into(),
            attempt: 0,
        };
        let one = Recorded { pod, directory: "/x".into(), ended: false };
        let check = |shim: Option<char>| {
            shims_check(&vec![(one.clone(), shim.map(|state| Process { pid: 9, state }))])
        };
        assert_eq!(check(Some('S')), Check::well("shims", "1"));
        assert!(check(None).problem.expect("gone").contains("the shim of Pod default/web is gone"));
        assert!(check(Some('T')).problem.expect("held").contains("`kill -CONT 9`"));
    }
}
