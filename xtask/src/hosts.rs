//! The hosts that users have: the program on kernels of distributions, in virtual machines.
//!
//! ```text
//! Debian's packages ─► target/hosts/<suite>/root   a kernel with its modules (never installed)
//! monopod, kubectl, nft, busybox, the test image ─► guest.cpio ─► QEMU ─► serial port: CHECK lines
//! ```
//!
//! The machine that builds has one kernel, with cgroups and modules as they happen to be; most
//! users have another. The guest (`hosts/guest.sh`) is a fresh server with cgroup version 2 only,
//! and judges itself; here its lines are counted. Emulated, never with KVM: on a machine that is
//! itself virtual the device may open and still be of no use.
//!
//! Start reading at [`run`].

mod packages;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::host::{self, build_for_tests, kubectl, need_root, output, target, which};
use crate::images;
use packages::Emulator;

/// Suites of Debian whose kernels are tried always: 6.1 and 6.12.
const KERNELS: [&str; 2] = ["bookworm", "trixie"];
/// A guest that hangs is ended after this many seconds.
const PATIENCE: &str = "900";
const GUEST: &str = include_str!("hosts/guest.sh");
const PODS: &str = include_str!("hosts/pods.yaml");
/// What the program, nftables and the guest's own script ask of the kernel, with what these need.
const MODULES: [&str; 30] = [
    "overlay",
    "veth",
    "llc",
    "stp",
    "bridge",
    "br_netfilter",
    "libcrc32c",
    "crc32c-intel",
    "crc32c_generic",
    "nfnetlink",
    "nf_tables",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_ct",
    "nft_reject",
    "nf_reject_ipv4",
    "nft_reject_ipv4",
    "nft_numgen",
    "nft_counter",
    "nft_limit",
    "nft_hash",
    "nft_meta_bridge",
];

