//! What makes two instances on one machine never touch each other.
//!
//! Everything an instance owns is named after its data directory: eight
//! hexadecimal digits of the path's SHA-256. Ports and address ranges that were
//! not asked for by name are the first free ones, and stay the same afterwards.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The eight digits that name an instance.
pub(crate) fn id(data_dir: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, data_dir.as_os_str().as_encoded_bytes());
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data directory as everybody spells it: absolute, links resolved once it exists.
pub(crate) fn canonical(data_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    // What is gone, or not yet there, has the name that it had, or will have.
    let found = absolute.ancestors().find_map(|there| Some((there, fs::canonicalize(there).ok()?)));
    let rest = found.as_ref().and_then(|(there, _)| absolute.strip_prefix(there).ok());
    match (&found, rest) {
        (Some((_, place)), Some(rest)) if rest.as_os_str().is_empty() => place.clone(),
        (Some((_, place)), Some(rest)) => place.join(rest),
        _ => absolute,
    }
}

/// An IPv4 range in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    /// The nth address of the range.
    pub(crate) fn address(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + n)
    }

    /// The length of the prefix.
    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    /// A range that Pods or Services can have.
    fn checked(self) -> Result<Self> {
        ensure!((8..=28).contains(&self.bits), "{self}: the prefix length must be from 8 to 28");
        let network = Cidr { base: self.base & mask(self.bits), bits: self.bits };
        ensure!(self == network, "{self} has bits set behind the prefix; did you mean {network}?");
        let wrong = NOBODYS.into_iter().find(|(nobodys, _)| nobodys.overlaps(self));
        wrong.map_or(Ok(self), |(nobodys, what)| bail!("{self}: {nobodys} is for {what} and for no host"))
    }

    fn overlaps(self, other: Cidr) -> bool {
        let mask = mask(self.bits.min(other.bits));
        self.base & mask == other.base & mask
    }
}

fn mask(bits: u8) -> u32 {
    // By all of its bits a number is not shifted.
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.contains(','), "{text}: one range is needed, for {ONE_FAMILY}");
        let (address, bits) = text
            .split_once('/')
            .with_context(|| format!("{text:?} is not an IPv4 range like 10.42.0.0/16"))?;
        let base = match address.parse() {
            Ok(IpAddr::V4(address)) => u32::from(address),
            Ok(IpAddr::V6(_)) => bail!("{text}: an IPv4 range like 10.42.0.0/16 is needed, for {ONE_FAMILY}"),
            Err(_) => bail!("{address:?} is not an IPv4 address"),
        };
        let bits: u8 = bits.parse().with_context(|| format!("{bits:?} is not a prefix length"))?;
        Cidr { base, bits }.checked()
    }
}

/// Why there is no second range.
const ONE_FAMILY: &str = "Pods and Services have addresses of IPv4 alone";

/// What no host may have an address of (RFC 6890): the kernel would take the range, and packets would not come.
const NOBODYS: [(Cidr, &str); 5] = [
    (Cidr { base: 0, bits: 8 }, "hosts that do not know their address"),
    (Cidr { base: 127 << 24, bits: 8 }, "loopback"),
    (Cidr { base: 169 << 24 | 254 << 16, bits: 16 }, "link-local addresses"),
    (Cidr { base: 224 << 24, bits: 4 }, "multicast"),
    (Cidr { base: 240 << 24, bits: 4 }, "future use"),
];

impl TryFrom<String> for Cidr {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// The ranges of an instance, chosen once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranges {
    pub(crate) pods: Cidr,
    pub(crate) services: Cidr,
    /// How long the prefix of the node's part is; what an instance of an earlier release wrote has none.
    #[serde(default = "node_bits")]
    node_bits: u8,
}

/// As upstream cuts ranges for nodes.
fn node_bits() -> u8 {
    24
}

impl Ranges {
    /// The pair that is tried first.
    pub(crate) fn first() -> Self {
        Self::pair(42)
    }

    fn pair(second: u32) -> Self {
        Ranges {
            pods: Cidr { base: 10 << 24 | second << 16, bits: 16 },
            services: Cidr { base: 10 << 24 | (second + 1) << 16, bits: 16 },
            node_bits: node_bits(),
        }
    }

