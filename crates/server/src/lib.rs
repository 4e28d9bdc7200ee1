//! The `server` room.
pub mod auth;
