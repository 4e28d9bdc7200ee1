//! What a kind adds to the generic path: preparing and validating writes.
