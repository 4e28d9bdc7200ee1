//! The fields of a Pod on real containers: each test asks for several and looks at what the containers see.
//! `docs/fields.md` names the test of each field.

mod lifecycle;
mod probes;
mod restarts;
mod security;
mod words;
