//! The test images, made from Debian packages and our own test server.
//!
//! They carry the names of the images that manifests name, so that manifests
//! written for a cluster run here unchanged and without a network.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::host::{apt_update_once, build_for_tests, ensure_packages, output, run, target};
use crate::rootfs::Rootfs;

/// Programs of the nginx image and the packages they come from.
const NGINX_PACKAGES: [&str; 5] = ["nginx", "nginx-common", "curl", "bash", "coreutils"];
const NGINX_PROGRAMS: [&str; 9] = [
    "usr/sbin/nginx",
    "usr/bin/curl",
    "bin/bash",
    "bin/sleep",
    "bin/cat",
    "bin/ls",
    "bin/mkdir",
    "bin/echo",
    "usr/bin/env",
];

/// Makes one image into a file.
type Maker = fn(&Path) -> Result<()>;

/// Makes every image that is not there yet; returns the folder.
pub(crate) fn build_all() -> Result<PathBuf> {
    let dir = target().join("images");
    std::fs::create_dir_all(&dir)?;
    let makers: [(&str, Maker); 5] = [
        ("busybox.tar", busybox),
        ("testserver.tar", testserver),
        ("sample.tar", sample),
        ("tomcat.tar", tomcat),
        ("nginx.tar", nginx),
    ];
    for (name, make) in makers {
        let file = dir.join(name);
        if !file.exists() {
            println!("making {}", file.display());
            make(&file).with_context(|| format!("cannot make {name}"))?;
        }
    }
    Ok(dir)
}

/// Only busybox: what the demo needs.
pub(crate) fn build_busybox() -> Result<PathBuf> {
    let file = target().join("images/busybox.tar");
    std::fs::create_dir_all(file.parent().expect("the images folder has a parent"))?;
    if !file.exists() {
        busybox(&file)?;
    }
    Ok(file)
}

fn busybox_rootfs() -> Result<Rootfs> {
    ensure_packages(&[("busybox", "busybox-static")])?;
    let program = crate::host::which("busybox").context("busybox is installed but not found")?;
    let applets = output(Command::new(&program).arg("--list"))?;
    let mut rootfs = Rootfs::new();
    rootfs.file("bin/busybox", std::fs::read(&program)?, 0o755);
    for applet in applets.lines().filter(|name| *name != "busybox" && !name.is_empty()) {
        rootfs.link(&format!("bin/{applet}"), "busybox");
    }
    Ok(rootfs)
}

fn busybox(file: &Path) -> Result<()> {
    let tags = ["1.36", "1.37", "latest"].map(|tag| format!("docker.io/library/busybox:{tag}"));
    let tags = tags.each_ref().map(String::as_str);
    busybox_rootfs()?.save(file, &tags, &json!({"Cmd": ["sh"], "Env": [PATH]}))
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn testserver_program() -> Result<Vec<u8>> {
    Ok(std::fs::read(build_for_tests("testserver")?)?)
}

fn testserver(file: &Path) -> Result<()> {
    let mut rootfs = busybox_rootfs()?;
    rootfs.file("bin/testserver", testserver_program()?, 0o755);
    let tags = ["docker.io/library/testserver:1", "registry.cn-qingdao.aliyuncs.com/xxx/xxxx:19-814bbe98"];
    rootfs.save(file, &tags, &json!({"Entrypoint": ["/bin/testserver"], "Cmd": ["serve"], "Env": [PATH], "ExposedPorts": {"8080/tcp": {}}}))
}

/// An archive to be copied, and the shell's tools to do it.
fn sample(file: &Path) -> Result<()> {
    let mut rootfs = busybox_rootfs()?;
    rootfs.file("sample.war", b"PK: a web archive in name only\n".to_vec(), 0o644);
    rootfs.save(file, &["docker.io/geektime/sample:v2"], &json!({"Cmd": ["sh"], "Env": [PATH]}))
}

/// A start script where its users expect one, with our server behind it.
fn tomcat(file: &Path) -> Result<()> {
    let mut rootfs = busybox_rootfs()?;
    rootfs.file("bin/testserver", testserver_program()?, 0o755);
    let home = "root/apache-tomcat-7.0.42-v2";
    rootfs.directory(&format!("{home}/webapps"), 0o755);
    rootfs.file(
        &format!("{home}/bin/start.sh"),
        b"#!/bin/sh\nexec /bin/testserver serve --port 8080\n".to_vec(),
        0o755,
    );
    rootfs.save(file, &["docker.io/geektime/tomcat:7.0"], &json!({"Cmd": ["sh"], "Env": [PATH]}))
}

/// Debian's nginx with what it links, laid out as the well-known image: html folder, logs on the
/// standard streams, QUIT to stop; bash and curl for hooks.
fn nginx(file: &Path) -> Result<()> {
    let tree = tempfile::tempdir()?;
    extract_packages(&NGINX_PACKAGES, tree.path())?;
    let mut rootfs = Rootfs::new();
    rootfs.link("lib64", "usr/lib64");
    rootfs.link("usr/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    rootfs.link("lib", "usr/lib");
    let index = index_files(tree.path())?;
    let mut queue: Vec<String> = NGINX_PROGRAMS.iter().map(|program| (*program).to_owned()).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let base = name.rsplit('/').next().unwrap_or(&name);
        let source = index.get(base).with_context(|| format!("no package has {name}"))?;
        let place = if name.contains('/') { name.clone() } else { library_place(source, tree.path()) };
        rootfs.file(&place, std::fs::read(source)?, 0o755);
        queue.extend(needed(source)?);
    }
    rootfs.link("bin/sh", "bash");
    rootfs
        .text("etc/nginx/mime.types", "types { text/html html htm; text/css css; application/json json; }\n");
    rootfs.text("etc/nginx/nginx.conf", NGINX_CONF);
    rootfs.text("usr/share/nginx/html/index.html", "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n");
    rootfs.directory("var/lib/nginx", 0o755);
    rootfs.directory("var/log/nginx", 0o755);
    rootfs.link("var/log/nginx/access.log", "/dev/stdout");
    rootfs.link("var/log/nginx/error.log", "/dev/stderr");
    let tags = ["latest", "1.22", "1.25", "1.27"].map(|tag| format!("docker.io/library/nginx:{tag}"));
    let tags = tags.each_ref().map(String::as_str);
    rootfs.save(file, &tags, &json!({"Cmd": ["nginx", "-g", "daemon off;"], "Env": [PATH], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}))
}

const NGINX_CONF: &str = "user www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nevents { worker_connections 256; }\nhttp {\n  include /etc/nginx/mime.types;\n  access_log /var/log/nginx/access.log;\n  server { listen 80; root /usr/share/nginx/html; index index.html; }\n}\n";

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
                || (name.starts_with("lib") && !name.contains("perl"))
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
