//! Kernels and the emulator, from Debian's packages: downloaded once below target/hosts, unpacked
//! there, never installed, so that nothing of this machine changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::{self, apt_update_once, output, target, which};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const EMULATOR: &str = "qemu-system-x86_64";

/// A kernel of a distribution.
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

/// The cloud kernel of a suite, kept in `place` once it is there.
pub(super) fn kernel(suite: &str, place: &Path) -> Result<Kernel> {
    let root = place.join("root");
    if !root.join("boot").is_dir() {
        println!("downloading the kernel of {suite}");
        let apt = Apt::of(suite, &place.join("apt"))?;
        let depends = output(apt.command("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.with_context(|| format!("{suite} has no cloud kernel"))?;
        host::run(apt.command("apt-get").args(["download", "-qq", package]).current_dir(place))?;
        // Its name says that it is whole.
        let partial = place.join("root.partial");
        unpack_all(place, &partial)?;
        fs::rename(&partial, &root)?;
    }
    let image = entry(&root.join("boot"), "vmlinuz-")?;
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(&release));
    let modules = places.into_iter().find(|place| place.is_dir()).context("the kernel has no modules")?;
    Ok(Kernel { release, image, modules })
}

fn entry(directory: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let fits =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    names.find(fits).with_context(|| format!("no {start}… in {}", directory.display()))
}

/// Where this machine has its own packages from: other suites are there too.
fn mirror() -> Result<String> {
    apt_update_once()?;
    let words = ["indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Created-By: Packages"];
    let mirrors = output(Command::new("apt-get").args(words))?;
    mirrors.lines().next().map(str::to_owned).context("apt knows no mirror of Debian")
}

/// Package lists of one suite, apart from those of this machine.
struct Apt(Vec<String>);

impl Apt {
    fn of(suite: &str, place: &Path) -> Result<Self> {
        fs::create_dir_all(place.join("lists/partial"))?;
        fs::create_dir_all(place.join("archives/partial"))?;
        let list = place.join("sources.list");
        fs::write(&list, format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?))?;
        let place = place.display();
        let settings = [
            format!("Dir::State={place}"),
            format!("Dir::State::lists={place}/lists"),
            format!("Dir::Cache={place}"),
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::State::status=/dev/null".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Apt(settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect());
        host::run(apt.command("apt-get").args(["update", "-qq"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.0);
        command
    }
}

/// Unpacks all packages of a directory into another.
fn unpack_all(packages: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    for package in fs::read_dir(packages)?.flatten().map(|entry| entry.path()) {
        if package.extension().is_some_and(|ending| ending == "deb") {
            host::run(Command::new("dpkg").arg("-x").arg(&package).arg(into))?;
        }
    }
    Ok(())
}

/// All files below a directory.
pub(super) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut left) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).with_context(|| next.display().to_string())?.flatten() {
            if entry.file_type()?.is_dir() { left.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    Ok(files)
}

/// QEMU: this machine's own, or one unpacked below target.
pub(super) struct Emulator {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where its libraries are that this machine has not.
    pub(super) libraries: String,
}

impl Emulator {
    pub(super) fn find() -> Result<Self> {
        if let Some(program) = which(EMULATOR) {
            return Ok(Emulator { program, arguments: Vec::new(), libraries: String::new() });
        }
        let place = target().join("hosts/qemu");
        let root = place.join("root");
        if !root.is_dir() {
            println!("downloading {EMULATOR}");
            apt_update_once()?;
            let archives = place.join("archives");
            fs::create_dir_all(archives.join("partial"))?;
            host::run(
                Command::new("apt-get")
                    .args(["install", "-y", "-qq", "--download-only", "--no-install-recommends"])
                    .arg("-o")
                    .arg(format!("Dir::Cache::archives={}", archives.display()))
                    .args(["-o", "APT::Sandbox::User=root", "qemu-system-x86"]),
            )?;
            let partial = place.join("root.partial");
            unpack_all(&archives, &partial)?;
            fs::rename(&partial, &root)?;
        }
        let below = |path: &str| root.join(path).display().to_string();
        let firmware = ["usr/share/qemu", "usr/share/seabios"].map(|place| ["-L".to_owned(), below(place)]);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(below).join(":");
        Ok(Emulator { program: root.join("usr/bin").join(EMULATOR), arguments: firmware.concat(), libraries })
    }
}
