//! Another size for what runs: asking the node, keeping what it granted, writing the cgroups.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use std::{fs, io};

use runtime::{Error, MemoryUse, Resources, Runtime, SandboxUpdate};

use super::PodWorker;
use crate::container::resources;
use crate::pod::allocation::Allocation;
use crate::pod::event::Event;
use crate::pod::resize::Step;
use crate::shared::Wish;

impl PodWorker {
    /// Notes what the Pod wishes and looks for room, for this one and for others that wait for some.
    pub(super) fn ask_resize(&mut self) {
        let wished = &self.state.wished;
        let wishes = !Allocation::of(wished).matches(&self.state.allocation);
        if let Some(worker) = self.node.workers().get_mut(self.state.uid()) {
            worker.wish = wishes.then(|| Wish { pod: Arc::clone(wished), since: Instant::now() });
        }
        self.decide_resizes();
    }

    /// Answers all that wait for room. Those who are told may be slow to hear it, so a task does it.
    pub(super) fn decide_resizes(&mut self) {
        let node = Arc::clone(&self.node);
        self.tasks.spawn(async move { node.decide_resizes().await });
    }

    pub(super) fn keep_allocation(&mut self, allocation: Allocation) {
        let path = self.directory.allocation();
        let threads = self.threads.clone();
        let lost = "the task that keeps what was granted panicked".to_owned();
        self.spawn(Event::AllocationKept(Err(lost)), async move {
            let written = threads.run(move || {
                write(&path, &allocation).map_err(|err| format!("failed to write {}: {err}", path.display()))
            });
            Event::AllocationKept(written.await.and_then(|done| done))
        });
    }

    pub(super) fn resize_pod(&mut self, sandbox: String, steps: Vec<Step>) {
        let runtime = Arc::clone(&self.node.runtime);
        let cpu_request = resources::cpu_request(&self.state.pod);
        let lost = "the task that writes the cgroups panicked".to_owned();
        self.spawn(Event::Resized(Err(lost)), async move {
            Event::Resized(take(&*runtime, &sandbox, cpu_request, steps).await)
        });
    }
}

/// Durably, and whole or not at all: it must outlive a daemon that dies right after.
fn write(path: &Path, allocation: &Allocation) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(allocation)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// What was granted to a Pod by an earlier worker or daemon. A file that cannot be read is none: then the status
/// says what the Pod has.
pub(crate) fn kept(path: &Path) -> Option<Allocation> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        text => text,
    };
    let read = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
    read.inspect_err(
        |error| tracing::warn!(path = %path.display(), %error, "cannot read what a Pod was granted"),
    )
    .ok()
}

/// Takes the steps until one fails.
async fn take(
    runtime: &dyn Runtime,
    sandbox: &str,
    cpu_request: u64,
    steps: Vec<Step>,
) -> Result<(), String> {
    for step in steps {
        match step {
            Step::CheckMemory { pod, containers } => {
                let used = runtime.memory_use(sandbox).await.map_err(|err| err.to_string())?;
                check(&used, pod, &containers)?;
            }
            Step::Pod(resources) => {
                let cpu_request = (resources.cpu_shares > 0).then_some(cpu_request);
                let update = SandboxUpdate { resources, cpu_request };
                runtime.update_sandbox(sandbox, update).await.map_err(|err| err.to_string())?;
            }
            Step::Container { id, resources } => update(runtime, &id, resources).await?,
        }
    }
    Ok(())
}

/// One that has ended meanwhile is of the new size when it starts again.
async fn update(runtime: &dyn Runtime, id: &str, resources: Resources) -> Result<(), String> {
    match runtime.update_container(id, resources).await {
        Err(Error::NotRunning { .. } | Error::NotFound { .. }) => Ok(()),
        result => result.map_err(|err| err.to_string()),
    }
}

/// Upstream's words.
fn check(used: &MemoryUse, pod: Option<i64>, containers: &[(String, String, i64)]) -> Result<(), String> {
    let mut errors = Vec::new();
    let exceeds = |used: u64, limit: i64| i64::try_from(used).is_ok_and(|used| used > limit);
    if let Some(limit) = pod.filter(|limit| exceeds(used.sandbox, *limit)) {
        let used = used.sandbox;
        errors.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
    }
    for (name, id, limit) in containers {
        let used = used.containers.get(id).copied().unwrap_or_default();
        if exceeds(used, *limit) {
            errors.push(format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            ));
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        // As Go's aggregate of errors.
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_below_what_is_used_are_refused_in_upstreams_words() {
        let used = MemoryUse { sandbox: 300, containers: [("a-id".to_owned(), 200)].into() };
        let of_a = |limit| [("a".to_owned(), "a-id".to_owned(), limit)];
        assert_eq!(check(&used, Some(300), &of_a(200)), Ok(()));
        let pod = "attempting to set pod memory limit (299) below current usage (300)";
        assert_eq!(check(&used, Some(299), &[]), Err(pod.to_owned()));
        let container = "attempting to set container \"a\" memory limit (100) below current usage (200)";
        assert_eq!(check(&used, None, &of_a(100)), Err(container.to_owned()));
        assert_eq!(check(&used, Some(299), &of_a(100)), Err(format!("[{pod}, {container}]")));
    }

    #[test]
    fn what_was_granted_is_read_again_and_a_broken_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod").join("allocation.json");
        assert_eq!(kept(&path), None);
        let pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}
        }));
        let allocation = Allocation::of(&pod.unwrap());
        write(&path, &allocation).unwrap();
        assert_eq!(kept(&path), Some(allocation));
        fs::write(&path, "{").unwrap();
        assert_eq!(kept(&path), None);
    }
}
