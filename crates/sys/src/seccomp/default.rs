//! The default profile: all calls but those that reach beyond the container.
//!
//! It permits what the default profiles of Docker and containerd permit, written the other way
//! round: what needs a capability, what is never permitted, and what depends on arguments. Each
//! of these fails with EPERM; calls unknown to our table with ENOSYS.

use std::collections::BTreeMap;

use super::{Action, Argument, Comparison, Condition, Profile, Rule, table};
use crate::capability::Capabilities;

/// Calls that need one of some capabilities.
static GATED: &[(&[&str], &[&str])] = &[
    (&["DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (
        &["SYS_ADMIN"],
        &[
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&["SYS_ADMIN", "BPF"], &["bpf"]),
    (&["SYS_ADMIN", "PERFMON"], &["perf_event_open"]),
    (&["SYS_BOOT"], &["reboot"]),
    (&["SYS_CHROOT"], &["chroot"]),
    (&["SYS_MODULE"], &["delete_module", "finit_module", "init_module"]),
    (&["SYS_PACCT"], &["acct"]),
    (&["SYS_PTRACE"], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&["SYS_RAWIO"], &["ioperm", "iopl"]),
    (
        &["SYS_TIME"],
        &["clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (&["SYS_TTY_CONFIG"], &["vhangup"]),
    (&["SYS_NICE"], &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (&["SYSLOG"], &["syslog"]),
];

/// Calls that no container makes: keys and handles of the whole machine, its swap and kernel,
/// interfaces with a history of holes, and names without an implementation.
static NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "bdflush",
    "getpmsg",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lsm_set_self_attr",
    "migrate_pages",
    "move_pages",
    "nfsservctl",
    "pivot_root",
    "putpmsg",
    "request_key",
    "security",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
    "vserver",
];

/// Calls with rules of their own below.
static SPECIAL: &[&str] = &["clone", "personality", "socket"];

/// As in containerd 32-bit programs run, held by the same rules. (Their old way to all calls of
/// sockets, `socketcall`, has its arguments in memory, where a filter cannot look.)
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"];

/// All flags of clone(2) that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
/// Linux, with or without a short time value and randomisation; and "tell me".
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub(super) fn profile(capabilities: Capabilities) -> Profile {
    let mut gates: BTreeMap<&str, &[&str]> = BTreeMap::new();
    for (needed, names) in GATED {
        gates.extend(names.iter().map(|name| (*name, *needed)));
    }
    let permitted = |name: &&str| match gates.get(name) {
        Some(needed) => needed.iter().any(|one| super::has(capabilities, one)),
        None => !NEVER.contains(name) && !SPECIAL.contains(name),
    };
    let names = table::names().into_iter().filter(permitted).map(str::to_owned).collect();
    let mut syscalls = vec![allow(names, Vec::new())];
    syscalls.extend(with_arguments(capabilities));
    Profile { syscalls, architectures: ARCHITECTURES.map(str::to_owned).to_vec(), ..Profile::default() }
}

fn with_arguments(capabilities: Capabilities) -> Vec<Rule> {
    let argument = |value, value_two, op| Argument { index: 0, value, value_two, op };
    let one = |name: &str, args| allow(vec![name.to_owned()], args);
    let mut rules = vec![one("socket", vec![argument(AF_VSOCK, 0, Comparison::NotEqual)])];
    rules.extend(PERSONALITIES.map(|kind| one("personality", vec![argument(kind, 0, Comparison::Equal)])));
    if super::has(capabilities, "SYS_ADMIN") {
        rules.push(one("clone", Vec::new()));
    } else {
        rules.push(one("clone", vec![argument(CLONE_NAMESPACES, 0, Comparison::MaskedEqual)]));
        // Its flags are in memory, where a filter cannot look: "no such call" makes C libraries
        // use clone(2).
        rules.push(Rule {
            errno_ret: Some(libc::ENOSYS.cast_unsigned()),
            action: Action::Errno,
            ..allow(vec!["clone3".to_owned()], Vec::new())
        });
    }
    rules
}

fn allow(names: Vec<String>, args: Vec<Argument>) -> Rule {
    Rule {
        names,
        name: String::new(),
        action: Action::Allow,
        errno_ret: None,
        args,
        includes: Condition::default(),
        excludes: Condition::default(),
    }
}
