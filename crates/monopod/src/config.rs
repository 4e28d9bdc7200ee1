//! The settings of `up`: flags, then the configuration file, then defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use api::quantity::Quantity;
use clap::Args;
use node::eviction::ImageCollection;
use node::eviction::threshold::Eviction;
use serde::Deserialize;

use crate::cli::DEFAULT_DATA_DIR;
use crate::instance::Cidr;
use crate::logging::Format;

mod pressure;

use pressure::Pairs;

/// As many as a kubelet takes.
pub(crate) const MAX_PODS: u32 = 110;
/// A bridge of the kernel has 1024 ports (`BR_MAX_PORTS`), and a Pod that goes holds its own for a moment.
const MAX_PODS_MOST: u32 = 1000;

/// Flags of `up`; the same names are the keys of `--config FILE`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct UpFlags {
    /// YAML file with the same keys as these flags; flags win
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Data directory; it names the instance [default: /var/lib/monopod]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address of the API [default: 127.0.0.1:6443, or the next free port]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where to write the administrator's kubeconfig [default: DATA-DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Another name or address that the API is reached by, for its certificate (may be repeated)
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    tls_san: Vec<String>,
    /// Name of the node [default: the host's name]
    #[arg(long)]
    node_name: Option<String>,
    /// Addresses of Pods [default: 10.42.0.0/16, or the next free range]
    #[arg(long)]
    pod_cidr: Option<Cidr>,
    /// Addresses of Services [default: 10.43.0.0/16, or the next free range]
    #[arg(long)]
    service_cidr: Option<Cidr>,
    /// Where Ingresses are served over HTTP: ADDRESS:PORT or off [default: 0.0.0.0:80 while there is one]
    #[arg(long, value_name = "ADDRESS:PORT")]
    ingress_http: Option<Door>,
    /// Where Ingresses are served over HTTPS: ADDRESS:PORT or off [default: 0.0.0.0:443 while there is one]
    #[arg(long, value_name = "ADDRESS:PORT")]
    ingress_https: Option<Door>,
    /// How many Pods the node takes, 1000 at most [default: 110]
    #[arg(long, value_name = "NUMBER")]
    max_pods: Option<u32>,
    /// Sysctls beyond the safe ones that Pods may set, NAME or PREFIX* (separated by commas, or repeated)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[serde(default)]
    allowed_unsafe_sysctls: Vec<String>,
    /// Whether a container without a seccomp profile has RuntimeDefault, and not Unconfined [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    seccomp_default: Option<bool>,
    /// Directory with manifests of static Pods, which run without the API [default: none]
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Where objects are kept; only "embedded" is supported
    #[arg(long)]
    store: Option<String>,
    /// Where to ask instead of a registry: NAME=URL (may be repeated)
    #[arg(long, value_name = "NAME=URL")]
    #[serde(default)]
    registry_mirror: Vec<String>,
    /// Registry to speak plain HTTP with (may be repeated); loopback always is
    #[arg(long, value_name = "HOST")]
    #[serde(default)]
    insecure_registry: Vec<String>,
    /// What Pods cannot have, for the system: cpu=500m,memory=1Gi,ephemeral-storage=2Gi,pid=1000
    #[arg(long, value_name = "RESOURCE=AMOUNT,…")]
    system_reserved: Option<Pairs<'='>>,
    /// The same for this program
    #[arg(long, value_name = "RESOURCE=AMOUNT,…")]
    kube_reserved: Option<Pairs<'='>>,
    /// The most processes of a Pod [default: three quarters of what all Pods can have]
    #[arg(long, value_name = "NUMBER")]
    pod_max_pids: Option<i64>,
    /// Evict Pods at once with less than this, as memory.available<100Mi,nodefs.available<10%; replaces the
    /// kubelet's defaults
    #[arg(long, value_name = "SIGNAL<VALUE,…>")]
    eviction_hard: Option<Pairs<'<'>>,
    /// Evict Pods with less than this for a while
    #[arg(long, value_name = "SIGNAL<VALUE,…>")]
    eviction_soft: Option<Pairs<'<'>>,
    /// How long a soft threshold may be crossed: memory.available=1m30s
    #[arg(long, value_name = "SIGNAL=DURATION,…")]
    eviction_soft_grace_period: Option<Pairs<'='>>,
    /// How much more is to be free when something had to be reclaimed: imagefs.available=2Gi
    #[arg(long, value_name = "SIGNAL=VALUE,…")]
    eviction_minimum_reclaim: Option<Pairs<'='>>,
    /// How long a pressure of the node outlasts its cause [default: 5m0s]
    #[arg(long, value_name = "DURATION")]
    eviction_pressure_transition_period: Option<String>,
    /// Seconds that a Pod is granted at most at a soft threshold [default: 0]
    #[arg(long, value_name = "SECONDS")]
    eviction_max_pod_grace_period: Option<i64>,
    /// Remove unused images when their disk is so full, in percent [default: 85]
    #[arg(long, value_name = "PERCENT")]
    image_gc_high_threshold: Option<u8>,
    /// Until it is so full [default: 80]
    #[arg(long, value_name = "PERCENT")]
    image_gc_low_threshold: Option<u8>,
    /// No unused image that came later than this long ago [default: 2m0s]
    #[arg(long, value_name = "DURATION")]
    minimum_image_ttl_duration: Option<String>,
    /// Pull one image after the other [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    serialize_image_pulls: Option<bool>,
    /// How many images are pulled at the same time [default: 4]
    #[arg(long, value_name = "NUMBER")]
    max_parallel_image_pulls: Option<usize>,
    /// Where to write who asked the API for what; nowhere by default
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Which requests are written there: an audit.k8s.io/v1 Policy [default: all, at level Metadata]
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// A file of the audit log is renamed when it would grow beyond this, MiB [default: 100]
    #[arg(long, value_name = "MIB")]
    audit_log_maxsize: Option<u32>,
    /// How many renamed files are kept [default: 5]
    #[arg(long, value_name = "NUMBER")]
    audit_log_maxbackup: Option<u32>,
    /// How much to log: error, warn, info, debug, trace
    #[arg(long)]
    log_level: Option<tracing_level::Level>,
    /// How to log: text, json
    #[arg(long)]
    log_format: Option<Format>,
}

