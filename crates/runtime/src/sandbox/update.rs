//! New limits for what runs.

use std::sync::PoisonError;

use sys::cgroup::Level;

use super::{Sandbox, record_file};
use crate::container::Container;
use crate::container::spec::resources;
use crate::interface::{Error, Resources, SandboxUpdate};
use crate::layout::write_json;
use crate::native::Inner;
use crate::usage::MemoryUse;

/// Sets limits of the Pod's own group. The kernel first, then the record: a daemon that dies between the two
/// finds the older limits written, and they are set again.
pub(crate) fn sandbox(inner: &Inner, sandbox: &Sandbox, update: &SandboxUpdate) -> Result<(), Error> {
    if !sandbox.is_ready() {
        return Err(Error::NotFound { what: "running sandbox", id: sandbox.id().to_owned() });
    }
    let known = sandbox.current_record().config;
    let limits = sys::cgroup::Resources { level: Level::Pod, ..resources(&update.resources) };
    let group = inner.hierarchy.group(&inner.pod_cgroup(&known));
    group.update(&limits).map_err(|e| Error::host("failed to set limits of the Pod", e))?;
    let cpu_request = update.cpu_request.unwrap_or(known.cpu_request);
    sandbox.set_limits(known.resources.updated(&update.resources), cpu_request);
    let record = sandbox.current_record();
    inner.branches.pod_came(&record.config);
    write_json(&record_file(&sandbox.directory), &record)
}

/// Sets limits of one running container.
pub(crate) fn container(inner: &Inner, container: &Container, update: &Resources) -> Result<(), Error> {
    if !container.is_running() {
        return Err(Error::NotRunning { id: container.id().to_owned() });
    }
    let group = inner.hierarchy.group(&container.cgroup);
    let name = &container.record.config.name;
    let set = group.update(&resources(update));
    set.map_err(|e| Error::host(format!("failed to set limits of container {name:?}"), e))?;
    let limits = container.limits().updated(update);
    let mut record = container.record.clone();
    record.config.resources = limits.clone();
    *container.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    write_json(&container.directory.join("config.json"), &record)
}

pub(crate) fn memory_use(inner: &Inner, sandbox: &Sandbox) -> MemoryUse {
    let of = |group: &str| inner.hierarchy.group(group).stats().memory_usage;
    let running = sandbox.containers().into_iter().filter(|container| container.is_running());
    MemoryUse {
        containers: running.map(|container| (container.id().to_owned(), of(&container.cgroup))).collect(),
        sandbox: of(&inner.pod_cgroup(&sandbox.record.config)),
    }
}