    /// The part of the Pods' range that is this node's: the first /24, or as much as its Pods need.
    pub(crate) fn node(&self) -> Cidr {
        Cidr { base: self.pods.base, bits: self.pods.bits.max(self.node_bits) }
    }

    /// Makes room for so many Pods, and as many that come while others go. The part never shrinks again:
    /// Pods of the last start may live in all of it.
    fn hold(&mut self, pods: u32) -> Result<()> {
        let addresses = (pods.saturating_mul(2)).next_power_of_two();
        self.node_bits = self.node_bits.min(addresses.leading_zeros() as u8 + 1);
        let node = self.node();
        let room = (1_u32 << (32 - u32::from(node.bits))) - ADDRESSES_TAKEN;
        ensure!(room >= pods, "the Pod range {} has {room} addresses for --max-pods {pods}", self.pods);
        Ok(())
    }

    /// Refuses to leave the node's part of before while its bridge is there: the routes of Pods that live, and
    /// their gateway's address, would go with it.
    fn keep(&self, before: &Ranges) -> Result<()> {
        let (here, there) = (before.node(), self.node());
        ensure!(
            there.bits <= here.bits && there.overlaps(here),
            "Pods of the last start may live in {here}: run `monopod down` before they move to {there}"
        );
        Ok(())
    }
}

/// The network's own address, the gateway's and the broadcast one.
const ADDRESSES_TAKEN: u32 = 3;

/// The ranges asked for, those of the last start, or the first free pair from 10.42/10.43 upward; with room
/// for as many Pods of this node as were asked for.
pub(crate) fn choose_ranges(
    state: &Path,
    pods: Option<Cidr>,
    services: Option<Cidr>,
    max_pods: Option<u32>,
) -> Result<Ranges> {
    let file = state.join("ranges.json");
    let before = ranges_of_before(&file)?;
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let bridge = format!("mp{}", id(state.parent().unwrap_or(state)));
    let free = still_free(before.as_ref(), &table, &bridge)?;
    let mut ranges =
        Ranges { pods: pods.unwrap_or(free.pods), services: services.unwrap_or(free.services), ..free };
    max_pods.map_or(Ok(()), |pods| ranges.hold(pods))?;
    before.as_ref().filter(|_| has_route(&table, &bridge)).map_or(Ok(()), |before| ranges.keep(before))?;
    let Ranges { pods, services, .. } = &ranges;
    ensure!(!pods.overlaps(*services), "Pod range {pods} and Service range {services} overlap");
    if before.as_ref() != Some(&ranges) {
        fs::write(&file, serde_json::to_vec(&ranges)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ranges)
}

/// The ranges that were chosen, if they were.
pub(crate) fn ranges(state: &Path) -> Result<Option<Ranges>> {
    ranges_of_before(&state.join("ranges.json"))
}

/// What the file says; `None` when there is none. One that says something else is not taken for none:
/// Services would get other addresses, and Pods that run be cut off.
fn ranges_of_before(file: &Path) -> Result<Option<Ranges>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err).with_context(|| format!("cannot read {}", file.display())),
    };
    let ranges = serde_json::from_slice(&bytes);
    ranges.map(Some).with_context(|| {
        format!(
            "{} is damaged; it holds the address ranges: take it from a backup, or remove it to have them \
             chosen anew",
            file.display()
        )
    })
}

/// The ranges of the last start; with another range for Pods when somebody has taken it since. While the
/// instance's bridge is there its Pods may live, and nothing changes. Services keep their addresses.
fn still_free(before: Option<&Ranges>, table: &str, bridge: &str) -> Result<Ranges> {
    let taken = routes(table);
    let Some(before) = before else { return first_free(&taken) };
    if has_route(table, bridge) || !taken.iter().any(|route| route.overlaps(before.pods)) {
        return Ok(before.clone());
    }
    let free = first_free(&[taken, vec![before.services]].concat())?;
    tracing::warn!(before = %before.pods, now = %free.pods, "the range of the Pods was taken by another meanwhile");
    Ok(Ranges { pods: free.pods, ..before.clone() })
}

/// Whether a link has a route: the instance's bridge does as long as it is there.
fn has_route(table: &str, link: &str) -> bool {
    table.lines().any(|line| line.split_whitespace().next() == Some(link))
}

