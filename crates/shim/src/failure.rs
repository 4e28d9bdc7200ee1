//! Failures in the making: from the kernel's answers to one sentence.

use crate::protocol::{Failure, FailureKind};

impl Failure {
    /// A failure of a kind.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }

    /// No such container or exec.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Failure::new(FailureKind::NotFound, format!("{what} {id:?} not found"))
    }
}

impl From<sys::Error> for Failure {
    fn from(error: sys::Error) -> Self {
        Failure::new(FailureKind::Host, error.to_string())
    }
}

macro_rules! invalid {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::new(FailureKind::Invalid, error.to_string())
            }
        }
    )*};
}

invalid!(sys::capability::UnknownCapability, sys::seccomp::CompileError, sys::user::UnknownName);
