//! Stand-ins for tests: a container runtime made of maps.
//!
//! Nothing here is part of the product. The fakes keep the contracts of the traits they
//! implement and record what was asked; they do not imitate speed or failure unless told to.
//!
//! Start reading at [`FakeRuntime`].

mod runtime;

pub use runtime::FakeRuntime;
