//! The test images, made from Debian packages and our own test server.
//!
//! They carry the names of the images that manifests name, so that manifests
//! written for a cluster run here unchanged and without a network.

mod packages;
mod postgres;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use self::packages::Packages;
use crate::host::{build_for_tests, ensure_packages, output, target};
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

/// These hold a program of this repository, and are made anew when it changes.
const WITH_TESTSERVER: [&str; 2] = ["testserver.tar", "tomcat.tar"];

/// Makes one image into a file.
type Maker = fn(&Path) -> Result<()>;

/// Makes every image that is not there yet; returns the folder.
pub(crate) fn build_all() -> Result<PathBuf> {
    let dir = target().join("images");
    std::fs::create_dir_all(&dir)?;
    let program = build_for_tests("testserver")?;
    let makers: [(&str, Maker); 6] = [
        ("busybox.tar", busybox),
        ("testserver.tar", testserver),
        ("sample.tar", sample),
        ("tomcat.tar", tomcat),
        ("nginx.tar", nginx),
        ("postgres.tar", postgres::image),
    ];
    for (name, make) in makers {
        let file = dir.join(name);
        if !file.exists() || WITH_TESTSERVER.contains(&name) && is_older(&file, &program) {
            println!("making {}", file.display());
            make(&file).with_context(|| format!("cannot make {name}"))?;
        }
    }
    Ok(dir)
}

/// Whether the program in the images has been built since.
fn is_older(image: &Path, program: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((changed(image), changed(program)), (Ok(image), Ok(program)) if image < program)
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
    let packages = Packages::extract(&NGINX_PACKAGES)?;
    let mut rootfs = Rootfs::new();
    packages.add_programs(&mut rootfs, NGINX_PROGRAMS.iter().map(|program| (*program).to_owned()))?;
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
