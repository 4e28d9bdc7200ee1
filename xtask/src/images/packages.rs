//! Debian packages laid out in a folder, and what programs of theirs need to run.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::{apt_update_once, ensure_packages, output, run};
use crate::rootfs::Rootfs;

/// Packages and the libraries that they depend on.
pub(super) struct Packages {
    tree: tempfile::TempDir,
    /// Every program and library by its name.
    index: HashMap<String, PathBuf>,
}

impl Packages {
    pub(super) fn extract(packages: &[&str]) -> Result<Self> {
        let tree = tempfile::tempdir()?;
        extract_packages(packages, tree.path())?;
        let index = index_files(tree.path())?;
        Ok(Packages { tree, index })
    }

    /// Where the packages are laid out.
    pub(super) fn tree(&self) -> &Path {
        self.tree.path()
    }

    /// Adds programs (or libraries that programs load) at these paths, and all libraries that they ask for.
    pub(super) fn add_programs(
        &self,
        rootfs: &mut Rootfs,
        programs: impl Iterator<Item = String>,
    ) -> Result<()> {
        rootfs.link("lib64", "usr/lib64");
        rootfs.link("usr/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
        rootfs.link("lib", "usr/lib");
        let mut queue: Vec<String> = programs.collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = queue.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let base = name.rsplit('/').next().unwrap_or(&name);
            let source = self.index.get(base).with_context(|| format!("no package has {name}"))?;
            let place = if name.contains('/') { name.clone() } else { library_place(source, self.tree()) };
            rootfs.file(&place, std::fs::read(source)?, 0o755);
            queue.extend(needed(source)?);
        }
        Ok(())
    }
}

/// Downloads the packages and all they depend on, and lays them out under `tree`.
fn extract_packages(packages: &[&str], tree: &Path) -> Result<()> {
    ensure_packages(&[("readelf", "binutils")])?;
    apt_update_once()?;
    let closure = output(
        Command::new("apt-cache")
            .args([
                "depends",
                "--recurse",
                "--no-recommends",
                "--no-suggests",
                "--no-conflicts",
                "--no-breaks",
                "--no-replaces",
                "--no-enhances",
            ])
            .args(packages),
    )?;
    let names: BTreeSet<&str> = closure
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .filter(|name| {
            packages.contains(name)
                || (name.starts_with("lib") && !name.contains("perl") && !name.contains("llvm"))
                || *name == "zlib1g"
        })
        .collect();
    let debs = tempfile::tempdir()?;
    run(Command::new("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root"])
        .args(&names)
        .current_dir(debs.path()))?;
    for deb in std::fs::read_dir(debs.path())? {
        run(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(tree))?;
    }
    Ok(())
}

/// Every regular file and library link of a tree by its name.
fn index_files(tree: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut index = HashMap::new();
    let mut queue = vec![tree.to_path_buf()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                queue.push(entry.path());
            } else if entry.path().is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let in_path = ["/bin/", "/sbin/", "/lib/", "/lib64/"]
                    .iter()
                    .any(|part| entry.path().to_string_lossy().contains(part));
                if in_path && !entry.path().to_string_lossy().contains("completion") {
                    index.insert(name, entry.path());
                }
            }
        }
    }
    Ok(index)
}

fn library_place(source: &Path, tree: &Path) -> String {
    let inside = source.strip_prefix(tree).unwrap_or(source).to_string_lossy().into_owned();
    if inside.starts_with("usr/") { inside } else { format!("usr/{inside}") }
}

/// The libraries a program asks for, its loader included.
fn needed(program: &Path) -> Result<Vec<String>> {
    let dynamic = output(Command::new("readelf").args(["-d", "-l", "-W"]).arg(program))?;
    Ok(dynamic
        .lines()
        .filter_map(|line| match line.split_once("(NEEDED)") {
            Some((_, rest)) => Some(rest.split('[').nth(1)?.trim_end_matches(']').to_owned()),
            None => Some(
                line.split_once("program interpreter: ")?
                    .1
                    .trim_end_matches(']')
                    .rsplit('/')
                    .next()?
                    .to_owned(),
            ),
        })
        .collect())
}
