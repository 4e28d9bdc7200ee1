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
    assert_eq!(run(&program, &(0x4000_0000_u32 + 1).to_string(), [0; 6]), ENOSYS);
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
        let profile =
            Profile { default_action: Action::Errno, default_errno_ret: None, syscalls: vec![rule] };
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
    let profile = Profile { default_action: Action::Allow, default_errno_ret: None, syscalls: vec![rule] };
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
