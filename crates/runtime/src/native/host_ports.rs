//! The tables of host ports: programmed when a sandbox comes or goes, and again when others change them.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use sys::netlink::{Heard, TableWatch, conntrack};
use tokio::io::unix::AsyncFd;

use super::Inner;
use crate::interface::{Error, PortMapping};
use crate::network::ports::{self, HostPorts};
use crate::sandbox::Sandbox;

impl Inner {
    /// Leads the sandbox's host ports to it.
    pub(crate) async fn set_ports(&self, sandbox: &Sandbox) -> Result<(), Error> {
        if !self.note_ports(sandbox) {
            return Ok(());
        }
        self.program_ports().await?;
        self.forget_flows(sandbox.record.addresses.clone(), sandbox.record.config.port_mappings.clone())
            .await;
        Ok(())
    }

    /// Notes the host ports of a sandbox; false when it has none.
    pub(crate) fn note_ports(&self, sandbox: &Sandbox) -> bool {
        let mappings = &sandbox.record.config.port_mappings;
        let addresses = sandbox.record.addresses.clone();
        if mappings.is_empty() || addresses.is_empty() {
            return false;
        }
        let ports = HostPorts { addresses, mappings: mappings.clone() };
        let mut all = self.host_ports.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(sandbox.id().to_owned(), ports);
        true
    }

    /// Leads them nowhere again.
    pub(crate) async fn unset_ports(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let had = self.host_ports.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox.id());
        let Some(had) = had else { return Ok(()) };
        self.program_ports().await?;
        self.forget_flows(Vec::new(), had.mappings).await;
        Ok(())
    }

    /// A sender of UDP that never pauses would go on to where its first packet went: to the Pod that had the
    /// port before, or to nobody.
    async fn forget_flows(&self, to: Vec<IpAddr>, mappings: Vec<PortMapping>) {
        if !mappings.iter().any(|mapping| mapping.protocol == "UDP") {
            return;
        }
        let forgotten = tokio::task::spawn_blocking(move || ports::forget_flows(&to, &mappings)).await;
        match forgotten {
            // Whoever programs Services in this process has said so, by name.
            Ok(Err(error)) if conntrack::lacks_module(&error) => {
                tracing::debug!(%error, "flows of UDP to a host port go on to where it led before");
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "flows of UDP to a host port may go on to where it led before");
            }
            Ok(Ok(())) | Err(_) => {}
        }
    }

    /// Programs the tables again whenever others have changed them.
    pub(super) fn watch_table(self: &Arc<Self>) {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the descriptor here is owned and stays the same"
        )]
        let register = AsyncFd::new;
        let watch = TableWatch::open(self.layout.ports_table()).map_err(|error| error.to_string());
        let watch = watch.and_then(|watch| register(watch).map_err(|error| error.to_string()));
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => return tracing::warn!(error, "cannot hear of changes of nftables by others"),
        };
        let inner = self.clone();
        self.tasks.spawn(async move {
            // Cancel-safe because a message that was not read stays in its socket.
            while let Some(Ok(mut ready)) = inner.stop.run_until_cancelled(watch.readable_mut()).await {
                // With the turn in hand nothing of ours is under way: what was heard and is not ours is others'.
                let mut turn = inner.ports.lock().await;
                let heard = ready.get_inner_mut().heard();
                ready.clear_ready();
                let own = std::mem::take(&mut *turn);
                drop(turn);
                match heard {
                    Ok(Heard { transactions, lost }) if transactions > own || (lost && own == 0) => {
                        inner.repair_table().await;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        return tracing::warn!(%error, "cannot hear of changes of nftables by others");
                    }
                }
            }
        });
    }

    async fn repair_table(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        match self.program_ports().await {
            Ok(()) => self.tell_repair(format!("the nftables table {}", self.layout.ports_table())),
            Err(error) => tracing::warn!(%error, "host ports and masquerading are not programmed"),
        }
    }

    pub(super) async fn program_ports(&self) -> Result<(), Error> {
        let mut turn = self.ports.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let ports: Vec<HostPorts> =
            self.host_ports.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let bridge = self.bridge.clone();
        let programmed = tokio::task::spawn_blocking(move || bridge.program(&ports)).await;
        programmed.map_err(|e| Error::host("failed to program ports", e))??;
        *turn += 1;
        Ok(())
    }
}
