//! Which devices a group may use: text lines on version 1, a small BPF program on version 2.

use std::fmt;
use std::path::Path;

use crate::Result;
use crate::bpf::{self, Instruction};

/// Block or character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block.
    Block,
    /// Character.
    Character,
}

/// What may be done with a device; bits as the kernel's BPF interface has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Make its node.
    pub const MAKE: Access = Access(1);
    /// Read, write and make.
    pub const ALL: Access = Access(7);

    /// Some of `rwm`.
    pub fn parse(letters: &str) -> Self {
        let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
        Access(bit('m', 1) | bit('r', 2) | bit('w', 4))
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(2, "r"), (4, "w"), (1, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Devices that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block or character.
    pub kind: DeviceKind,
    /// Major number; `None`: all.
    pub major: Option<u32>,
    /// Minor number; `None`: all.
    pub minor: Option<u32>,
    /// What may be done.
    pub access: Access,
}

impl DeviceRule {
    /// What every container may use, as runc allows it: making nodes of any kind (not opening
    /// them), the usual character devices, and terminals.
    pub fn usual() -> Vec<DeviceRule> {
        let any = |kind| DeviceRule { kind, major: None, minor: None, access: Access::MAKE };
        let character = |major, minor| DeviceRule {
            kind: DeviceKind::Character,
            major: Some(major),
            minor,
            access: Access::ALL,
        };
        let mut rules = vec![any(DeviceKind::Character), any(DeviceKind::Block)];
        // null, zero, full, random, urandom; tty, console, ptmx; the pts.
        rules.extend([3, 5, 7, 8, 9].map(|minor| character(1, Some(minor))));
        rules.extend([0, 1, 2].map(|minor| character(5, Some(minor))));
        rules.push(character(136, None));
        rules
    }
}

impl fmt::Display for DeviceRule {
    /// As version 1's files take it: `c 1:3 rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// The program for version 2: returns 1 when a rule allows the access, else 0.
///
/// Its input is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor }` with the
/// kind in the low and the access in the high half of `access_type`.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    use bpf::{R0, R1, R2, R3, R4, R5};
    let mut program = vec![
        bpf::load_word(R2, R1, 0),
        bpf::and(R2, 0xffff),
        bpf::load_word(R3, R1, 0),
        bpf::shift_right(R3, 16),
        bpf::load_word(R4, R1, 4),
        bpf::load_word(R5, R1, 8),
    ];
    for rule in rules {
        let mut tests = vec![(R2, if rule.kind == DeviceKind::Block { 1 } else { 2 })];
        tests.extend(rule.major.map(|major| (R4, major)));
        tests.extend(rule.minor.map(|minor| (R5, minor)));
        // Bits asked for beyond those allowed, in R1 (the context is no longer needed).
        let mut block = vec![bpf::copy(R1, R3), bpf::and(R1, !u32::from(rule.access.0) & 7)];
        let after = |left: usize| i16::try_from(left).unwrap_or(i16::MAX);
        let length = block.len() + 1 + tests.len() + 2;
        let rest = length - block.len() - 1;
        block.push(bpf::jump_unless_equal(R1, 0, after(rest)));
        for (index, (register, value)) in tests.iter().enumerate() {
            block.push(bpf::jump_unless_equal(*register, *value, after(rest - index - 1)));
        }
        block.extend([bpf::set(R0, 1), bpf::exit()]);
        program.extend(block);
    }
    program.extend([bpf::set(R0, 0), bpf::exit()]);
    program
}

/// Loads the program and attaches it to the group.
pub(super) fn attach_program(directory: &Path, rules: &[DeviceRule]) -> Result<()> {
    let group = super::files::open_directory_for_bpf(directory)?;
    let program = bpf::load_device_program(&program(rules))?;
    bpf::attach_device_program(&group, &program, directory)
}
