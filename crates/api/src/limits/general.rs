//! What does not exist yet and nobody asks for by writing an object.

/// Whole parts of a platform that are missing, each a sentence.
pub const GENERAL: &[&str] = &[
    "There is one node, and it has IPv4 addresses alone.",
    "There is no etcd store and no CRI socket.",
    "The size of a claim is what is asked for, not what is enforced: volumes are directories.",
];
