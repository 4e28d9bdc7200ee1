//! Profile to filter program.
//!
//! ```text
//! architecture? ── one that the profile does not name ──> ENOSYS
//!      │
//! number: halving over ranges of calls that are treated alike
//!      │
//! rules of that range in order: arguments hold? ──> action
//!      └── none ──> default action
//! ```

use std::collections::BTreeMap;

use super::{Action, Argument, Comparison, Profile, Rule, table};
use crate::capability::Capabilities;

/// A filter program, ready to be installed.
#[derive(Clone)]
pub struct Program(pub(super) Vec<libc::sock_filter>);

impl Program {
    /// Whether the program lets a call be done.
    pub fn permits(&self, name: &str, arguments: [u64; 6]) -> bool {
        let verdict = table::number(name).map(|number| self.verdict(ARCHITECTURE, number, arguments));
        verdict.is_some_and(|verdict| [verdict_of(Action::Allow), verdict_of(Action::Log)].contains(&verdict))
    }

    /// What the program says of a call, found as the kernel finds it.
    pub(super) fn verdict(&self, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            NUMBER_AT => number,
            ARCHITECTURE_AT => architecture,
            _ => {
                let argument = arguments[(at - ARGUMENTS_AT) as usize / 8];
                if at.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let one = self.0[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
            match one.code {
                LOAD => a = load(one.k),
                AND => a &= one.k,
                JUMP => at += one.k as usize,
                JUMP_EQUAL => at += branch(a == one.k),
                JUMP_GREATER => at += branch(a > one.k),
                JUMP_GREATER_EQUAL => at += branch(a >= one.k),
                // The only other instruction that is made here.
                _ => return one.k,
            }
        }
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program of {} instructions", self.0.len())
    }
}

/// The profile cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A call has six arguments.
    #[error("seccomp profile: argument {0} of a system call: there are only 0 to 5")]
    Argument(u8),
    /// The kernel takes 4096 instructions.
    #[error("seccomp profile: {0} instructions are more than the kernel takes")]
    TooLong(usize),
}

/// One of the ways to call the kernel on this machine, each with numbers of its own.
struct Interface {
    /// As profiles name it.
    name: &'static str,
    /// As the kernel names it.
    architecture: u32,
    /// What is added to its numbers.
    base: u32,
    /// The last number that is known.
    last: u32,
    /// The numbers of its calls, by their names.
    calls: fn() -> BTreeMap<&'static str, u32>,
}

/// The machine's own comes first; it is meant by every profile.
#[cfg(target_arch = "x86_64")]
static INTERFACES: &[Interface] = &[
    Interface {
        name: "SCMP_ARCH_X86_64",
        architecture: ARCHITECTURE,
        base: 0,
        last: table::LAST,
        calls: table::calls,
    },
    Interface {
        name: "SCMP_ARCH_X32",
        architecture: ARCHITECTURE,
        base: X32,
        last: table::X32_LAST,
        calls: table::x32_calls,
    },
    Interface {
        name: "SCMP_ARCH_X86",
        architecture: I386,
        base: 0,
        last: table::LAST,
        calls: table::i386_calls,
    },
];

#[cfg(not(target_arch = "x86_64"))]
static INTERFACES: &[Interface] = &[Interface {
    name: "SCMP_ARCH_AARCH64",
    architecture: ARCHITECTURE,
    base: 0,
    last: table::LAST,
    calls: table::calls,
}];

const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
#[cfg(target_arch = "x86_64")]
const I386: u32 = 0x4000_0003;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// "There is no such call."
const NO_CALL: u32 = 0x0005_0000 | ENOSYS;
const INSTRUCTIONS_MAX: usize = 4096;
/// On x86-64 numbers from here on are of the x32 interface.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn verdict_of(action: Action) -> u32 {
    verdict(action, None)
}

fn verdict(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace => 0x7ff0_0000 | (errno.unwrap_or(EPERM) & 0xffff),
        Action::Errno => 0x0005_0000 | (errno.unwrap_or(EPERM) & 0xffff),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    }
}

/// What happens to a call: tests in order, each with a verdict; the last has no arguments.
type Treatment = Vec<(Vec<Argument>, u32)>;

impl Profile {
    /// The program for a container with these capabilities.
    ///
    /// # Errors
    /// The profile tests an argument that does not exist, or is too long.
    pub fn compile(&self, capabilities: Capabilities) -> Result<Program, CompileError> {
        let mut program = vec![statement(LOAD, ARCHITECTURE_AT)];
        // Of one architecture those with higher numbers stand behind.
        for interfaces in INTERFACES.chunk_by(|a, b| a.architecture == b.architecture) {
            let mut block = vec![statement(LOAD, NUMBER_AT)];
            block.extend(halve(&self.ranges(interfaces, capabilities)?));
            // A conditional jump reaches 255 instructions, a plain one any distance.
            program.push(jump(JUMP_EQUAL, interfaces[0].architecture, 1, 0));
            program.push(statement(JUMP, u32::try_from(block.len()).unwrap_or(u32::MAX)));
            program.extend(block);
        }
        program.push(statement(RETURN, NO_CALL));
        if program.len() > INSTRUCTIONS_MAX {
            return Err(CompileError::TooLong(program.len()));
        }
        Ok(Program(program))
    }

    fn fallback(&self) -> u32 {
        verdict(self.default_action, self.default_errno_ret)
    }

    /// For calls newer than our table: "no such call" where the profile would refuse, so that
    /// programs try the older call instead of giving up (runc does the same).
    fn unknown(&self) -> u32 {
        if self.default_action == Action::Errno {
            verdict(Action::Errno, Some(ENOSYS))
        } else {
            self.fallback()
        }
    }

