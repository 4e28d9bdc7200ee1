//! The pages made from the table of limits. A test of `api` compares them with it, and writes them when told.

use anyhow::Result;

use crate::host::{self, cargo};

const TEST: [&str; 5] = ["test", "--quiet", "--workspace", "--test", "limits"];

/// Writes `docs/limits.md` and the section of the README.
pub(crate) fn write() -> Result<()> {
    host::run(cargo(&TEST).env("MONOPOD_WRITE_PAGES", "1"))
}

/// Fails when they say something else than the table.
pub(crate) fn check() -> Result<()> {
    host::run(&mut cargo(&TEST))
}
