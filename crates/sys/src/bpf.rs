//! Just enough of BPF to attach a device program to a version 2 cgroup.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::{Context, Error, Result};

/// One instruction, as the kernel lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the low, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Registers: result, context, and four to work with.
pub(crate) const R0: u8 = 0;
pub(crate) const R1: u8 = 1;
pub(crate) const R2: u8 = 2;
pub(crate) const R3: u8 = 3;
pub(crate) const R4: u8 = 4;
pub(crate) const R5: u8 = 5;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: u32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate: value.cast_signed() }
}

/// `to = *(u32 *)(from + offset)`
pub(crate) const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `to &= value` (32 bits)
pub(crate) const fn and(to: u8, value: u32) -> Instruction {
    instruction(0x54, to, 0, 0, value)
}

/// `to >>= bits` (32 bits)
pub(crate) const fn shift_right(to: u8, bits: u32) -> Instruction {
    instruction(0x74, to, 0, 0, bits)
}

/// `to = from` (32 bits)
pub(crate) const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbc, to, from, 0, 0)
}

/// `to = value`
pub(crate) const fn set(to: u8, value: u32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `if register != value goto +offset`
pub(crate) const fn jump_unless_equal(register: u8, value: u32, offset: i16) -> Instruction {
    instruction(0x55, register, 0, offset, value)
}

/// `return R0`
pub(crate) const fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replace: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> std::result::Result<i32, Errno> {
    // SAFETY: `attributes` is a live, fully initialised C structure, and its exact size is
    // passed; the kernel only reads it. Pointers in it are the caller's live slices.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>()) };
    crate::process::check(answer)
}

/// Loads a program that decides about device accesses.
pub(crate) fn load_device_program(program: &[Instruction]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len())
            .map_err(|_| Error::new("load device program", Errno::TOOBIG))?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttributes::default()
    };
    let fd = bpf(PROG_LOAD, &attributes).attempt(|| "load device program")?;
    // SAFETY: BPF_PROG_LOAD has just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a loaded program to a group; the kernel keeps it until the group is removed.
pub(crate) fn attach_device_program(group: &OwnedFd, program: &OwnedFd, directory: &Path) -> Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    use std::os::fd::AsFd;
    let attributes = AttachAttributes {
        target: number(group.as_fd()),
        program: number(program.as_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    bpf(PROG_ATTACH, &attributes).on("attach device program to", directory).map(drop)
}
