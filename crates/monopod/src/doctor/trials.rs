//! The trials. Each undoes what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io, thread};

use proxy::policy::{Direction, Isolated, Peers, Policies, PolicyUid, Ports, Rule, Span};
use proxy::{Entry, Family, Match, Protocol, Range, Ruleset, Target};
use sys::capability::Capabilities;
use sys::cgroup::{DeviceRule, Group, Hierarchy, Resources};
use sys::mount::{Detached, make_all_private};
use sys::namespace::{self, Namespaces};
use sys::netlink::conntrack::{self, Which};
use sys::netlink::{Link, Veth, mac_of};
use sys::process::{self, Forked, SingleThreaded};
use sys::seccomp::{self, Profile};

type Outcome = Result<(), String>;

fn words(error: impl Display) -> String {
    error.to_string()
}

/// A child as a container's first process is made, which ends with what `work` says.
fn in_child(namespaces: Namespaces, group: Option<&Group>, work: impl FnOnce() -> bool) -> Outcome {
    // A fork of many threads would inherit their locks, held for ever.
    let proof = SingleThreaded::prove().map_err(words)?;
    let directory = group.map_or(Ok(None), Group::open_for_clone).map_err(words)?;
    match process::fork(&proof, namespaces, directory.as_ref().map(AsFd::as_fd)).map_err(words)? {
        Forked::Child => process::exit_now(i32::from(!work())),
        Forked::Parent { pid, pidfd } => {
            // Version 1 takes no process at its birth; this one may have ended already.
            if let (Some(group), None) = (group, directory) {
                let _ = group.attach(pid);
            }
            let ending = process::wait_exactly(pidfd.as_fd()).map_err(words)?;
            if ending.code == 0 { Ok(()) } else { Err("a process could not do it".to_owned()) }
        }
    }
}

/// Work in namespaces that are a thread's own and end with it.
fn in_namespaces(kinds: Namespaces, work: impl FnOnce() -> Outcome + Send) -> Outcome {
    thread::scope(|scope| {
        let tried = scope.spawn(|| {
            namespace::unshare(kinds).map_err(words)?;
            work()
        });
        tried.join().unwrap_or_else(|_| Err("the trial ended unexpectedly".to_owned()))
    })
}

/// All that a container has, and a pidfd.
pub(super) fn namespaces() -> Outcome {
    let all = [Namespaces::NETWORK, Namespaces::PID, Namespaces::IPC, Namespaces::UTS, Namespaces::CGROUP];
    let all = all.into_iter().fold(Namespaces::MOUNT, |all, kind| all | kind);
    in_child(all, None, || make_all_private().is_ok())?;
    process::open_pidfd(std::process::id().cast_signed()).map(drop).map_err(words)
}

/// The filter that containers get.
pub(super) fn seccomp() -> Outcome {
    let filter = Profile::usual(Capabilities::default()).compile(Capabilities::default()).map_err(words)?;
    in_child(Namespaces::NONE, None, || seccomp::install(&filter).is_ok())
}

/// A group with all kinds of limits, devices forbidden, and a process in it.
pub(super) fn cgroup() -> Outcome {
    let hierarchy = Hierarchy::detect().map_err(words)?;
    let above = format!("monopod-doctor-{}", std::process::id());
    let tried = limited(&hierarchy.group(&format!("{above}/trial")));
    // Also after a failure: the trial must leave nothing, above all where it did not work.
    let removed = hierarchy.group(&above).remove().map_err(words);
    tried.and(removed)
}

fn limited(group: &Group) -> Outcome {
    // A value for each controller: a kernel may lack any of them.
    let resources = Resources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        memory_limit: 64 << 20,
        pids_limit: 16,
        ..Resources::default()
    };
    group.create(&resources).map_err(words)?;
    group.allow_devices(&DeviceRule::usual()).map_err(words)?;
    group.watch_oom().map_err(words)?;
    in_child(Namespaces::NONE, Some(group), || true)
}

