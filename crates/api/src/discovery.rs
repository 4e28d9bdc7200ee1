//! The discovery documents, legacy and aggregated.
