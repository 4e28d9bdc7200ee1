//! Keeps what the instance has made in the kernel as it should be, whoever takes it away.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sys::netlink::RouteWatch;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::interface::{Error, Event, PodIdentity};
use crate::native::Inner;
use crate::network::audit::{Station, audit};
use crate::sandbox::Sandbox;
use crate::sandbox::run::interface_of;

/// What nobody tells of (cgroups, some parameters) is looked at so often.
const EVERY: Duration = Duration::from_secs(15);
/// Pods that come and go change links, too; and who restarts a network service takes away one thing after another.
const PAUSE: Duration = Duration::from_millis(500);

impl Inner {
    /// Looks at the network whenever netlink tells of a change, and at everything from time to time.
    pub(crate) fn watch_network(self: &Arc<Self>) {
        let names = vec![self.layout.bridge(), self.layout.veth_prefix()];
        let mut watch = watch(names);
        let inner = self.clone();
        self.tasks.spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                // Cancel-safe: a message that was not read stays in its socket, a tick is taken or stays.
                tokio::select! {
                    () = inner.stop.cancelled() => return,
                    () = changed(&mut watch) => sleep(PAUSE).await,
                    _ = ticks.tick() => {}
                }
                inner.audit().await;
            }
        });
    }

    async fn audit(self: &Arc<Self>) {
        // Held meanwhile: who removes all of the instance takes it, too, and must not find it made again.
        let _turn = self.ports.lock().await;
        // One who has stopped looks no more: his successor may be taking everything down.
        if self.closed.load(Ordering::Acquire) || self.stop.is_cancelled() {
            return;
        }
        let owner = self.clone();
        let looked = tokio::task::spawn_blocking(move || owner.look()).await;
        match looked.map_err(|e| Error::host("failed to look at the network", e)).and_then(|mended| mended) {
            Ok(mended) => mended.into_iter().for_each(|what| self.tell_repair(what)),
            Err(error) => tracing::warn!(%error, "the network of the Pods is not as it should be"),
        }
    }

    /// Says that something was put back.
    pub(crate) fn tell_repair(&self, what: String) {
        tracing::warn!(what, "put back what others had taken away or changed");
        self.events.put(Event::Repaired { what });
    }

    fn look(&self) -> Result<Vec<String>, Error> {
        let sandboxes: Vec<Arc<Sandbox>> = self.all().into_iter().filter(|one| one.is_ready()).collect();
        let stations: Vec<Station> = sandboxes.iter().filter_map(|one| self.station(one)).collect();
        let mut mended = audit(&self.bridge, self.config.service_cidr, &stations)?;
        mended.extend(self.mend_groups()?);
        Ok(mended)
    }

    fn station(&self, sandbox: &Sandbox) -> Option<Station> {
        let PodIdentity { namespace, name, .. } = &sandbox.record.config.pod;
        let interface = interface_of(self, sandbox)?;
        Some(Station { pod: format!("{namespace}/{name}"), interface, shim: sandbox.peer()?.pid() })
    }

    /// The groups above those of Pods; without them a Pod would have no limits but its own.
    fn mend_groups(&self) -> Result<Vec<String>, Error> {
        let shims = self.hierarchy.group(&self.layout.shim_cgroup());
        if self.branches.are_there() && shims.exists() {
            return Ok(Vec::new());
        }
        self.branches.make_again()?;
        shims.create(&Default::default()).map_err(|e| Error::host("failed to make a cgroup", e))?;
        Ok(vec![format!("cgroups of {}", self.layout.cgroup_root())])
    }
}

/// Without it the slow look finds what is missing all the same.
fn watch(names: Vec<String>) -> Option<AsyncFd<RouteWatch>> {
    #[expect(deprecated, reason = "its successor is unsafe; the descriptor here is owned and stays the same")]
    let register = AsyncFd::new;
    let watch = RouteWatch::open(names).map_err(|error| error.to_string());
    let watch = watch.and_then(|watch| register(watch).map_err(|error| error.to_string()));
    watch.inspect_err(|error| tracing::warn!(error, "cannot hear of changes of the network")).ok()
}

/// Returns when something was taken away.
async fn changed(watch: &mut Option<AsyncFd<RouteWatch>>) {
    while let Some(opened) = watch {
        let Ok(mut ready) = opened.readable_mut().await else { break };
        let heard = ready.get_inner_mut().heard();
        ready.clear_ready();
        match heard {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, descriptor = opened.as_raw_fd(), "cannot hear of changes of the network");
                *watch = None;
            }
        }
    }
    std::future::pending().await
}