/// Where containers' upper layers will be: the data directory's file system must be able to.
pub(super) fn overlay(data: &Path) -> Outcome {
    // The directory itself may not be there before the first `up`; its file system is what counts.
    let near = data.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
    let place =
        Place::make(near).map_err(|error| format!("make a directory in {}: {error}", near.display()))?;
    let lowers: Vec<PathBuf> = Place::LOWERS.iter().map(|lower| place.0.join(lower)).collect();
    let (upper, work) = (place.0.join("upper"), place.0.join("work"));
    in_namespaces(Namespaces::MOUNT, || {
        make_all_private().map_err(words)?;
        let overlay = Detached::overlay(&lowers, &upper, &work).map_err(words)?;
        // Mounting alone proves little: some file systems refuse only the first write.
        overlay.attach_at(&place.0.join("root")).map_err(words)?;
        let file = place.0.join("root/file");
        fs::write(&file, "").map_err(|error| format!("write to {}: {error}", file.display()))
    })
}

/// Directories for an overlay, removed one by one: all that can be in them is known.
struct Place(PathBuf);

impl Place {
    const LOWERS: [&str; 3] = ["one", "two", "three"];

    fn make(near: &Path) -> io::Result<Self> {
        let place = Place(near.join(format!(".monopod-doctor-{}", std::process::id())));
        fs::create_dir(&place.0)?;
        for name in Self::LOWERS.iter().chain(&["upper", "work", "root"]) {
            fs::create_dir(place.0.join(name))?;
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for file in ["upper/file", "work/work/incompat/volatile/dirty"] {
            let _ = fs::remove_file(self.0.join(file));
        }
        let made_by_the_kernel =
            ["work/work/incompat/volatile", "work/work/incompat", "work/work", "work/index"];
        for name in made_by_the_kernel.iter().chain(&Self::LOWERS).chain(&["upper", "work", "root", ""]) {
            let _ = fs::remove_dir(self.0.join(name));
        }
    }
}

/// A bridge, and a pair from it into a further namespace.
pub(super) fn links() -> Outcome {
    in_namespaces(Namespaces::NETWORK, || {
        let links = Link::open().map_err(words)?;
        let bridge = links.make_bridge("bridge").map_err(words)?;
        namespace::unshare(Namespaces::NETWORK).map_err(words)?;
        // The thread's: the process's is another since.
        let pod = namespace::open("/proc/thread-self/ns/net").map_err(words)?;
        links
            .make_veth(&Veth {
                name: "host",
                master: bridge,
                peer: "eth0",
                namespace: pod.as_fd(),
                peer_mac: mac_of(std::net::Ipv4Addr::new(10, 0, 0, 2).into()),
                mtu: 0,
            })
            .map_err(words)
    })
}

/// What each module of nftables is asked for by our rules.
const MODULES: [(&str, &str, &str); 8] = [
    ("nf_tables", "", ""),
    ("nft_chain_nat", "type nat hook postrouting priority 0;", ""),
    ("nft_nat", "type nat hook prerouting priority 0;", "tcp dport 1 dnat to 10.0.0.1:1"),
    ("nft_masq", "type nat hook postrouting priority 0;", "masquerade"),
    ("nft_fib_ipv4", "type filter hook input priority 0;", "fib daddr type local accept"),
    ("nft_ct", "type filter hook input priority 0;", "ct state new accept"),
    ("nft_reject_ipv4", "type filter hook input priority 0;", "reject"),
    ("nft_numgen", "type filter hook input priority 0;", "numgen random mod 2 vmap { 0 : accept, 1 : drop }"),
];

/// The whole ruleset, programmed for real in a network of its own.
pub(super) fn rules() -> Outcome {
    in_namespaces(Namespaces::NETWORK, || {
        // One by one only after the whole has failed: a module is loaded by asking for it.
        let Err(error) = program(&example()) else { return Ok(()) };
        let refused = |(_, hook, rule): &&(&str, &str, &str)| program(&asks_for(hook, rule)).is_err();
        let lacking: Vec<&str> = MODULES.iter().filter(refused).map(|(module, ..)| *module).collect();
        // Without its base all else is refused too.
        match lacking.as_slice() {
            [] => Err(error),
            ["nf_tables", ..] => Err("nf_tables is missing".to_owned()),
            some => Err(format!("{} missing", some.join(", "))),
        }
    })
}

/// A list of the connections that the kernel tracks, as the daemon asks for it.
pub(super) fn connections() -> Outcome {
    in_namespaces(Namespaces::NETWORK, || match conntrack::forget(Which::All, |_| false) {
        Err(error) if conntrack::lacks_module(&error) => Err(format!("{} missing", conntrack::MODULE)),
        listed => listed.map(drop).map_err(words),
    })
}

/// Rules where frames enter a bridge, by the link they come from: they hold Pods to their own addresses.
pub(super) fn frames() -> Outcome {
    let table = "table bridge trial {\nchain trial {\ntype filter hook prerouting priority -300;\n\
        iifname != \"trial*\" ether type ip accept\n}\n}\n";
    in_namespaces(Namespaces::NETWORK, || program(table))
}

/// A table of one chain, in place of the one before.
fn asks_for(hook: &str, rule: &str) -> String {
    let empty = "table ip trial\ndelete table ip trial\n";
    format!("{empty}table ip trial {{\nchain trial {{\n{hook}\n{rule}\n}}\n}}\n")
}

fn program(script: &str) -> Outcome {
    sys::run("nft", &["-f", "-"], script.as_bytes()).map(drop).map_err(words)
}

/// One Service of each kind.
fn example() -> String {
    let v4 = |a, b, c, d| IpAddr::from([a, b, c, d]);
    let target = |last| Target { address: v4(10, 42, 0, last), port: 8080 };
    let entry = |targets, drop| Entry {
        comment: "default/trial:".into(),
        targets,
        drop,
        from_outside: true,
        keeps_sender: false,
        affinity: Some(60),
        sources: vec![Range::new(v4(10, 0, 0, 0), 8)],
    };
    let address = |last| Match::Address(v4(10, 43, 0, last), Protocol::Tcp, 80);
    let entries = BTreeMap::from([
        (address(1), entry(vec![target(2), target(3)], false)),
        // Without Pods: refused, and dropped where only Pods of this node count.
        (address(2), entry(Vec::new(), false)),
        (address(3), entry(Vec::new(), true)),
        (Match::NodePort(Family::V4, Protocol::Udp, 30_000), entry(vec![target(2)], false)),
    ]);
    let instance = proxy::Instance {
        id: "trial".into(),
        node: "trial".into(),
        zone: None,
        pod_cidrs: vec![Range::new(v4(10, 42, 0, 0), 16)],
        service_cidrs: vec![Range::new(v4(10, 43, 0, 0), 16)],
        link: None,
        dns: None,
    };
    let policies = Arc::new(policies(v4(10, 42, 0, 2), v4(10, 42, 0, 3)));
    Ruleset { instance, entries, policies }.script()
}

/// One NetworkPolicy with a rule of each kind.
fn policies(pod: IpAddr, peer: IpAddr) -> Policies {
    let policy: PolicyUid = "trial".into();
    let block = Span { first: pod, last: peer };
    let peers = Peers::Of { pods: BTreeSet::from([peer]), blocks: vec![block] };
    let ports = Ports::Of(BTreeMap::from([(Protocol::Udp, vec![Span { first: 53, last: 54 }])]));
    let rule = Rule { peers, ports, exact: BTreeSet::from([(pod, Protocol::Tcp, 80)]) };
    let isolated = Isolated { pod: "default/trial".into(), policies: BTreeSet::from([policy.clone()]) };
    Policies {
        isolated: BTreeMap::from([((Direction::Ingress, pod), isolated)]),
        rules: BTreeMap::from([((Direction::Ingress, policy), vec![rule])]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_can_do_is_tried_and_leaves_nothing() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        overlay(Path::new(crate::cli::DEFAULT_DATA_DIR)).expect("an overlay");
        links().expect("links");
        rules().expect("rules");
        connections().expect("a list of connections");
        frames().expect("rules of a bridge");
        let left = fs::read_dir("/var/lib").expect("a directory").flatten();
        let mine = format!(".monopod-doctor-{}", std::process::id());
        assert!(left.into_iter().all(|entry| entry.file_name() != mine.as_str()));
    }

    #[test]
    fn each_rule_that_stands_for_a_module_is_a_rule() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        in_namespaces(Namespaces::NETWORK, || {
            MODULES.iter().try_for_each(|(module, hook, rule)| {
                program(&asks_for(hook, rule)).map_err(|error| format!("{module}: {error}"))
            })
        })
        .expect("all are there");
    }
}
