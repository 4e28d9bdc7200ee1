//! The bridge of the node's Pods, the kernel parameters it needs, and our nftables table.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sys::netlink::{Ipv4Parameter, Link, Route, mac_of};

use super::Subnet;
use super::ports::{HostPorts, Table, ruleset, senders};
use crate::interface::Error;
use crate::layout::Layout;

/// Kernel parameters of the whole node that Pods need, and what they need them to be.
const NODE_PARAMETERS: [(&str, &str); 1] = [("net.ipv4.ip_forward", "1")];

/// Parameters of the bridge itself: Pods hold NET_RAW, and may send any packet. The kernel hears of a
/// shorter way only from itself (the two Pods are on one link) and keeps it to itself: each packet
/// passes here.
const BRIDGE_PARAMETERS: [(Ipv4Parameter, u32); 4] = [
    (Ipv4Parameter::AcceptRedirects, 0),
    (Ipv4Parameter::SendRedirects, 0),
    (Ipv4Parameter::AcceptSourceRoute, 0),
    (Ipv4Parameter::ReversePathFilter, 1),
];

/// All that [`Bridge::ensure`] sets of the bridge, by the kernel's names.
const OWN_PARAMETERS: [(&str, &str); 5] = [
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("rp_filter", "1"),
    ("route_localnet", "1"),
];

