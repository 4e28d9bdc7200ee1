//! Has the kernel forget flows, where it can.

use std::net::IpAddr;
use std::sync::Arc;

use sys::netlink::conntrack::{self, Flow, MODULE, Which};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::flows::{is_orphaned, is_stale, may_be_stale};
use crate::programmed::Table;
use crate::{Programmed, Ruleset};

/// Who forgets, and whether the kernel lets it.
///
/// Without the kernel's module Services work all the same: new flows are led by the new rules, and an old one
/// ends when its sender pauses for half a minute, or hears that the Pod's address is not reachable. So its
/// lack is said once, not after each change, and it is asked for again each time: it may be loaded meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Forgetting {
    lacks_module: bool,
}

/// What follows a turn of the proxy.
pub(crate) struct Following {
    /// The rules before and now, if they have changed.
    pub(crate) change: Option<(Option<Arc<Ruleset>>, Arc<Ruleset>)>,
    /// Pods that have ended.
    pub(crate) gone: Vec<IpAddr>,
    /// What the rules were made of.
    pub(crate) table: Table,
}

/// What there is to say of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Forgot(usize),
    Lacks,
    HasAgain,
    Failed(sys::Error),
}

impl Forgetting {
    /// Forgets after each turn what it has made stale, and then tells those who wait for a Pod to be left alone.
    /// The next turn does not wait for that: a busy Service leaves many thousand flows, and meanwhile the rules
    /// would still lead to the Pods that leave next.
    pub(crate) async fn follow(mut self, mut turns: UnboundedReceiver<Following>, programmed: Programmed) {
        while let Some(Following { change, gone, table }) = turns.recv().await {
            if let Some((before, now)) = change {
                self.stale(before, now).await;
            }
            if !gone.is_empty() {
                self.orphans(gone).await;
            }
            programmed.publish(table);
        }
    }

    /// After the rules have changed: no packet of such a flow is led anew before it is forgotten.
    async fn stale(&mut self, before: Option<Arc<Ruleset>>, now: Arc<Ruleset>) {
        let mut places = may_be_stale(before.as_deref(), &now);
        if self.lacks_module && !places.is_empty() {
            // What earlier changes have left is still there.
            places = vec![Which::All];
        }
        if !places.is_empty() {
            self.forget(places, move |flow, _| is_stale(flow, before.as_deref(), &now)).await;
        }
    }

    /// After Pods have ended, whose connections outlived the rules that made them.
    async fn orphans(&mut self, gone: Vec<IpAddr>) {
        let places = gone.into_iter().map(Which::To).collect();
        self.forget(places, |flow, place| matches!(place, Which::To(gone) if is_orphaned(flow, gone))).await;
    }

    async fn forget(&mut self, places: Vec<Which>, stale: impl Fn(&Flow, Which) -> bool + Send + 'static) {
        let forgotten = tokio::task::spawn_blocking(move || {
            let each = |place: &Which| conntrack::forget(*place, |flow| stale(flow, *place));
            places.iter().map(each).try_fold(0, |sum, count| Ok::<_, sys::Error>(sum + count?))
        });
        // Where its thread was refused the program is about to end.
        let Ok(outcome) = forgotten.await else { return };
        match self.news(outcome) {
            Some(News::Forgot(count)) => tracing::debug!(count, "forgot flows to Pods that are gone"),
            Some(News::Lacks) => tracing::warn!(
                "the kernel has no {MODULE}, or may not load it: who sends UDP without a pause may go on to Pods \
                 that have left their Service (modprobe {MODULE})"
            ),
            Some(News::HasAgain) => tracing::info!("the kernel has {MODULE} now: old flows are forgotten"),
            Some(News::Failed(error)) => tracing::warn!(%error, "flows may go on to Pods that are gone"),
            None => {}
        }
    }

    fn news(&mut self, outcome: Result<usize, sys::Error>) -> Option<News> {
        let lacked = self.lacks_module;
        self.lacks_module = outcome.as_ref().is_err_and(conntrack::lacks_module);
        match outcome {
            Err(_) if self.lacks_module => (!lacked).then_some(News::Lacks),
            Err(error) => Some(News::Failed(error)),
            Ok(_) if lacked => Some(News::HasAgain),
            Ok(count) => (count > 0).then_some(News::Forgot(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use sys::Errno;

    use super::*;

    #[test]
    fn a_module_that_is_missing_is_said_once_until_it_was_there() {
        let mut forgetting = Forgetting::default();
        let lacks = || Err(sys::Error::new("list tracked connections", Errno::INVAL));
        let busy = sys::Error::new("list tracked connections", Errno::BUSY);
        assert_eq!(forgetting.news(Ok(0)), None);
        assert_eq!(forgetting.news(Ok(2)), Some(News::Forgot(2)));
        assert_eq!(forgetting.news(lacks()), Some(News::Lacks));
        assert_eq!(forgetting.news(lacks()), None);
        assert_eq!(forgetting.news(Ok(0)), Some(News::HasAgain));
        assert_eq!(forgetting.news(lacks()), Some(News::Lacks));
        assert_eq!(forgetting.news(Err(busy.clone())), Some(News::Failed(busy)), "another fault is no lack");
    }
}
