//! From a container of a Pod to what the runtime is asked to run.
//!
//! Everything here is a function of values; reading ConfigMaps and making files is
//! done before. Start reading at [`config`].

pub mod config;
pub mod dns;
pub mod env;
mod env_file;
pub mod expand;
pub mod fields;
pub mod hosts;
pub mod resources;
pub mod security;
pub mod services;
