//! The table of kinds that this server serves.
