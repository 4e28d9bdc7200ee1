//! Addresses of the node's Pod range.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// Number of the first address that a Pod may have: after the network's own and the gateway's.
const FIRST_HOST: u32 = 2;

/// An IPv4 network: `10.42.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// A text is not a network that Pods can live in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0} (an IPv4 network with a prefix from /8 to /29 is needed)")]
pub struct SubnetError(String);

impl Subnet {
    /// The first address, that of the network.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bridge's address: the first after the network's.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Whether the address is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// All that a Pod may have.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, count) = (u32::from(self.network) + FIRST_HOST, self.hosts());
        (first..first + count).map(Ipv4Addr::from)
    }

    /// How many Pods have room: all but the network's own address, the gateway's and the broadcast one.
    fn hosts(&self) -> u32 {
        (1 << (32 - u32::from(self.prefix))) - 3
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let bad = || SubnetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(8..=29).contains(&prefix) {
            return Err(bad());
        }
        let mut subnet = Subnet { network: address, prefix };
        subnet.network = Ipv4Addr::from(u32::from(address) & subnet.mask());
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// Which addresses are taken. The truth is in the sandboxes' files; this is the sum of them.
#[derive(Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    /// Where the search begins: behind the address given last, so that an address rests as long
    /// as possible. Peers and conntrack may still think of the Pod that had it.
    next: u32,
}

impl Addresses {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Addresses { subnet, taken: Mutex::default() }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Takes a free address; `None` when there is none.
    pub(crate) fn take(&self) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.subnet.hosts();
        let (n, address) = (0..count)
            .map(|n| (taken.next + n) % count)
            .map(|n| (n, Ipv4Addr::from(u32::from(self.subnet.network) + FIRST_HOST + n)))
            .find(|(_, address)| !taken.addresses.contains(address))?;
        taken.next = n + 1;
        taken.addresses.insert(address);
        Some(address)
    }

    /// Notes an address that a sandbox found on disk has.
    pub(crate) fn note(&self, address: Ipv4Addr) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.addresses.insert(address);
        if self.subnet.contains(address) {
            let after = (u32::from(address) - u32::from(self.subnet.network) + 1).saturating_sub(FIRST_HOST);
            taken.next = taken.next.max(after);
        }
    }

    /// Gives an address back.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).addresses.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_with_its_first_address() {
        let subnet: Subnet = "10.42.7.9/24".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.42.7.0/24");
        assert_eq!(subnet.gateway().to_string(), "10.42.7.1");
        for bad in ["", "10.42.0.0", "10.42.0.0/33", "10.42.0.0/30", "fd00::/64", "10.42.0.0/x"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_address_is_given_once_and_the_freed_one_last() {
        let addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        let all: Vec<String> = std::iter::from_fn(|| addresses.take()).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        addresses.release("10.0.0.3".parse().unwrap());
        assert_eq!(addresses.take().unwrap().to_string(), "10.0.0.3");
        assert_eq!(addresses.take(), None);
    }

    #[test]
    fn a_freed_address_rests_while_others_are_free() {
        let addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        let first = addresses.take().unwrap();
        addresses.release(first);
        assert_ne!(addresses.take(), Some(first));
    }

    #[test]
    fn an_address_found_on_disk_is_not_given_again() {
        let addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        addresses.note("10.0.0.2".parse().unwrap());
        addresses.note("192.168.0.1".parse().unwrap());
        assert_eq!(addresses.take().unwrap().to_string(), "10.0.0.3");
    }
}
