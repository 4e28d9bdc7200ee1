//! Notice that a directory has changed.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A watched directory.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

/// What has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Something in it.
    Within,
    /// It is not there any more, or another is in its place.
    Gone,
}

impl Watch {
    /// Watches a directory from now on; `None`: there is none, or the kernel does not.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        // Not each write: what has been written is told when it is closed.
        let within = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&made, directory, within | itself).ok()?;
        waited_for(made).ok().map(Self)
    }

    /// Waits until something has happened. Cancel-safe: what was read is answered at once.
    pub(super) async fn changed(&self) -> Changed {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return Changed::Gone };
            match ready.try_io(|descriptor| read_all(descriptor.get_ref())) {
                Ok(Ok(changed)) => return changed,
                Ok(Err(_)) => return Changed::Gone,
                // There was nothing after all.
                Err(_) => {}
            }
        }
    }
}

/// Reads what there is; with nothing, the error that `try_io` looks for.
fn read_all(descriptor: &OwnedFd) -> io::Result<Changed> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(descriptor, &mut space);
    let mut changed = None;
    loop {
        let events = match reader.next() {
            Ok(event) => event.events(),
            Err(rustix::io::Errno::AGAIN) => {
                return changed.ok_or_else(|| io::ErrorKind::WouldBlock.into());
            }
            Err(err) => return Err(err.into()),
        };
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        if events.intersects(gone) {
            changed = Some(Changed::Gone);
        }
        changed.get_or_insert(Changed::Within);
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for types whose descriptor may change; an OwnedFd's never does"
)]
fn waited_for(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_moved_and_removed_is_told_and_the_end_of_all() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("m");
        assert!(Watch::of(&directory).is_none());
        std::fs::create_dir(&directory).unwrap();
        let watch = Watch::of(&directory).unwrap();
        std::fs::write(directory.join("a"), "x").unwrap();
        assert_eq!(watch.changed().await, Changed::Within);
        std::fs::rename(directory.join("a"), directory.join("b")).unwrap();
        assert_eq!(watch.changed().await, Changed::Within);
        std::fs::remove_file(directory.join("b")).unwrap();
        assert_eq!(watch.changed().await, Changed::Within);
        std::fs::rename(&directory, home.path().join("n")).unwrap();
        assert_eq!(watch.changed().await, Changed::Gone);
    }
}
