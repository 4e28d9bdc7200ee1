//! Making and starting a container.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shim::protocol::{ContainerSpec, LogSpec, Reply, Request};

use super::spec::{Parts, spec};
use super::{Container, ContainerRecord};
use crate::clock::{now, random_id};
use crate::failpoint::{self, Place};
use crate::image::ImageStore;
use crate::interface::{ContainerConfig, ContainerState, Error, Image, Mount};
use crate::layout::{failed, remove_directory, write_json};
use crate::link::unexpected;
use crate::native::Inner;
use crate::sandbox::Sandbox;
use crate::threads::on_own_thread;

/// Makes a container up to the moment before its program is executed.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    sandbox: &Arc<Sandbox>,
    config: ContainerConfig,
) -> Result<String, Error> {
    if let Some(existing) = sandbox.find(&config.name, config.attempt) {
        return Ok(existing.id().to_owned());
    }
    let link = sandbox.link()?;
    let id = random_id::<32>()?;
    let (prepared, made) = {
        let (inner, sandbox, id) = (inner.clone(), sandbox.clone(), id.clone());
        // It looks at what the container mounts: that may be a path whose server is gone.
        on_own_thread((), move || prepare(&inner, &sandbox, id, config)).await
    }??;
    let created =
        link.call(Request::Create(Box::new(prepared))).await.and_then(|answer| match answer.reply {
            Reply::Created { user, .. } => Ok(user),
            other => Err(unexpected(&other)),
        });
    failpoint::pass(Place::ContainerCreated);
    match created {
        Ok(user) => {
            made.life.send_modify(|life| life.user = Some(user));
            sandbox.add(made);
            Ok(id)
        }
        Err(error) => {
            undo(&inner.store, &made);
            Err(error)
        }
    }
}

fn undo(store: &ImageStore, container: &Container) {
    // The error that led here is the one to tell.
    if let Err(error) = remove_directory(&container.directory) {
        tracing::warn!(%error, "cannot remove a container that was not made");
    }
    if let Err(error) = store.release(container.id()) {
        tracing::warn!(%error, "cannot end the use of an image");
    }
}

fn prepare(
    inner: &Inner,
    sandbox: &Sandbox,
    id: String,
    config: ContainerConfig,
) -> Result<(ContainerSpec, Arc<Container>), Error> {
    // From here on the image stays, whatever is removed or pruned.
    let image = inner.store.lease(&id, &config.image)?;
    failpoint::pass(Place::ImageLeased);
    let directory = sandbox.container_directory(&id);
    let container = Container::new(
        record(sandbox, id, config, &image),
        sandbox.record.config.pod.clone(),
        directory,
        String::new(),
    );
    let result = write_files(inner, sandbox, &container, &image);
    match result {
        Ok((spec, container)) => Ok((spec, container)),
        Err(error) => {
            undo(&inner.store, &container);
            Err(error)
        }
    }
}

fn record(sandbox: &Sandbox, id: String, config: ContainerConfig, image: &Image) -> ContainerRecord {
    ContainerRecord {
        id,
        sandbox: sandbox.record.id.clone(),
        log_path: sandbox.record.config.log_directory.join(&config.log_path),
        image_name: image.repo_tags.first().unwrap_or(&image.id).clone(),
        image_id: image.id.clone(),
        stop_signal: stop_signal(&config, image).to_owned(),
        created_at: now(),
        config,
    }
}

/// What the Pod says, or else the image.
fn stop_signal<'a>(config: &'a ContainerConfig, image: &'a Image) -> &'a str {
    if config.stop_signal.is_empty() { &image.stop_signal } else { &config.stop_signal }
}

fn write_files(
    inner: &Inner,
    sandbox: &Sandbox,
    container: &Container,
    image: &Image,
) -> Result<(ContainerSpec, Arc<Container>), Error> {
    let Container { record, directory, .. } = container;
    make_directory(directory, 0o700)?;
    // The upper directory becomes the root of the container: everybody may enter it.
    make_directory(&directory.join("upper"), 0o755)?;
    make_directory(&directory.join("work"), 0o700)?;
    failpoint::pass(Place::SnapshotMade);
    record.config.mounts.iter().try_for_each(make_source)?;
    let cgroup = format!("{}/{}", inner.pod_cgroup(&sandbox.record.config), record.id);
    let log = LogSpec {
        path: record.log_path.clone(),
        max_bytes: inner.config.log_max_bytes,
        max_files: inner.config.log_max_files,
    };
    let spec = spec(Parts {
        id: &record.id,
        config: &record.config,
        image,
        sandbox: &sandbox.record,
        sandbox_directory: &sandbox.directory,
        directory,
        layers: layers(&inner.store, image, directory)?,
        cgroup: cgroup.clone(),
        hostname: &sandbox.hostname(),
        log,
    })?;
    write_json(&directory.join("config.json"), record)?;
    failpoint::pass(Place::ContainerRecorded);
    Ok((spec, Container::new(record.clone(), container.pod.clone(), directory.clone(), cgroup)))
}

/// The image's layers, the topmost first. An overlay needs one at least, an image need not have one.
fn layers(store: &ImageStore, image: &Image, directory: &Path) -> Result<Vec<PathBuf>, Error> {
    if image.layers.is_empty() {
        let empty = directory.join("empty");
        make_directory(&empty, 0o755)?;
        return Ok(vec![empty]);
    }
    let topmost_first = image.layers.iter().rev();
    topmost_first.map(|layer| store.layer_directory(layer).map_err(Error::from)).collect()
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make directory", path))
}

/// As containerd: what is mounted and missing becomes a directory.
fn make_source(mount: &Mount) -> Result<(), Error> {
    if mount.host_path.exists() { Ok(()) } else { make_directory(&mount.host_path, 0o755) }
}

/// Executes the program of a created container.
pub(crate) async fn start(sandbox: &Sandbox, container: &Container) -> Result<(), Error> {
    match container.state() {
        ContainerState::Running => return Ok(()),
        ContainerState::Created => {}
        ContainerState::Exited | ContainerState::Unknown => {
            return Err(Error::NotRunning { id: container.id().to_owned() });
        }
    }
    let request = Request::Start { id: container.id().to_owned() };
    let answer = match sandbox.link()?.call(request).await {
        Ok(answer) => answer,
        Err(error) => {
            // The answer may have been lost on its way, and not the start.
            sandbox.reconnected().await;
            return if container.is_running() { Ok(()) } else { Err(error) };
        }
    };
    failpoint::pass(Place::ContainerStarted);
    match answer.reply {
        Reply::Started { pid, started_at } => {
            container.life.send_if_modified(|life| {
                // A program may end before its start is reported.
                life.started_at = started_at;
                let lives = life.state == ContainerState::Created;
                if lives {
                    life.state = ContainerState::Running;
                    life.pid = pid;
                }
                lives
            });
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
