//! Endpoints that somebody wrote by hand for a Service without a selector, as EndpointSlices: those are what
//! proxies and DNS read.

mod plan;

use std::sync::Arc;

use client::events::{EventType, Recorder};
use client::index::{self, service_of};
use client::{Change, Client, DeleteOptions, Error, Informer, key_of};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::task::JoinSet;

use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;
use plan::{ADDRESSES_MAX, Plan, is_ours};

struct Mirroring {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let informers = &context.informers;
    let this = Mirroring {
        client: context.client.clone(),
        recorder: context.recorder("endpoint-slice-mirroring-controller", tasks),
        services: informers.of(),
        endpoints: informers.of(),
        slices: informers.of(),
    };
    let controller = Controller::new("endpoint-slice-mirroring")
        .watches(&this.services, |change| match change {
            Change::Modified { old, new } if has_selector(old) == has_selector(new) => Vec::new(),
            change => vec![key_of(&**change.object())],
        })
        .watches(&this.endpoints, |change| vec![key_of(&**change.object())])
        // Also one that was ours and is somebody else's now.
        .watches(&this.slices, |change| {
            let before = match change {
                Change::Modified { old, .. } => is_ours(old),
                Change::Added(_) | Change::Deleted(_) => false,
            };
            let concerned = before || is_ours(change.object());
            service_of(change.object()).filter(|_| concerned).into_iter().collect()
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

impl Mirroring {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let mut known = self.slices.by_index(index::SLICES_BY_SERVICE, key);
        known.retain(|slice| is_ours(slice));
        let service = self.services.get(namespace, name);
        let mirrored = service.is_some_and(|service| !has_selector(&service));
        let endpoints = self.endpoints.get(namespace, name).filter(|one| mirrored && plan::is_mirrored(one));
        let Some(endpoints) = endpoints else {
            for slice in known {
                self.delete(namespace, &slice).await?;
            }
            return Ok(Next::Done);
        };
        let plan = plan::plan(&endpoints, known);
        self.complain(&endpoints, &plan);
        self.write(namespace, &endpoints, plan).await?;
        Ok(Next::Done)
    }

    fn complain(&self, endpoints: &Endpoints, plan: &Plan) {
        if plan.invalid > 0 {
            let count = plan.invalid;
            let message = format!("Skipped {count} invalid IP addresses when mirroring to EndpointSlices");
            say(&self.recorder, endpoints, EventType::Warning, "InvalidIPAddress", message);
        }
        if plan.too_many > 0 {
            let count = plan.too_many + plan.invalid;
            let message = format!(
                "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. \
                 {count} addresses were skipped"
            );
            say(&self.recorder, endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
        }
    }

    async fn write(&self, namespace: &str, endpoints: &Endpoints, plan: Plan) -> Result<(), Error> {
        if endpoints.metadata.deletion_timestamp.is_none() {
            for slice in &plan.create {
                match self.client.create(namespace, slice).await {
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    other => other.map(drop)?,
                }
            }
        }
        for slice in &plan.replace {
            self.client.replace(slice).await?;
        }
        for slice in &plan.delete {
            self.delete(namespace, slice).await?;
        }
        Ok(())
    }

    async fn delete(&self, namespace: &str, slice: &EndpointSlice) -> Result<(), Error> {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        unless_gone(self.client.delete::<EndpointSlice>(namespace, name, &DeleteOptions::default()).await)
    }
}
