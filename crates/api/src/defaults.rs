//! Defaulting: what upstream fills in when a field is absent.
