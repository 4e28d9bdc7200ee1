//! Capabilities of processes.

use std::fmt;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{Context, Result};

/// Names without `CAP_`, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

/// There is no capability of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(pub String);

impl Capabilities {
    /// None.
    pub const NONE: Capabilities = Capabilities(0);

    /// What this machine can give: the bounding set of this process.
    pub fn of_this_machine() -> Self {
        let ask = |number: u32| {
            let set = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::capability_is_in_bounding_set(set).map(|has| u64::from(has) << number)
        };
        // The kernel refuses numbers that it does not know.
        Capabilities((0..64).map(ask).map_while(std::result::Result::ok).fold(0, |all, one| all | one))
    }

    /// The default of container runtimes.
    pub fn usual() -> Self {
        DEFAULT.iter().filter_map(|name| Self::named(name).ok()).fold(Self::NONE, Self::with)
    }

    /// `NET_ADMIN` or `CAP_NET_ADMIN`, in any case.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> std::result::Result<Self, UnknownCapability> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == bare);
        number.map(|number| Capabilities(1 << number)).ok_or_else(|| UnknownCapability(name.to_owned()))
    }

    /// The default set changed by a Pod's lists, limited to what this machine can give. As in
    /// containerd: `ALL` in either list comes first, then single names are added, then taken.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn chosen(add: &[String], drop: &[String]) -> std::result::Result<Self, UnknownCapability> {
        let machine = Self::of_this_machine();
        let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let single = |list: &[String]| {
            let names = list.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
            names.map(|name| Self::named(name)).try_fold(Self::NONE, |set, one| Ok(set.with(one?)))
        };
        let mut set = Self::usual();
        if all(drop) {
            set = Self::NONE;
        }
        if all(add) {
            set = machine;
        }
        Ok(Capabilities(set.with(single(add)?).0 & !single(drop)?.0 & machine.0))
    }

    /// Both sets.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Capabilities(self.0 | other.0)
    }

    /// True when all of `other` are in this set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As `/proc/<pid>/status` shows it.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }

    /// Takes everything else out of the bounding set. Needs `SETPCAP`, so before [`Self::apply`].
    ///
    /// # Errors
    /// No permission.
    pub fn bound(self) -> Result<()> {
        let surplus = Self::of_this_machine().0 & !self.0;
        for number in (0..64).filter(|number| surplus & 1 << number != 0) {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::remove_capability_from_bounding_set(one).attempt(|| "limit capabilities")?;
        }
        Ok(())
    }

    /// Makes this set the permitted and effective one; inheritable and ambient become empty, so
    /// that a user other than root has none after exec (as runc does for Kubernetes).
    ///
    /// # Errors
    /// Something in the set is not permitted.
    pub fn apply(self) -> Result<()> {
        match rustix::thread::clear_ambient_capability_set() {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno).attempt(|| "clear ambient capabilities"),
        }
        let sets = CapabilitySets {
            effective: self.set(),
            permitted: self.set(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).attempt(|| "set capabilities")
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().enumerate().filter(|(number, _)| self.0 & 1 << number != 0);
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_default_is_containerds() {
        assert_eq!(Capabilities::usual().bits(), 0xa804_25fb);
    }

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        let one = Capabilities::named("net_admin").unwrap();
        assert_eq!(one.bits(), 1 << 12);
        assert_eq!(Capabilities::named("CAP_NET_ADMIN"), Ok(one));
        assert_eq!(Capabilities::named("NET_ADMINS"), Err(UnknownCapability("NET_ADMINS".into())));
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let set = Capabilities::chosen(&list(&["NET_BIND_SERVICE"]), &list(&["ALL"])).unwrap();
        assert_eq!(set.bits() & !(1 << 10), 0);
    }

    #[test]
    fn adding_all_gives_no_more_than_this_machine_has() {
        let set = Capabilities::chosen(&list(&["ALL"]), &list(&["CHOWN"])).unwrap();
        assert!(Capabilities::of_this_machine().has(set));
        assert_eq!(set.bits() & 1, 0);
    }
}
