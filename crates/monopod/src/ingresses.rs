//! The room that serves Ingresses, on the informers of all.

use std::sync::Arc;

use anyhow::Result;
use client::events::Recorder;
use client::{Client, Informers};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::pki::{Authority, ServingCertificate};

use crate::config::Settings;
use crate::rooms::{Rooms, listener_limits};

/// The name of the certificate for hosts that no Ingress has one for, as others call theirs.
const FALLBACK_NAME: &str = "ingress.local";

/// Starts it, unless both ports are switched off.
pub(crate) fn start(
    rooms: &mut Rooms,
    settings: &Settings,
    authority: Arc<Authority>,
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<Option<ingress::Served>> {
    if settings.ingress_http.is_none() && settings.ingress_https.is_none() {
        return Ok(None);
    }
    let names = vec![FALLBACK_NAME.to_owned()];
    let fallback = ServingCertificate::issue(authority, "monopod-ingress", names, Timestamp::now())?;
    rooms.renew(fallback.clone());
    let config = ingress::Config {
        node: settings.node_name.clone(),
        http: settings.ingress_http,
        https: settings.ingress_https,
        limits: listener_limits(),
        fallback,
    };
    let mut recording = JoinSet::new();
    let recorder =
        Recorder::spawn(client.clone(), "monopod-ingress-controller", "", &mut recording, shutdown.clone());
    rooms.run("Events of Ingresses", client::tasks::finish(recording));
    let served = ingress::Served::default();
    rooms.run("ingress", ingress::run(client, informers, config, served.clone(), recorder, shutdown));
    Ok(Some(served))
}