/// What `up` runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    /// `None`: the default port or the next free one.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) tls_san: Vec<String>,
    pub(crate) node_name: String,
    /// `None`: the default range or the next free one.
    pub(crate) pod_cidr: Option<Cidr>,
    pub(crate) service_cidr: Option<Cidr>,
    /// `None`: switched off.
    pub(crate) ingress_http: Option<SocketAddr>,
    /// `None`: switched off.
    pub(crate) ingress_https: Option<SocketAddr>,
    /// `None`: [`MAX_PODS`].
    pub(crate) max_pods: Option<u32>,
    pub(crate) allowed_sysctls: Vec<String>,
    pub(crate) seccomp_default: bool,
    /// `None`: there are no static Pods.
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) registry_mirrors: Vec<(String, String)>,
    pub(crate) insecure_registries: Vec<String>,
    /// Images pulled at the same time.
    pub(crate) pulls_at_once: usize,
    /// `None`: the runtime's own.
    pub(crate) pod_max_pids: Option<i64>,
    /// What no Pod can have.
    pub(crate) reserved: BTreeMap<String, Quantity>,
    pub(crate) eviction: Eviction,
    pub(crate) images: ImageCollection,
    pub(crate) audit: Option<AuditSettings>,
    pub(crate) log_level: tracing::Level,
    pub(crate) log_format: Format,
}

/// Where the audit log is.
#[derive(Debug)]
pub(crate) struct AuditSettings {
    pub(crate) path: PathBuf,
    pub(crate) policy: server::Policy,
    pub(crate) rotation: server::Rotation,
}

impl AuditSettings {
    /// None when no file was named.
    fn of(flags: &UpFlags) -> Result<Option<Self>> {
        let Some(path) = flags.audit_log_path.clone() else { return Ok(None) };
        let policy = match &flags.audit_policy_file {
            None => server::Policy::all(),
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                server::Policy::parse(&text)
                    .with_context(|| format!("--audit-policy-file {}", file.display()))?
            }
        };
        let rotation = server::Rotation {
            max_bytes: u64::from(flags.audit_log_maxsize.unwrap_or(100).max(1)) << 20,
            max_backups: usize::try_from(flags.audit_log_maxbackup.unwrap_or(5))?,
        };
        Ok(Some(AuditSettings { path: absolute(path)?, policy, rotation }))
    }
}