    /// True for the machine's own interface and those that the profile names.
    fn covers(&self, interface: &Interface) -> bool {
        interface.name == INTERFACES[0].name || self.architectures.iter().any(|name| name == interface.name)
    }

    fn ranges(
        &self,
        interfaces: &[Interface],
        capabilities: Capabilities,
    ) -> Result<Vec<Range>, CompileError> {
        let mut all = Vec::new();
        for interface in interfaces {
            if self.covers(interface) {
                let treatments = self.treatments(interface, capabilities)?;
                all.extend(ranges(interface, treatments, self.fallback(), self.unknown()));
            } else {
                all.push(Range { first: interface.base, treatment: vec![(Vec::new(), NO_CALL)] });
            }
        }
        Ok(all)
    }

    fn treatments(
        &self,
        interface: &Interface,
        capabilities: Capabilities,
    ) -> Result<BTreeMap<u32, Treatment>, CompileError> {
        let mut calls: BTreeMap<u32, Treatment> = BTreeMap::new();
        let numbers = (interface.calls)();
        for rule in self.rules(capabilities) {
            if let Some(argument) = rule.args.iter().find(|argument| argument.index > 5) {
                return Err(CompileError::Argument(argument.index));
            }
            for number in rule.names.iter().chain([&rule.name]).filter_map(|name| numbers.get(name.as_str()))
            {
                let tests = calls.entry(*number).or_default();
                tests.extend(conditions(rule));
            }
        }
        Ok(calls)
    }
}

/// As libseccomp in runc: a rule that tests one argument several times means "any of these".
fn conditions(rule: &Rule) -> Treatment {
    let verdict = verdict(rule.action, rule.errno_ret);
    let repeated = |a: &Argument| rule.args.iter().filter(|b| a.index == b.index).count() > 1;
    if rule.args.iter().any(repeated) {
        return rule.args.iter().map(|argument| (vec![*argument], verdict)).collect();
    }
    vec![(rule.args.clone(), verdict)]
}

struct Range {
    first: u32,
    treatment: Treatment,
}

/// All numbers of an interface from its first on, joined where neighbours are treated alike.
fn ranges(
    interface: &Interface,
    mut calls: BTreeMap<u32, Treatment>,
    fallback: u32,
    unknown: u32,
) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for number in 0..=interface.last + 1 {
        let mut treatment = calls.remove(&number).unwrap_or_default();
        if !treatment.iter().any(|(tests, _)| tests.is_empty()) {
            treatment.push((Vec::new(), if number > table::LAST { unknown } else { fallback }));
        }
        if ranges.last().is_none_or(|last| last.treatment != treatment) {
            ranges.push(Range { first: interface.base + number, treatment });
        }
    }
    ranges
}

/// Finds the range of the number, which is in the accumulator.
fn halve(ranges: &[Range]) -> Vec<libc::sock_filter> {
    let [only] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (low, split) = (halve(low), high[0].first);
        // A conditional jump reaches 255 instructions, a plain one any distance.
        let distance = u32::try_from(low.len()).unwrap_or(u32::MAX);
        let mut program = vec![jump(JUMP_GREATER_EQUAL, split, 0, 1), statement(JUMP, distance)];
        program.extend(low);
        program.extend(halve(high));
        return program;
    };
    let mut program = Vec::new();
    for (tests, verdict) in &only.treatment {
        let mut block: Vec<libc::sock_filter> = vec![statement(RETURN, *verdict)];
        // From the last test to the first, each knowing how far its failure must jump.
        for argument in tests.iter().rev() {
            let past = u8::try_from(block.len()).unwrap_or(u8::MAX);
            let mut test = compare(argument, past);
            test.extend(block);
            block = test;
        }
        program.extend(block);
        if tests.is_empty() {
            break;
        }
    }
    program
}

/// Tests a 64-bit argument in two halves: goes on when it holds, else jumps over `past` more.
fn compare(argument: &Argument, past: u8) -> Vec<libc::sock_filter> {
    let low_at = ARGUMENTS_AT + u32::from(argument.index) * 8;
    let high_at = low_at + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(argument.value);
    let load_high = statement(LOAD, high_at);
    let load_low = statement(LOAD, low_at);
    match argument.op {
        Comparison::Equal => {
            vec![load_high, jump(JUMP_EQUAL, high, 0, past + 2), load_low, jump(JUMP_EQUAL, low, 0, past)]
        }
        Comparison::NotEqual => {
            vec![load_high, jump(JUMP_EQUAL, high, 0, 2), load_low, jump(JUMP_EQUAL, low, past, 0)]
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let code = if argument.op == Comparison::Greater { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                load_high,
                jump(JUMP_GREATER, high, 3, 0),
                jump(JUMP_EQUAL, high, 0, past + 2),
                load_low,
                jump(code, low, 0, past),
            ]
        }
        Comparison::Less | Comparison::LessOrEqual => {
            let code = if argument.op == Comparison::Less { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                load_high,
                jump(JUMP_GREATER, high, past + 3, 0),
                jump(JUMP_EQUAL, high, 0, 2),
                load_low,
                jump(code, low, past, 0),
            ]
        }
        Comparison::MaskedEqual => {
            let (want_high, want_low) = halves(argument.value_two);
            vec![
                load_high,
                statement(AND, high),
                jump(JUMP_EQUAL, want_high & high, 0, past + 3),
                load_low,
                statement(AND, low),
                jump(JUMP_EQUAL, want_low & low, 0, past),
            ]
        }
    }
}
