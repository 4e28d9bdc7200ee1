//! The users of a Pod, where they are others than the node's.
//!
//! ```text
//!           node                        Pod
//!  shim ─── root, mounts, networks ──── owner of namespaces: ids first..first+length
//!    └─fork─> root, builds the file tree
//!             └─ joins the users, root of the Pod ─ own mounts ─ capabilities, filter, exec
//! ```
//!
//! What is built by the node's root and then taken over by the Pod's is locked in its place: not even
//! who may mount can lift a cover or a read-only part from it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::Result;
use sys::namespace::{self, Namespaces, user};

use crate::protocol::{Failure, FailureKind, IdRange, ResolvedUser};

/// The Pod's user namespace.
#[derive(Debug)]
pub(crate) struct Users {
    namespace: OwnedFd,
    range: IdRange,
}

/// Whose mounts a program will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Its own, built by the node's root.
    Built,
    /// Those of a container that runs.
    Joined,
}

impl Users {
    pub(crate) fn make(range: IdRange) -> Result<Self> {
        Ok(Users { namespace: user::make(range)?, range })
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    pub(crate) fn range(&self) -> IdRange {
        self.range
    }

    /// What an id of the Pod is on the node, or nobody.
    pub(crate) fn outside(&self, id: u32) -> u32 {
        const NOBODY: u32 = 65_534;
        self.range.outside(id).unwrap_or(NOBODY)
    }

    /// What this process makes from now on belongs to the Pod's root.
    pub(crate) fn make_files(&self) -> Result<()> {
        sys::process::make_files_as(self.range.first, self.range.first)
    }

    /// Refuses a user whom the namespace does not have; the kernel would only call it invalid.
    pub(crate) fn must_have(&self, user: &ResolvedUser) -> std::result::Result<(), Failure> {
        let mut ids = [("user", user.uid), ("group", user.gid)]
            .into_iter()
            .chain(user.groups.iter().map(|group| ("group", *group)));
        match ids.find(|(_, id)| self.range.outside(*id).is_none()) {
            None => Ok(()),
            Some((what, id)) => {
                let last = self.range.length - 1;
                let message =
                    format!("{what} {id} is not in the Pod's user namespace, which has 0 to {last}");
                Err(Failure::new(FailureKind::Invalid, message))
            }
        }
    }

    /// Leaves the node's users for the Pod's, as root.
    pub(crate) fn join(&self, mounts: Mounts) -> Result<()> {
        user::enter_as_root(self.namespace())?;
        match mounts {
            Mounts::Built => namespace::unshare(Namespaces::MOUNT),
            Mounts::Joined => Ok(()),
        }
    }
}