/// Refuses a range that was asked for when a link of the host has an address in it: the host would lose
/// its way to all others there, the administrator's own perhaps among them.
pub(crate) fn refuse_range_of_host(flag: &str, range: Option<Cidr>, instance: &str) -> Result<()> {
    let Some(range) = range else { return Ok(()) };
    let link = runtime::range_taken(range.to_string().parse()?, instance)?;
    ensure!(link.is_none(), "{flag} {range}: {} of this host has an address in it", link.unwrap_or_default());
    Ok(())
}

fn first_free(taken: &[Cidr]) -> Result<Ranges> {
    let free = |range: &Cidr| !taken.iter().any(|route| route.overlaps(*range));
    let found =
        (42..252).step_by(2).map(Ranges::pair).find(|ranges| free(&ranges.pods) && free(&ranges.services));
    found.context("no free range for Pods in 10.0.0.0/8: give --pod-cidr and --service-cidr")
}

/// Destinations of the kernel's routing table (proc(5), net/route: hexadecimal, little-endian); the default route is none.
fn routes(table: &str) -> Vec<Cidr> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let destination = u32::from_str_radix(fields.next()?, 16).ok()?.swap_bytes();
        let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?.swap_bytes();
        (mask != 0).then_some(Cidr { base: destination, bits: mask.leading_ones() as u8 })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// The lock that says "this instance runs", with the process id in it.
#[derive(Debug)]
pub(crate) struct Running(#[allow(dead_code, reason = "held for its lock")] File);

/// The file of the lock, in `state`.
pub(crate) const LOCK: &str = "monopod.pid";

/// Takes the instance's lock, or says who has it.
pub(crate) fn lock(state: &Path) -> Result<Running> {
    let path = state.join(LOCK);
    let mut file = open_lock(&path)?;
    if !try_lock(&file)? {
        let mut pid = String::new();
        file.read_to_string(&mut pid)?;
        let pid = running(state).map_or_else(|| pid.trim().to_owned(), |pid| pid.to_string());
        bail!("{} is in use by another monopod (process {pid})", state.parent().unwrap_or(state).display());
    }
    // Not before: who asks in vain reads whose it is.
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Running(file))
}

/// The process that runs this instance, if one does. Only looks.
pub(crate) fn running(state: &Path) -> Option<u32> {
    crate::processes::daemon(state).map(|process| process.pid)
}

fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn try_lock(file: &File) -> Result<bool> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(err) => Err(err).context("cannot lock the instance"),
    }
}

