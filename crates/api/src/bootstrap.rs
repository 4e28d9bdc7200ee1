//! The objects that a fresh cluster holds before the first client comes.