/// Boots every kernel at once, or those of the suites named in `MONOPOD_TEST_KERNELS`.
pub(crate) fn run() -> Result<()> {
    need_root("making a guest's file tree")?;
    if which("apt-get").is_none() || std::env::consts::ARCH != "x86_64" {
        println!("SKIPPED: kernels and QEMU come from Debian's packages for amd64");
        return Ok(());
    }
    host::ensure_packages(&[("nft", "nftables"), ("busybox", "busybox-static"), ("xz", "xz-utils")])?;
    let emulator = Emulator::find()?;
    let shared =
        Shared { monopod: build_for_tests("monopod")?, image: images::build_busybox()?, kubectl: kubectl()? };
    let asked = std::env::var("MONOPOD_TEST_KERNELS").unwrap_or_default();
    let suites: Vec<&str> =
        if asked.is_empty() { KERNELS.to_vec() } else { asked.split_whitespace().collect() };
    let guests = suites.iter().map(|suite| Guest::prepare(suite, &shared)).collect::<Result<Vec<_>>>()?;
    let failed: usize = std::thread::scope(|scope| {
        let running: Vec<_> = guests.iter().map(|guest| scope.spawn(|| guest.boot(&emulator))).collect();
        running
            .into_iter()
            .map(|guest| guest.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect::<Vec<_>>()
    })
    .into_iter()
    .zip(&guests)
    .filter(|(outcome, guest)| !judged(guest, outcome))
    .count();
    ensure!(failed == 0, "{failed} of {} kernels failed", guests.len());
    Ok(())
}

/// What all guests have.
struct Shared {
    monopod: PathBuf,
    image: PathBuf,
    kubectl: PathBuf,
}

/// A kernel with its file tree.
struct Guest {
    suite: String,
    kernel: PathBuf,
    archive: PathBuf,
    log: PathBuf,
}

impl Guest {
    fn prepare(suite: &str, shared: &Shared) -> Result<Self> {
        let place = target().join("hosts").join(suite);
        let kernel = packages::kernel(suite, &place)?;
        let tree = tempfile::tempdir_in(&place)?;
        furnish(tree.path(), shared).context("cannot make the guest's file tree")?;
        copy_modules(&kernel, tree.path()).context("cannot copy the kernel's modules")?;
        let archive = place.join("guest.cpio");
        pack(tree.path(), &archive)?;
        Ok(Guest { suite: suite.to_owned(), kernel: kernel.image, archive, log: place.join("serial.log") })
    }

    /// Runs until the guest powers itself off.
    fn boot(&self, emulator: &Emulator) -> Result<()> {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(&emulator.program).args(&emulator.arguments);
        command.args(["-M", "q35", "-m", "2048", "-smp", "1", "-nographic", "-nodefaults", "-no-reboot"]);
        command.args(["-accel", "tcg,tb-size=512", "-cpu", "max,la57=off"]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.archive);
        command.args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check cgroup_no_v1=all"]);
        command.arg("-serial").arg(format!("file:{}", self.log.display()));
        command.env("LD_LIBRARY_PATH", &emulator.libraries).stdin(Stdio::null());
        host::run(&mut command)
    }
}

/// Says what the guest found; true when all was well.
fn judged(guest: &Guest, outcome: &Result<()>) -> bool {
    let log = String::from_utf8_lossy(&fs::read(&guest.log).unwrap_or_default()).replace('\r', "");
    let failed = verdict(&log);
    match (failed.as_slice(), outcome) {
        ([], Ok(())) => {
            let checks = log.lines().filter(|line| line.starts_with("CHECK ok ")).count();
            println!("{}: {checks} checks passed", guest.suite);
            true
        }
        (failed, outcome) => {
            println!("{log}");
            failed.iter().for_each(|line| println!("{}: {line}", guest.suite));
            if let Err(error) = outcome {
                println!("{}: {error:#}", guest.suite);
            }
            false
        }
    }
}

/// What is wrong by a guest's log: failed checks, or that it did not come to its end.
fn verdict(log: &str) -> Vec<&str> {
    let mut wrong: Vec<&str> = log.lines().filter(|line| line.starts_with("CHECK FAILED ")).collect();
    if !log.lines().any(|line| line.starts_with("GUEST done")) {
        wrong.push("the guest did not come to its end");
    }
    if !log.contains("CHECK ok ") {
        wrong.push("nothing was checked");
    }
    wrong
}

/// Programs, the test image, and a script as the first process.
fn furnish(tree: &Path, shared: &Shared) -> Result<()> {
    for directory in ["bin", "sbin", "lib", "lib64", "usr/bin", "usr/sbin", "etc", "images"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    let busybox = which("busybox").context("busybox is not there")?;
    fs::copy(&busybox, tree.join("bin/busybox"))?;
    for applet in output(Command::new(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    // The kernel asks for modules by this path.
    symlink("../bin/busybox", tree.join("sbin/modprobe"))?;
    fs::copy(&shared.monopod, tree.join("bin/monopod"))?;
    fs::copy(&shared.kubectl, tree.join("bin/kubectl"))?;
    // Not busybox's: it knows no cgroup namespaces.
    for program in ["nft", "unshare"] {
        copy_program(&which(program).with_context(|| format!("{program} is not there"))?, tree)?;
    }
    fs::remove_file(tree.join("bin/unshare"))?;
    fs::copy(&shared.image, tree.join("images/busybox.tar"))?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(tree.join("etc/pods.yaml"), PODS)?;
    fs::write(tree.join("init"), GUEST)?;
    Ok(fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?)
}

/// A program of this host with the libraries it needs, each where it is here.
fn copy_program(program: &Path, tree: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    fs::copy(program, tree.join("usr/sbin").join(name))?;
    let listed = output(Command::new("ldd").arg(program))?;
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("a library lies in a directory")?)?;
        fs::copy(library, copy)?;
    }
    Ok(())
}

/// The modules, unpacked: the guest's modprobe reads no compressed ones.
fn copy_modules(kernel: &packages::Kernel, tree: &Path) -> Result<()> {
    let place = tree.join("lib/modules").join(&kernel.release);
    fs::create_dir_all(&place)?;
    let wanted: BTreeSet<&str> = MODULES.into_iter().collect();
    for module in packages::files_below(&kernel.modules)? {
        let file = module.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((name, ending)) = file.split_once(".ko") else { continue };
        if !wanted.contains(name) {
            continue;
        }
        let copy = place.join(format!("{name}.ko"));
        if ending == ".xz" {
            let unpacked = Command::new("xz").arg("-dc").arg(&module).stderr(Stdio::inherit()).output()?;
            ensure!(unpacked.status.success(), "cannot unpack {}", module.display());
            fs::write(copy, unpacked.stdout)?;
        } else {
            fs::copy(&module, copy)?;
        }
    }
    for list in ["modules.order", "modules.builtin"] {
        fs::copy(kernel.modules.join(list), place.join(list))?;
    }
    Ok(())
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let file = fs::File::create(archive).with_context(|| archive.display().to_string())?;
    let mut command = Command::new("sh");
    command.args(["-c", "find . | busybox cpio -o -H newc"]).current_dir(tree).stdout(file);
    host::run(command.stderr(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn a_guest_is_judged_by_its_lines() {
        let good = "GUEST 6.1\nCHECK ok a (1 s)\nGUEST done (2 s)\n";
        assert!(verdict(good).is_empty());
        assert_eq!(
            verdict("CHECK ok a\nCHECK FAILED b (1 s)\n    | CHECK FAILED quoted\n"),
            ["CHECK FAILED b (1 s)", "the guest did not come to its end"]
        );
        assert_eq!(verdict("GUEST done"), ["nothing was checked"]);
    }
}
