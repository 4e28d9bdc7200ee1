//! `monopod image pull`: the runtime's own client, with a bar for people.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use indicatif::ProgressBar;
use runtime::Credentials;
use runtime::image::{Digest, ImageStore, Progress, Proxies, PullEvent, Registries};

use crate::image::{password, told};
use crate::{config, progress, say};

/// What to pull and how.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) reference: String,
    pub(crate) username: Option<String>,
    pub(crate) mirrors: Vec<String>,
    pub(crate) insecure: Vec<String>,
}

/// Pulls into the store and names what came.
pub(crate) fn run(store: ImageStore, pull: Pull) -> Result<()> {
    let registries = registries(&config::mirrors(&pull.mirrors)?, &pull.insecure);
    let credentials = match pull.username {
        // Nobody is asked for a password then: the registry answers as it does a Pod without pull secrets.
        None => Vec::new(),
        Some(username) => {
            vec![Credentials { username, password: password()?, ..Credentials::default() }]
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bars = Arc::new(Bars::default());
    let pulled = Arc::new(store).pull(&pull.reference, &registries, credentials, bars.clone());
    let outcome = runtime.block_on(pulled);
    bars.clear();
    let image = outcome.map_err(told)?;
    // What was pulled by its digest has no tag.
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    names.iter().try_for_each(|name| say(&format!("pulled {name}")))
}

/// Mirrors and plain registries as the runtime takes them, and the proxies of the environment.
pub(crate) fn registries(mirrors: &[(String, String)], insecure: &[String]) -> Registries {
    let mut registries = Registries {
        insecure: insecure.iter().cloned().collect(),
        proxies: Proxies::of(|name| std::env::var(name).ok()),
        ..Registries::default()
    };
    for (name, url) in mirrors {
        // They are asked in the order of the flags.
        registries.mirrors.entry(name.clone()).or_default().push(url.clone());
    }
    registries
}

/// One bar over all layers, which grows as layers become known.
#[derive(Default)]
struct Bars {
    layers: Mutex<HashMap<Digest, (u64, u64)>>,
    bar: std::sync::OnceLock<ProgressBar>,
}

impl Bars {
    fn show(&self, layers: &HashMap<Digest, (u64, u64)>) {
        let bar = self.bar.get_or_init(|| progress::bytes(0, "pulling"));
        bar.set_length(layers.values().map(|(_, total)| total).sum());
        bar.set_position(layers.values().map(|(here, _)| here).sum());
    }

    fn clear(&self) {
        self.bar.get().inspect(|bar| bar.finish_and_clear());
    }
}

impl Progress for Bars {
    fn event(&self, event: PullEvent) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PullEvent::Layer(layer, length) => {
                layers.insert(layer, (0, length));
            }
            PullEvent::Downloaded(layer, here) => {
                if let Some(entry) = layers.get_mut(&layer) {
                    entry.0 = here;
                }
            }
            PullEvent::Resolved(_) | PullEvent::Unpacked(_) => {}
        }
        self.show(&layers);
    }
}
