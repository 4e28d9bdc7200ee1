//! Whether the store takes writes, for those who tell others (readiness, the Node's condition).

use std::sync::{Arc, Mutex, PoisonError};

use crate::interface::Error;

/// Shared by the committer, which knows, and the store, which is asked.
#[derive(Debug, Clone)]
pub(crate) struct Health(Arc<Mutex<Result<(), Error>>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Ok(()))))
    }
}

impl Health {
    pub(crate) fn set(&self, now: Result<(), Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(crate) fn get(&self) -> Result<(), Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