impl Settings {
    /// Reads the file that the flags name and fills in defaults.
    pub(crate) fn resolve(flags: Box<UpFlags>) -> Result<Self> {
        let file = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let merged = merge(*flags, file);
        if let Some(store) = merged.store.as_deref().filter(|store| *store != "embedded") {
            bail!("--store {store}: only the embedded store is supported");
        }
        let (eviction, images, reserved) = (merged.eviction()?, merged.images()?, merged.reserved()?);
        let audit = AuditSettings::of(&merged)?;
        let data_dir = absolute(merged.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()))?;
        // A host's name may have capitals, a Node's may not.
        let node_name = merged.node_name.map_or_else(host_name, Ok)?.to_lowercase();
        ensure!(
            is_dns_subdomain(&node_name),
            "--node-name {node_name:?}: a lowercase RFC 1123 subdomain is needed"
        );
        merged.tls_san.iter().try_for_each(|name| crate::names::check(name))?;
        Ok(Settings {
            pulls_at_once: pulls_at_once(merged.serialize_image_pulls, merged.max_parallel_image_pulls)?,
            reserved,
            // The kubelet's word for no limit of its own.
            pod_max_pids: merged.pod_max_pids.filter(|pids| *pids > 0),
            eviction,
            images,
            tls_san: merged.tls_san,
            listen: merged.listen,
            kubeconfig: merged.kubeconfig.map_or_else(|| Ok(data_dir.join("kubeconfig")), absolute)?,
            node_name,
            pod_cidr: merged.pod_cidr,
            service_cidr: merged.service_cidr,
            ingress_http: merged.ingress_http.unwrap_or(Door::everywhere(80)).0,
            ingress_https: merged.ingress_https.unwrap_or(Door::everywhere(443)).0,
            max_pods: merged.max_pods.map(max_pods).transpose()?,
            allowed_sysctls: node::allowed_sysctls(&merged.allowed_unsafe_sysctls)
                .map_err(|why| anyhow!("--allowed-unsafe-sysctls: {why}"))?,
            seccomp_default: merged.seccomp_default.unwrap_or(true),
            manifests: merged.manifests.map(absolute).transpose()?,
            registry_mirrors: mirrors(&merged.registry_mirror)?,
            insecure_registries: merged.insecure_registry,
            audit,
            log_level: merged.log_level.unwrap_or_default().into(),
            log_format: merged.log_format.unwrap_or_default(),
            data_dir,
        })
    }
}

/// Where to listen, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Door(Option<SocketAddr>);

impl Door {
    fn everywhere(port: u16) -> Self {
        Door(Some(SocketAddr::from(([0; 4], port))))
    }
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Door(None)),
            text => text.parse().map(|at| Door(Some(at))).map_err(|_| "ADDRESS:PORT or off is needed".into()),
        }
    }
}

impl TryFrom<String> for Door {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

fn max_pods(pods: u32) -> Result<u32> {
    ensure!((1..=MAX_PODS_MOST).contains(&pods), "--max-pods {pods}: from 1 to {MAX_PODS_MOST} are possible");
    Ok(pods)
}

/// Upstream's rule of the two flags; four at once unless told otherwise.
fn pulls_at_once(serialize: Option<bool>, most: Option<usize>) -> Result<usize> {
    ensure!(most != Some(0), "--max-parallel-image-pulls 0: at least one image must be pulled at a time");
    if serialize == Some(true) {
        ensure!(
            most.is_none_or(|most| most == 1),
            "--max-parallel-image-pulls cannot be larger than 1 with --serialize-image-pulls"
        );
        return Ok(1);
    }
    Ok(most.unwrap_or(4))
}

/// `NAME=URL` pairs.
pub(crate) fn mirrors(words: &[String]) -> Result<Vec<(String, String)>> {
    let split = |word: &String| {
        let pair = word.split_once('=').filter(|(name, url)| !name.is_empty() && url.starts_with("http"));
        let (name, url) = pair.with_context(|| format!("registry mirror {word:?}: NAME=URL is needed"))?;
        Ok((name.to_owned(), url.to_owned()))
    };
    words.iter().map(split).collect()
}

fn read(file: &Path) -> Result<UpFlags> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    // To YAML it is null, and no configuration.
    if text.trim().is_empty() {
        return Ok(UpFlags::default());
    }
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not a valid configuration", file.display()))
}