/// The same of IPv6, which Pods do not have: the node takes no router and no address from them.
const BRIDGE_PARAMETERS_OF_IPV6: [(&str, &str); 3] =
    [("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "1")];

/// The name of a link of this node, other than the instance's own bridge, that has an address in
/// the range: the range is another's. Asked before the first start with a default range.
pub fn range_taken(subnet: Subnet, instance: &str) -> Result<Option<String>, Error> {
    let failed = |e: sys::Error| Error::host("failed to list the node's addresses", e);
    let links = Link::open().map_err(failed)?;
    let own = Layout::new(Path::new(""), instance).bridge();
    let names = links.list().map_err(failed)?;
    let name_of = |index: u32| names.iter().find(|l| l.index == index).map(|l| l.name.clone());
    let taken =
        links.addresses().map_err(failed)?.into_iter().filter_map(|(index, address, _)| match address {
            IpAddr::V4(v4) if subnet.contains(v4) => name_of(index),
            _ => None,
        });
    Ok(taken.into_iter().find(|name| *name != own))
}

/// What the node's network has because of us.
#[derive(Debug)]
pub(crate) struct Bridge {
    table: Table,
    /// What `NODE_PARAMETERS` were before the first instance of this host came. The host's, as the
    /// parameters are: the last instance to go sets them back, whichever it is. Lost with the parameters
    /// themselves when the host starts anew.
    before: PathBuf,
}

impl Bridge {
    /// `run` is the host's directory for what must be known to undo it all.
    pub(crate) fn new(table: Table, run: &Path) -> Self {
        Bridge { table, before: run.join("monopod-network.json") }
    }

    pub(crate) fn link_name(&self) -> &str {
        &self.table.bridge
    }

    /// Makes what is missing: the bridge with the gateway's address, the parameters. Cheap when
    /// all is there. Blocks.
    pub(crate) fn ensure(&self) -> Result<(), Error> {
        let failed = |e: sys::Error| Error::host(format!("failed to set up bridge {}", self.link_name()), e);
        let links = Link::open().map_err(failed)?;
        let index = links.make_bridge(self.link_name()).map_err(failed)?;
        links.set_ipv4(index, &BRIDGE_PARAMETERS).map_err(failed)?;
        self.refuse_ipv6().map_err(failed)?;
        // A bridge takes the lowest address of its ports and changes it with them, which would
        // leave every Pod with a stale neighbour: it gets one of its own, made from its name.
        links.set_mac(index, mac_of(self.table.pods.gateway().into())).map_err(failed)?;
        let gateway = IpAddr::V4(self.table.pods.gateway());
        links.add_address(index, gateway, self.table.pods.prefix()).map_err(failed)?;
        links.set_up(index).map_err(failed)?;
        self.set_parameters()
    }

    /// What of the bridge and of the kernel's parameters is not as [`Bridge::ensure`] makes it.
    pub(super) fn wrong(&self, links: &Link) -> sys::Result<Vec<String>> {
        let name = self.link_name();
        let found = match links.find(name) {
            Ok(found) => found,
            Err(sys::Error { errno: sys::Errno::NODEV, .. }) => {
                return Ok(vec![format!("the bridge {name}")]);
            }
            Err(error) => return Err(error),
        };
        let (gateway, prefix) = (IpAddr::V4(self.table.pods.gateway()), self.table.pods.prefix());
        let mut wrong = Vec::new();
        if !found.up || found.mac != mac_of(gateway) {
            wrong.push(format!("the bridge {name}, which was down or had another address of its own"));
        }
        if !super::audit::has_address(links, found.index, gateway, prefix)? {
            wrong.push(format!("the address {gateway}/{prefix} of {name}"));
        }
        let own =
            OWN_PARAMETERS.map(|(parameter, value)| (format!("net/ipv4/conf/{name}/{parameter}"), value));
        let node = NODE_PARAMETERS.map(|(parameter, value)| (parameter.to_owned(), value));
        for (parameter, value) in own.into_iter().chain(node) {
            let now = sys::sysctl::get(&parameter)?;
            if now != value {
                wrong.push(format!("the kernel parameter {parameter}, which was {now}"));
            }
        }
        Ok(wrong)
    }

    /// Gives the addresses of Services a route, for the node's own programs: the kernel asks for one
    /// before the rules of Services lead a packet to a Pod, and a node without a way out has none.
    /// It goes with the bridge.
    pub(crate) fn route_services(&self, services: Subnet) -> Result<(), Error> {
        let failed = |e: sys::Error| Error::host("failed to make a route to Services", e);
        let links = Link::open().map_err(failed)?;
        let link = links.find(self.link_name()).map_err(failed)?.index;
        let to = Some((IpAddr::V4(services.network()), services.prefix()));
        links.add_route(&Route { to, via: None, link }).map_err(failed)
    }

    /// A node without IPv6 has no such parameters.
    fn refuse_ipv6(&self) -> sys::Result<()> {
        for (name, value) in BRIDGE_PARAMETERS_OF_IPV6 {
            match sys::sysctl::set(&format!("net/ipv6/conf/{}/{name}", self.link_name()), value) {
                Ok(()) | Err(sys::Error { errno: sys::Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forgets where a Pod was. Who asks for it then learns that it is gone, instead of nothing.
    pub(crate) fn forget(&self, address: IpAddr) -> sys::Result<()> {
        let links = Link::open()?;
        links.remove_neighbour(links.find(self.link_name())?.index, address)
    }

    /// Forgets all Pods but these: of others a killed daemon may have left word.
    pub(crate) fn forget_all_but(&self, kept: &[IpAddr]) -> sys::Result<()> {
        let links = Link::open()?;
        let index = links.find(self.link_name())?.index;
        let known = links.neighbours(index)?;
        let mut gone = known.into_iter().filter(|address| !kept.contains(address));
        gone.try_for_each(|address| links.remove_neighbour(index, address))
    }

    fn set_parameters(&self) -> Result<(), Error> {
        let mut before = Vec::new();
        for (name, value) in NODE_PARAMETERS {
            let failed = |e: sys::Error| Error::host(format!("failed to set {name}"), e);
            let was = sys::sysctl::get(name).map_err(failed)?;
            if was != value {
                sys::sysctl::set(name, value).map_err(failed)?;
                before.push((name.to_owned(), was));
            }
        }
        if !before.is_empty() {
            let text = serde_json::to_vec(&before).unwrap_or_default();
            std::fs::write(&self.before, text)
                .map_err(|e| Error::host(format!("failed to write {}", self.before.display()), e))?;
        }
        // Host ports on 127.0.0.1 leave by the bridge; the table's guard closes what this opens.
        let name = format!("net.ipv4.conf.{}.route_localnet", self.link_name());
        sys::sysctl::set(&name, "1").map_err(|e| Error::host(format!("failed to set {name}"), e))
    }

    /// Replaces the tables. Blocks for the run of `nft`. A kernel may have no nftables for bridges: the Pods
    /// have a network all the same, and the log says what they can do in it.
    pub(crate) fn program(&self, ports: &[HostPorts]) -> Result<(), Error> {
        let script = ruleset(&self.table, ports);
        let Err(refused) = nft(&(senders(&self.table) + &script)) else { return Ok(()) };
        nft(&script)
            .map_err(|e| Error::host(format!("failed to program nftables table {}", self.table.name), e))?;
        tracing::warn!(error = %refused, "Pods with NET_RAW can send with the addresses of others");
        Ok(())
    }

    /// Removes all of it and names what was removed. Blocks.
    pub(crate) fn remove(&self) -> Vec<String> {
        let mut removed = Vec::new();
        let removes =
            |links: Link| links.find(self.link_name()).is_ok() && links.remove(self.link_name()).is_ok();
        if Link::open().is_ok_and(removes) {
            removed.push(format!("bridge {}", self.link_name()));
        }
        let deleted =
            ["ip", "bridge"].map(|family| nft(&format!("delete table {family} {}\n", self.table.name)));
        if deleted.iter().any(Result::is_ok) {
            removed.push(format!("nftables table {}", self.table.name));
        }
        removed.extend(self.restore_parameters());
        removed
    }

    fn restore_parameters(&self) -> Vec<String> {
        let others = |links: Vec<sys::netlink::LinkInfo>| links.iter().any(|l| is_bridge(&l.name));
        // Our own is gone by now. Not to know who is here is reason enough to leave the others their network.
        if Link::open().and_then(|links| links.list()).map_or(true, others) {
            return Vec::new();
        }
        let Ok(text) = std::fs::read(&self.before) else { return Vec::new() };
        let before: Vec<(String, String)> = serde_json::from_slice(&text).unwrap_or_default();
        let restored = before
            .into_iter()
            .filter(|(name, value)| sys::sysctl::set(name, value).is_ok())
            .map(|(name, value)| format!("kernel parameter {name} set back to {value}"))
            .collect();
        if let Err(error) = std::fs::remove_file(&self.before) {
            tracing::warn!(path = %self.before.display(), %error, "cannot forget old kernel parameters");
        }
        restored
    }
}

fn nft(script: &str) -> Result<(), sys::command::CommandError> {
    sys::command::run("nft", &["-f", "-"], script.as_bytes()).map(drop)
}

/// Whether a link is the bridge of an instance, by its name: `mp` and eight digits.
fn is_bridge(link: &str) -> bool {
    link.strip_prefix("mp").is_some_and(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::is_bridge;

    #[test]
    fn bridges_of_instances_are_told_by_their_names() {
        assert!(is_bridge("mp0fc7d125"));
        for other in ["mp", "mpls0", "mp0fc7d12", "mp0fc7d1255", "mpeth0abc", "v0fc7d125a"] {
            assert!(!is_bridge(other), "{other}");
        }
    }
}
