//! What stands in for the kernel's mounts and for the ways to others.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::InProcess;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use node::ConfirmEndpoints;
use node::volumes::Mounts;
use server::Nodes;
use wire::Handler;

pub(super) struct NoNodes;

impl Nodes for NoNodes {
    fn handler(&self, _: &str) -> Option<Arc<dyn Handler>> {
        None
    }
}

/// Mounts that need no root: the directories stay what they are.
#[derive(Default)]
pub(super) struct NoMounts {
    /// While this is locked, a tmpfs hangs, as a mount of a server that is gone.
    pub(super) hanging: Arc<Mutex<()>>,
}

impl Mounts for NoMounts {
    fn tmpfs(&self, _: &Path, _: Option<u64>) -> io::Result<()> {
        drop(self.hanging.lock());
        Ok(())
    }

    fn hugetlbfs(&self, _: &Path, _: Option<u64>, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }

    fn bind(&self, _: BorrowedFd<'_>, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_mounted(&self, _: &Path) -> bool {
        false
    }

    fn unmount_below(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Panics when it is asked for the first time: in the very middle of a worker.
#[derive(Default)]
pub(super) struct PanicsOnce {
    pub(super) asked: AtomicU32,
}

impl ConfirmEndpoints for PanicsOnce {
    fn withdrawn(&self, _: &Pod, _: Duration) -> BoxFuture<'static, ()> {
        assert!(self.asked.fetch_add(1, Ordering::AcqRel) > 0, "as the test wants it");
        std::future::ready(()).boxed()
    }
}

/// A way to the API that can be closed; what is on its way then breaks.
pub(super) struct Away {
    pub(super) there: InProcess,
    pub(super) away: tokio::sync::watch::Sender<bool>,
}

impl client::Transport for Away {
    fn send(
        &self,
        request: wire::Request,
    ) -> BoxFuture<'static, Result<wire::Response, client::TransportError>> {
        if *self.away.borrow() {
            let source = "it is away".into();
            return std::future::ready(Err(client::TransportError::Connect { server: "api".into(), source }))
                .boxed();
        }
        self.there.send(request)
    }
}
