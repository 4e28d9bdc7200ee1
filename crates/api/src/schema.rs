//! The embedded schema of every kind: types, merge keys, list maps.