/// Held from the choice of ranges until the bridge shows them in the kernel's routes: two instances
/// that start at once would otherwise both find the same range free. The kernel lets go of it with
/// the process, whatever happens.
#[derive(Debug)]
pub(crate) struct Choosing(#[allow(dead_code, reason = "held for its lock")] File);

/// Waits for those who are choosing just now.
pub(crate) fn choosing(lock: &Path) -> Result<Choosing> {
    let file = open_lock(lock)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", lock.display()))?;
    Ok(Choosing(file))
}

/// Refuses a command that needs root, saying what for.
pub(crate) fn need_root(command: &str, what_for: &str) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "`monopod {command}` needs root: {what_for}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_and_printed() {
        assert_eq!("10.42.0.0/16".parse::<Cidr>().expect("valid").to_string(), "10.42.0.0/16");
        assert_eq!("10.42.0.0/16".parse::<Cidr>().expect("valid").address(1).to_string(), "10.42.0.1");
        for wrong in ["10.42.0.0", "10.42.0.1/16", "10.42.0.0/33", "a/8"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_that_can_be_nobodys_is_refused_with_the_reason() {
        let said = |text: &str| text.parse::<Cidr>().expect_err("refused").to_string();
        let family = "Pods and Services have addresses of IPv4 alone";
        assert_eq!(
            said("fd00::/64"),
            format!("fd00::/64: an IPv4 range like 10.42.0.0/16 is needed, for {family}")
        );
        let two = "10.42.0.0/16,fd00::/64";
        assert_eq!(said(two), format!("{two}: one range is needed, for {family}"));
        assert_eq!(said("127.8.0.0/16"), "127.8.0.0/16: 127.0.0.0/8 is for loopback and for no host");
        assert_eq!(
            said("169.0.0.0/8"),
            "169.0.0.0/8: 169.254.0.0/16 is for link-local addresses and for no host"
        );
        assert_eq!(said("239.1.0.0/16"), "239.1.0.0/16: 224.0.0.0/4 is for multicast and for no host");
        assert!(said("0.0.0.0/8").contains("do not know their address"));
        assert!(said("255.255.255.0/24").contains("future use"));
    }

    #[test]
    fn a_taken_range_is_passed_over() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nb\t00002A0A\t0\t1\t0\t0\t0\t0000FFFF\n";
        let ranges = first_free(&routes(table)).expect("one is free");
        assert_eq!(
            (ranges.pods.to_string(), ranges.services.to_string()),
            ("10.44.0.0/16".into(), "10.45.0.0/16".into())
        );
    }

    #[test]
    fn a_range_that_was_taken_meanwhile_is_left_to_its_new_owner() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nmp1\t00002A0A\t0\t1\t0\t0\t0\t0000FFFF\n";
        let before = first_free(&[]).expect("all are free");
        assert_eq!(
            still_free(Some(&before), table, "mp1").expect("ours"),
            before,
            "our own route is no other's"
        );
        let now = still_free(Some(&before), table, "mp2").expect("one is free");
        assert_eq!(now.services, before.services, "Services keep their addresses");
        assert!(!now.pods.overlaps(before.pods) && !now.pods.overlaps(now.services));
    }

    #[test]
    fn ranges_stay_the_same_after_the_first_start() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let first = choose_ranges(state.path(), Some("10.9.0.0/16".parse().expect("valid")), None, None)
            .expect("chosen");
        assert_eq!(choose_ranges(state.path(), None, None, None).expect("read"), first);
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_none() {
        let state = tempfile::tempdir().expect("a temporary directory");
        for content in ["", "{\"pods\":\"10.9.0.0/16\"", "{}"] {
            fs::write(state.path().join("ranges.json"), content).expect("written");
            let refused = choose_ranges(state.path(), None, None, None).expect_err("damaged").to_string();
            assert!(refused.contains("ranges.json is damaged"), "{refused}");
        }
    }

    #[test]
    fn a_directory_that_is_gone_has_the_name_that_it_had() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (real, link) = (place.path().join("real"), place.path().join("link"));
        fs::create_dir_all(real.join("data")).expect("made");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        let before = canonical(&link.join("data"));
        fs::remove_dir(real.join("data")).expect("removed");
        assert_eq!(canonical(&link.join("data")), before);
    }

    #[test]
    fn the_part_of_the_node_has_room_for_its_pods_and_never_shrinks() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let node = |pods: Option<&str>, most: Option<u32>| {
            let pods = pods.map(|pods| pods.parse().expect("valid"));
            choose_ranges(state.path(), pods, None, most).map(|ranges| ranges.node().to_string())
        };
        assert_eq!(node(Some("10.9.0.0/16"), None).expect("chosen"), "10.9.0.0/24");
        assert_eq!(node(None, Some(110)).expect("chosen"), "10.9.0.0/24");
        assert_eq!(node(None, Some(1000)).expect("chosen"), "10.9.0.0/21");
        assert_eq!(node(None, Some(10)).expect("chosen"), "10.9.0.0/21", "Pods may live in it");
        let small = node(Some("10.9.0.0/28"), Some(14)).expect_err("too small").to_string();
        assert_eq!(small, "the Pod range 10.9.0.0/28 has 13 addresses for --max-pods 14");
    }

    #[test]
    fn only_one_instance_chooses_at_a_time() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let lock = state.path().join("choosing");
        let first = choosing(&lock).expect("free");
        assert!(!try_lock(&open_lock(&lock).expect("opened")).expect("asked"), "the second has to wait");
        drop(first);
        choosing(&lock).expect("free again");
    }

    #[test]
    fn a_second_lock_names_the_first_process() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let held = lock(state.path()).expect("free");
        let err = lock(state.path()).expect_err("taken").to_string();
        assert!(err.contains(&std::process::id().to_string()), "{err}");
        drop(held);
        lock(state.path()).expect("free again");
    }
}
