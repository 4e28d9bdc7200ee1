//! Policies against a model, and against the kernel.

mod kernel;
mod model;
