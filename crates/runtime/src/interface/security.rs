//! What a container's processes may do.

use std::path::PathBuf;

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    /// No filter.
    Unconfined,
    /// The runtime's own profile.
    #[default]
    RuntimeDefault,
    /// A JSON profile (OCI shape) on the node.
    Localhost(PathBuf),
}

/// Who the process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SecurityContext {
    /// UID; `None`: the image's user.
    pub run_as_user: Option<i64>,
    /// GID; `None`: the image's, or the user's group in /etc/passwd.
    pub run_as_group: Option<i64>,
    /// Extra groups.
    pub supplemental_groups: Vec<i64>,
    /// Do not add the groups of the image's /etc/group (policy Strict).
    pub strict_groups: bool,
    /// Everything allowed, all devices, nothing masked.
    pub privileged: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Added to the default set; names without CAP_, or ALL.
    pub add_capabilities: Vec<String>,
    /// Taken from the default set; names without CAP_, or ALL.
    pub drop_capabilities: Vec<String>,
    /// System call filter.
    pub seccomp: Seccomp,
    /// /proc is not masked.
    pub unmasked_proc: bool,
}
