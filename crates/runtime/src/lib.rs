//! Images, snapshots, sandboxes with their network, containers, logs, exec.
//!
//! The interface is [`Runtime`], in the words of the Container Runtime Interface (CRI v1):
//! a Pod is a *sandbox*, its containers belong to it. [`Runtime`] knows nothing of
//! Kubernetes objects; the node room translates.
//!
//! Start reading at [`Runtime`].

pub mod image;
mod interface;

pub use interface::*;
