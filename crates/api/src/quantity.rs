//! Quantities: parse, compare, add, and the canonical text.
