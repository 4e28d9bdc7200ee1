//! Table output: the columns and cells that kubectl prints.
