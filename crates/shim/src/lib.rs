//! The `shim` room.
