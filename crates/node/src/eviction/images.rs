//! Keeping the images from filling their disk, long before anybody has to go for it.

use std::sync::Arc;
use std::time::Duration;

use runtime::Collection;

use super::manager::Observed;
use super::observe;
use crate::object;
use crate::shared::Shared;

/// How often (upstream's).
const EVERY: Duration = Duration::from_secs(300);

/// When images that nobody uses are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCollection {
    /// With more than this percentage of their file system in use, some go. 100: never.
    pub high_percent: u8,
    /// Until no more than this is.
    pub low_percent: u8,
    /// None that came later than this long ago.
    pub minimum_age: Duration,
}

impl Default for ImageCollection {
    /// Upstream's.
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, minimum_age: Duration::from_secs(120) }
    }
}

impl ImageCollection {
    /// Bytes to free, if it is time to.
    fn excess(&self, disk: Observed) -> Option<u64> {
        let percent = |part: u8| disk.capacity / 100 * u64::from(part);
        let used = disk.capacity.saturating_sub(disk.available);
        let due = self.high_percent < 100 && disk.capacity > 0 && used >= percent(self.high_percent);
        due.then(|| used.saturating_sub(percent(self.low_percent)))
    }
}

/// Looks for ever.
pub(crate) async fn collect_for_ever(node: Arc<Shared>) {
    let mut failed = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let disk = observe::file_system(&node.config.images_directory).map(|found| found.bytes);
        let Some(bytes) = disk.and_then(|disk| node.config.images.excess(disk)) else { continue };
        let wanted = Collection { bytes, minimum_age: node.config.images.minimum_age };
        let problem = match node.runtime.collect_images(wanted).await {
            Ok(freed) if freed.bytes < bytes => {
                let text = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {} bytes eligible to free.",
                    freed.bytes
                );
                object::warn(&node, "FreeDiskSpaceFailed", text.clone());
                Some(text)
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        // Once is no news: the next look may find more that nobody uses.
        if let Some(text) = problem.clone().filter(|_| failed) {
            object::warn(&node, "ImageGCFailed", text);
        }
        failed = problem.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_go_from_the_high_mark_down_to_the_low_one() {
        let settings = ImageCollection::default();
        let excess = |available| settings.excess(Observed { available, capacity: 1000 });
        assert_eq!((excess(151), excess(150), excess(0)), (None, Some(50), Some(200)));
        let never = ImageCollection { high_percent: 100, ..ImageCollection::default() };
        assert_eq!(never.excess(Observed { available: 0, capacity: 1000 }), None);
    }
}
