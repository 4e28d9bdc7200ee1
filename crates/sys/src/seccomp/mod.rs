//! System call filters: profiles in the shape of the OCI runtime specification, the default one,
//! and their translation to the kernel's filter program.
//!
//! Unlike the seccompiler crate this sets no `no_new_privs` (a container may use sudo unless
//! its Pod forbids it), knows several actions in a profile, and finds a system call by halving
//! instead of walking the list, which each call of the program pays for.

mod compile;
mod default;
mod table;

use serde::Deserialize;

use crate::capability::Capabilities;
use crate::{Context, Result};
pub use compile::{CompileError, Program};

/// A profile, as Docker, containerd and the kubelet's `seccomp` directory have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For calls that no rule names.
    pub default_action: Action,
    /// Error number of the default action; `None`: EPERM.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// Interfaces beside the machine's own that the rules are for (`SCMP_ARCH_X86` are 32-bit
    /// programs); calls by others do not exist.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The rules.
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

/// What happens to some calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Their names; those that this kernel's architecture lacks are skipped.
    pub names: Vec<String>,
    /// Old way of naming one.
    pub name: String,
    /// What happens.
    pub action: Action,
    /// Error number of the action; `None`: EPERM.
    pub errno_ret: Option<u32>,
    /// All must hold.
    pub args: Vec<Argument>,
    /// Docker's extension: the rule is there only if all hold.
    pub includes: Condition,
    /// Docker's extension: the rule is not there if any holds.
    pub excludes: Condition,
}

/// When a rule is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// The container has these capabilities.
    pub caps: Vec<String>,
    /// The machine is one of these.
    pub arches: Vec<String>,
}

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Action {
    /// Does it.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// Fails it.
    #[default]
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Kills the thread.
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// Kills the process.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// Sends SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Does it and writes it to the audit log.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// Tells a tracer.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
}

/// A test of a call's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Which, from 0 to 5.
    pub index: u8,
    /// What to compare with; of a masked comparison the mask.
    pub value: u64,
    /// What a masked comparison must give.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Comparison,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Comparison {
    /// Equal.
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// Not equal.
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// Less.
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// Less or equal.
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// Greater or equal.
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// Greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// Equal in the bits of a mask.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

impl Condition {
    fn all_hold(&self, capabilities: Capabilities) -> bool {
        self.caps.iter().all(|name| has(capabilities, name)) && (self.arches.is_empty() || self.names_us())
    }

    fn any_holds(&self, capabilities: Capabilities) -> bool {
        self.caps.iter().any(|name| has(capabilities, name)) || self.names_us()
    }

    fn names_us(&self) -> bool {
        let own = if cfg!(target_arch = "aarch64") { ["arm64", "aarch64"] } else { ["amd64", "x86_64"] };
        self.arches.iter().any(|arch| own.contains(&arch.as_str()))
    }
}

fn has(capabilities: Capabilities, name: &str) -> bool {
    Capabilities::named(name).is_ok_and(|one| capabilities.has(one))
}

impl Profile {
    /// What containerd and Docker give a container that asks for nothing: calls that reach beyond
    /// the container fail, unless it has the capability they need.
    pub fn usual(capabilities: Capabilities) -> Self {
        default::profile(capabilities)
    }

    /// For a process that only waits for its end: all else is refused.
    pub fn waiting() -> Self {
        let names = ["pause", "ppoll", "restart_syscall", "rt_sigreturn", "exit", "exit_group"];
        let rule =
            Rule { names: names.map(str::to_owned).to_vec(), action: Action::Allow, ..Rule::default() };
        Profile { syscalls: vec![rule], ..Profile::default() }
    }

    /// The rules that are there for these capabilities.
    fn rules(&self, capabilities: Capabilities) -> impl Iterator<Item = &Rule> {
        self.syscalls.iter().filter(move |rule| {
            rule.includes.all_hold(capabilities) && !rule.excludes.any_holds(capabilities)
        })
    }
}

/// Puts the filter on this thread and what it executes from now on. Needs `SYS_ADMIN` or
/// `no_new_privs`: with the latter missing it must be done before capabilities are dropped.
///
/// # Errors
/// The kernel refuses the program.
pub fn install(program: &Program) -> Result<()> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.0.len()).unwrap_or(u16::MAX),
        filter: program.0.as_ptr().cast_mut(),
    };
    // SAFETY: the header and the instructions that it points to live across the call, with their
    // exact number; the kernel only reads them.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const header) };
    crate::process::check(answer).attempt(|| "install the seccomp filter").map(drop)
}

#[cfg(test)]
mod tests;