fn merge(flags: UpFlags, file: UpFlags) -> UpFlags {
    // Lists are taken whole from one place: flags that add to the file could never take away from it.
    let either = |flag: Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag };
    UpFlags {
        config: flags.config,
        data_dir: flags.data_dir.or(file.data_dir),
        listen: flags.listen.or(file.listen),
        kubeconfig: flags.kubeconfig.or(file.kubeconfig),
        tls_san: either(flags.tls_san, file.tls_san),
        node_name: flags.node_name.or(file.node_name),
        pod_cidr: flags.pod_cidr.or(file.pod_cidr),
        service_cidr: flags.service_cidr.or(file.service_cidr),
        ingress_http: flags.ingress_http.or(file.ingress_http),
        ingress_https: flags.ingress_https.or(file.ingress_https),
        max_pods: flags.max_pods.or(file.max_pods),
        allowed_unsafe_sysctls: either(flags.allowed_unsafe_sysctls, file.allowed_unsafe_sysctls),
        seccomp_default: flags.seccomp_default.or(file.seccomp_default),
        manifests: flags.manifests.or(file.manifests),
        store: flags.store.or(file.store),
        registry_mirror: either(flags.registry_mirror, file.registry_mirror),
        insecure_registry: either(flags.insecure_registry, file.insecure_registry),
        system_reserved: flags.system_reserved.or(file.system_reserved),
        kube_reserved: flags.kube_reserved.or(file.kube_reserved),
        pod_max_pids: flags.pod_max_pids.or(file.pod_max_pids),
        eviction_hard: flags.eviction_hard.or(file.eviction_hard),
        eviction_soft: flags.eviction_soft.or(file.eviction_soft),
        eviction_soft_grace_period: flags.eviction_soft_grace_period.or(file.eviction_soft_grace_period),
        eviction_minimum_reclaim: flags.eviction_minimum_reclaim.or(file.eviction_minimum_reclaim),
        eviction_pressure_transition_period: flags
            .eviction_pressure_transition_period
            .or(file.eviction_pressure_transition_period),
        eviction_max_pod_grace_period: flags
            .eviction_max_pod_grace_period
            .or(file.eviction_max_pod_grace_period),
        image_gc_high_threshold: flags.image_gc_high_threshold.or(file.image_gc_high_threshold),
        image_gc_low_threshold: flags.image_gc_low_threshold.or(file.image_gc_low_threshold),
        minimum_image_ttl_duration: flags.minimum_image_ttl_duration.or(file.minimum_image_ttl_duration),
        serialize_image_pulls: flags.serialize_image_pulls.or(file.serialize_image_pulls),
        max_parallel_image_pulls: flags.max_parallel_image_pulls.or(file.max_parallel_image_pulls),
        audit_log_path: flags.audit_log_path.or(file.audit_log_path),
        audit_policy_file: flags.audit_policy_file.or(file.audit_policy_file),
        audit_log_maxsize: flags.audit_log_maxsize.or(file.audit_log_maxsize),
        audit_log_maxbackup: flags.audit_log_maxbackup.or(file.audit_log_maxbackup),
        log_level: flags.log_level.or(file.log_level),
        log_format: flags.log_format.or(file.log_format),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))
}

fn host_name() -> Result<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().context("the host's name is not UTF-8: give --node-name")?;
    Ok(name.to_owned())
}

