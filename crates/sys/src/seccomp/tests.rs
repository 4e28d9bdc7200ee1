//! Programs are run by an interpreter of the filter language, call by call.

use super::compile::Program;
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// Runs a filter program as the kernel would.
fn run(program: &Program, name: &str, arguments: [u64; 6]) -> u32 {
    let number = table::number(name).unwrap_or_else(|| name.parse().unwrap());
    program.verdict(0xc000_003e, number, arguments)
}

fn usual(capabilities: Capabilities) -> Program {
    Profile::usual(capabilities).compile(capabilities).unwrap()
}

fn with(name: &str) -> Capabilities {
    Capabilities::usual().with(Capabilities::named(name).unwrap())
}

#[test]
fn the_default_lets_ordinary_programs_live() {
    let program = usual(Capabilities::usual());
    for name in
        ["read", "openat", "execve", "futex", "mmap", "chroot", "ptrace", "epoll_wait", "statx", "rseq"]
    {
        assert_eq!(run(&program, name, [0; 6]), ALLOW, "{name}");
    }
}

#[test]
fn the_default_refuses_what_reaches_beyond_the_container() {
    let program = usual(Capabilities::usual());
    for name in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "init_module",
        "reboot",
        "io_uring_setup",
        "kexec_load",
    ] {
        assert_eq!(run(&program, name, [0; 6]), EPERM, "{name}");
    }
}

#[test]
fn a_capability_opens_its_calls() {
    for (capability, name) in
        [("SYS_ADMIN", "mount"), ("BPF", "bpf"), ("SYS_TIME", "clock_settime"), ("SYSLOG", "syslog")]
    {
        assert_eq!(run(&usual(with(capability)), name, [0; 6]), ALLOW, "{name}");
        assert_eq!(run(&usual(Capabilities::usual()), name, [0; 6]), EPERM, "{name}");
    }
}

