//! Which requests are open, so that an end can wait for them.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The open requests of the server, a connection that has not asked yet counting as one.
#[derive(Debug, Default)]
pub(crate) struct Open {
    closing: AtomicBool,
    count: Mutex<usize>,
    none: Condvar,
}

/// One open request; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Request(Arc<Open>);

impl Open {
    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Request {
        *self.lock() += 1;
        Request(self.clone())
    }

    /// Whether no further connections are wanted.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Has those who listen on these ports stop it. Each of them waits for a connection, and gets one.
    pub(crate) fn close(&self, ports: &[u16]) {
        self.closing.store(true, Ordering::SeqCst);
        ports.iter().for_each(|port| drop(TcpStream::connect(("127.0.0.1", *port))));
    }

    /// Returns when no request is open.
    pub(crate) fn wait_for_the_end(&self) {
        let count = self.lock();
        drop(self.none.wait_while(count, |count| *count > 0));
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.none.notify_all();
    }
}