/// RFC 1123: what a Node may be called.
/// Checked here and not when the Node is refused: by then half of the rooms are built.
fn is_dns_subdomain(name: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A log level that both the command line and the file can name.
mod tracing_level {
    use clap::ValueEnum;
    use serde::Deserialize;

    #[derive(Debug, Clone, Copy, Default, ValueEnum, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub(crate) enum Level {
        Error,
        Warn,
        #[default]
        Info,
        Debug,
        Trace,
    }

    impl From<Level> for tracing::Level {
        fn from(level: Level) -> Self {
            match level {
                Level::Error => tracing::Level::ERROR,
                Level::Warn => tracing::Level::WARN,
                Level::Info => tracing::Level::INFO,
                Level::Debug => tracing::Level::DEBUG,
                Level::Trace => tracing::Level::TRACE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file() {
        let file: UpFlags = serde_saphyr::from_str("data-dir: /a\nnode-name: file\n").expect("valid");
        let flags = UpFlags { node_name: Some("flag".into()), ..UpFlags::default() };
        let merged = merge(flags, file);
        assert_eq!(merged.node_name.as_deref(), Some("flag"));
        assert_eq!(merged.data_dir, Some("/a".into()));
    }

    #[test]
    fn an_unknown_key_of_the_file_is_refused_by_name() {
        let err = serde_saphyr::from_str::<UpFlags>("nosuch: 1\n").expect_err("refused").to_string();
        assert!(err.contains("nosuch"), "{err}");
    }

    #[test]
    fn another_store_is_refused_by_name() {
        let flags = UpFlags { store: Some("etcd://a:2379".into()), ..UpFlags::default() };
        let err = Settings::resolve(Box::new(flags)).expect_err("refused").to_string();
        assert!(err.contains("etcd://a:2379"), "{err}");
    }

    #[test]
    fn more_pods_than_a_bridge_has_ports_are_refused() {
        for pods in [0, 1001] {
            let flags = UpFlags { max_pods: Some(pods), ..UpFlags::default() };
            let err = Settings::resolve(Box::new(flags)).expect_err("refused").to_string();
            assert_eq!(err, format!("--max-pods {pods}: from 1 to 1000 are possible"));
        }
    }

    #[test]
    fn pulls_are_parallel_unless_they_are_serialized() {
        let told = |serialize, most| pulls_at_once(serialize, most).map_err(|err| err.to_string());
        assert_eq!(
            (told(None, None), told(Some(true), None), told(Some(false), Some(9))),
            (Ok(4), Ok(1), Ok(9))
        );
        assert!(told(Some(true), Some(2)).is_err() && told(None, Some(0)).is_err());
    }

    #[test]
    fn sysctls_of_the_whole_host_cannot_be_allowed() {
        let flags = |name: &str| UpFlags { allowed_unsafe_sysctls: vec![name.into()], ..UpFlags::default() };
        let err = Settings::resolve(Box::new(flags("vm.*"))).expect_err("refused").to_string();
        assert_eq!(err, "--allowed-unsafe-sysctls: the sysctls \"vm.*\" are not known to be namespaced");
        let settings = Settings::resolve(Box::new(flags("kernel/msg*"))).expect("valid");
        assert_eq!(
            (settings.allowed_sysctls, settings.seccomp_default),
            (vec!["kernel.msg*".to_owned()], true)
        );
    }

    #[test]
    fn ingresses_are_served_where_they_are_told_to_be_or_not_at_all() {
        let file = "ingress-http: 127.0.0.1:8080\ningress-https: 'off'\n";
        let file: UpFlags = serde_saphyr::from_str(file).expect("valid");
        assert_eq!(file.ingress_http, Some(Door(Some(([127, 0, 0, 1], 8080).into()))));
        assert_eq!(file.ingress_https, Some(Door(None)));
        assert!("8080".parse::<Door>().is_err() && "".parse::<Door>().is_err());
    }

    #[test]
    fn a_mirror_needs_a_name_and_a_url() {
        assert!(mirrors(&["docker.io".into()]).is_err());
        assert_eq!(
            mirrors(&["a=http://b".into()]).expect("valid"),
            [("a".to_owned(), "http://b".to_owned())]
        );
    }

    #[test]
    fn a_node_name_is_a_dns_subdomain() {
        assert!(is_dns_subdomain("a-1.b"));
        assert!(!is_dns_subdomain("a_b") && !is_dns_subdomain("-a") && !is_dns_subdomain(""));
    }
}
