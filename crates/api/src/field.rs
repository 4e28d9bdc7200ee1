//! Paths of fields and the errors of validation, worded as upstream words them.