#[test]
fn clone_may_make_threads_but_no_namespaces() {
    let program = usual(Capabilities::usual());
    assert_eq!(run(&program, "clone", [0x3d_0f00, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, "clone", [0x1000_0000, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&program, "clone3", [0; 6]), ENOSYS);
    assert_eq!(run(&usual(with("SYS_ADMIN")), "clone", [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&usual(with("SYS_ADMIN")), "clone3", [0; 6]), ALLOW);
}

#[test]
fn sockets_to_the_hypervisor_are_refused() {
    let program = usual(Capabilities::usual());
    assert_eq!(run(&program, "socket", [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, "socket", [40, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn personalities_that_weaken_memory_are_refused() {
    let program = usual(Capabilities::usual());
    assert_eq!(run(&program, "personality", [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, "personality", [0x0040_0000, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn calls_newer_than_the_table_do_not_exist() {
    let program = usual(Capabilities::usual());
    assert_eq!(run(&program, "4000", [0; 6]), ENOSYS);
    assert_eq!(run(&program, &(0x4000_0000_u32 + 480).to_string(), [0; 6]), ENOSYS);
}

#[test]
fn programs_of_32_bits_are_held_by_the_same_rules() {
    let program = usual(Capabilities::usual());
    let ask = |number, first| program.verdict(0x4000_0003, number, [first, 0, 0, 0, 0, 0]);
    let (write, execve, socketcall, mmap2) = (4, 11, 102, 192);
    for number in [write, execve, socketcall, mmap2] {
        assert_eq!(ask(number, 0), ALLOW, "{number}");
    }
    let (mount, umount, reboot, stime, vm86, unshare) = (21, 22, 88, 25, 166, 310);
    for number in [mount, umount, reboot, stime, vm86, unshare] {
        assert_eq!(ask(number, 0), EPERM, "{number}");
    }
    let (clone, clone3, socket) = (120, 435, 359);
    assert_eq!([ask(clone, 0x3d_0f00), ask(clone, 0x1000_0000), ask(clone3, 0)], [ALLOW, EPERM, ENOSYS]);
    assert_eq!([ask(socket, 2), ask(socket, 40)], [ALLOW, EPERM]);
    assert_eq!(ask(500, 0), ENOSYS);
}

#[test]
fn the_x32_interface_is_held_by_the_same_rules() {
    let program = usual(Capabilities::usual());
    let ask = |number: u32| program.verdict(0xc000_003e, 0x4000_0000 + number, [0; 6]);
    let (write, execve, mount, kexec_load) = (1, 520, 165, 528);
    assert_eq!([ask(write), ask(execve), ask(mount)], [ALLOW, ALLOW, EPERM]);
    assert_ne!(ask(kexec_load), ALLOW);
    // Without the mark they are nothing.
    assert_eq!(program.verdict(0xc000_003e, execve, [0; 6]), ENOSYS);
}

#[test]
fn a_profile_is_for_the_interfaces_that_it_names() {
    let rule = Rule { names: vec!["mkdir".into()], errno_ret: Some(13), ..Rule::default() };
    let ask = |architectures: &[&str], architecture| {
        let profile = Profile {
            default_action: Action::Allow,
            architectures: architectures.iter().map(|name| (*name).to_owned()).collect(),
            syscalls: vec![rule.clone()],
            ..Profile::default()
        };
        let program = profile.compile(Capabilities::NONE).unwrap();
        [39, 83].map(|mkdir| program.verdict(architecture, mkdir, [0; 6]))
    };
    let (x86, own) = (0x4000_0003, 0xc000_003e);
    assert_eq!(ask(&[], own), [ALLOW, 0x0005_000d]);
    assert_eq!(ask(&["SCMP_ARCH_X86_64"], x86), [ENOSYS, ENOSYS]);
    assert_eq!(ask(&["SCMP_ARCH_X86"], x86), [0x0005_000d, ALLOW]);
}

#[test]
fn comparisons_use_all_64_bits() {
    let ask = |op, value, value_two, argument| {
        let rule = Rule {
            names: vec!["ioctl".into()],
            action: Action::Allow,
            args: vec![Argument { index: 1, value, value_two, op }],
            ..Rule::default()
        };
        let profile = Profile { syscalls: vec![rule], ..Profile::default() };
        let program = profile.compile(Capabilities::NONE).unwrap();
        run(&program, "ioctl", [0, argument, 0, 0, 0, 0]) == ALLOW
    };
    let values = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX];
    for a in values {
        for b in values {
            assert_eq!(ask(Comparison::Equal, b, 0, a), a == b, "{a} == {b}");
            assert_eq!(ask(Comparison::NotEqual, b, 0, a), a != b, "{a} != {b}");
            assert_eq!(ask(Comparison::Less, b, 0, a), a < b, "{a} < {b}");
            assert_eq!(ask(Comparison::LessOrEqual, b, 0, a), a <= b, "{a} <= {b}");
            assert_eq!(ask(Comparison::Greater, b, 0, a), a > b, "{a} > {b}");
            assert_eq!(ask(Comparison::GreaterOrEqual, b, 0, a), a >= b, "{a} >= {b}");
            assert!(ask(Comparison::MaskedEqual, b, a & b, a), "{a} & {b}");
            assert_eq!(ask(Comparison::MaskedEqual, u64::MAX, b, a), a == b, "{a} masked {b}");
        }
    }
}

#[test]
fn a_profile_that_denies_a_few_calls_is_read() {
    let profile = Profile {
        default_action: Action::Allow,
        architectures: vec!["SCMP_ARCH_X86".into()],
        default_errno_ret: None,
        syscalls: vec![
            Rule {
                names: vec!["mkdir".into(), "no_such_call".into()],
                errno_ret: Some(13),
                ..Rule::default()
            },
            Rule { names: vec!["kill".into()], action: Action::KillProcess, ..Rule::default() },
        ],
    };
    let program = profile.compile(Capabilities::NONE).unwrap();
    assert_eq!(run(&program, "mkdir", [0; 6]), 0x0005_000d);
    assert_eq!(run(&program, "kill", [0; 6]), 0x8000_0000);
    assert_eq!(run(&program, "read", [0; 6]), ALLOW);
    assert_eq!(run(&program, "4000", [0; 6]), ALLOW);
}

#[test]
fn an_argument_beyond_the_sixth_is_an_error() {
    let argument = Argument { index: 6, value: 0, value_two: 0, op: Comparison::Equal };
    let rule = Rule { names: vec!["read".into()], args: vec![argument], ..Rule::default() };
    let profile = Profile { default_action: Action::Allow, syscalls: vec![rule], ..Profile::default() };
    assert_eq!(
        profile.compile(Capabilities::NONE).unwrap_err().to_string(),
        "seccomp profile: argument 6 of a system call: there are only 0 to 5"
    );
}

#[test]
fn what_a_program_permits_can_be_asked() {
    let program = usual(Capabilities::usual());
    assert!(program.permits("clone", [crate::process::BESIDE, 0, 0, 0, 0, 0]));
    assert!(!program.permits("clone", [0x1000_0000, 0, 0, 0, 0, 0]));
    assert!(!program.permits("mount", [0; 6]) && !program.permits("no_such_call", [0; 6]));
}
