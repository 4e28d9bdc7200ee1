//! Debian's PostgreSQL, laid out and started as the well-known image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::busybox_rootfs;
use super::packages::Packages;
use crate::host::{apt_update_once, output};
use crate::rootfs::Rootfs;

const PROGRAMS: [&str; 5] = ["postgres", "initdb", "psql", "pg_isready", "pg_ctl"];
/// What a server loads for its own set-up; other extensions stay out.
const LIBRARIES: [&str; 2] = ["dict_snowball.so", "plpgsql.so"];
/// Times are of UTC unless somebody asks otherwise.
const ZONES: [&str; 2] = ["UTC", "Etc/UTC"];
/// The user of the well-known image: volumes made by one work with the other.
const USER: u32 = 999;

/// Makes the image.
pub(super) fn image(file: &Path) -> Result<()> {
    let version = version()?;
    let (server, client) = (format!("postgresql-{version}"), format!("postgresql-client-{version}"));
    let packages = Packages::extract(&[&server, &client, "tzdata"])?;
    let (programs, shared) =
        (format!("usr/lib/postgresql/{version}"), format!("usr/share/postgresql/{version}"));
    let mut rootfs = busybox_rootfs()?;
    rootfs.user("postgres", USER);
    let place = |part: &'static str| {
        let programs = programs.clone();
        move |name: &&str| format!("{programs}/{part}/{name}")
    };
    let wanted = PROGRAMS.iter().map(place("bin")).chain(LIBRARIES.iter().map(place("lib")));
    packages.add_programs(&mut rootfs, wanted)?;
    add_tree(&mut rootfs, packages.tree(), &shared)?;
    for zone in ZONES {
        let path = format!("usr/share/zoneinfo/{zone}");
        rootfs.file(&path, std::fs::read(packages.tree().join(&path))?, 0o644);
    }
    rootfs.file("usr/local/bin/docker-entrypoint.sh", ENTRYPOINT.as_bytes().to_vec(), 0o755);
    rootfs.directory("run/postgresql", 0o1777);
    rootfs.link("var/run", "/run");
    let tags = [&*version, "latest"].map(|tag| format!("docker.io/library/postgres:{tag}"));
    let tags = tags.each_ref().map(String::as_str);
    let path = format!("PATH=/usr/local/bin:/usr/bin:/bin:/{programs}/bin");
    rootfs.save(
        file,
        &tags,
        &json!({"Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres"],
        "Env": [path, "PGDATA=/var/lib/postgresql/data", "TZ=UTC"], "ExposedPorts": {"5432/tcp": {}},
        "StopSignal": "SIGINT"}),
    )
}

/// The release that Debian's package of the name stands for.
fn version() -> Result<String> {
    apt_update_once()?;
    let depends = output(Command::new("apt-cache").args(["depends", "postgresql"]))?;
    let found = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: postgresql-"));
    found.map(str::to_owned).context("the package postgresql depends on no server")
}

/// All regular files below a folder of the tree: what a server reads, without manuals.
fn add_tree(rootfs: &mut Rootfs, tree: &Path, folder: &str) -> Result<()> {
    for entry in std::fs::read_dir(tree.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = format!("{folder}/{}", name.to_str().context("a name that is no text")?);
        if entry.file_type()?.is_dir() && name != "man" {
            add_tree(rootfs, tree, &path)?;
        } else if entry.file_type()?.is_file() {
            rootfs.file(&path, std::fs::read(entry.path())?, 0o644);
        }
    }
    Ok(())
}

/// Makes the database when there is none, as the user who may; becomes the server.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres "$PGDATA"
    chmod 700 "$PGDATA"
    exec su -m -s /bin/sh postgres "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "POSTGRES_PASSWORD is not set: the superuser needs a password" >&2
        exit 1
    fi
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="${POSTGRES_USER:-postgres}" --pwfile=/tmp/password --encoding=UTF8 --no-locale \
        --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \"$database\";" | postgres --single -j postgres > /dev/null
    fi
fi
exec "$@"
"#;
