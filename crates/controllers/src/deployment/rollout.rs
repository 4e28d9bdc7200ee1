//! One step of one Deployment: what the server is asked to change.

use client::events::EventType;
use client::{DeleteOptions, Error, key_of};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::progress::{self, PROGRESSING, new_condition, set_condition, size, status_of};
use super::revision::{self, HASH, REVISION};
use super::sizes::{Bounds, Proportion, Set};
use super::{Deployments, is_paused};
use crate::context::{say, unless_gone};
use crate::ownership::controller_reference;
use crate::pod_control::words;
use crate::workqueue::Next;

pub(super) struct Rollout<'a> {
    this: &'a Deployments,
    deployment: Deployment,
    bounds: Bounds,
    /// Of the Deployment's template; of several the eldest.
    new: Option<ReplicaSet>,
    /// The others, eldest first.
    old: Vec<ReplicaSet>,
}

impl<'a> Rollout<'a> {
    pub(super) fn new(this: &'a Deployments, deployment: Deployment, mut sets: Vec<ReplicaSet>) -> Self {
        sets.sort_by(|one, other| age(one).cmp(&age(other)));
        let template = template(&deployment);
        let new = sets.iter().position(|set| revision::is_of(set, &template));
        let new = new.map(|at| sets.remove(at));
        Self { this, bounds: Bounds::of(&deployment), deployment, new, old: sets }
    }

    /// The time that a pause takes does not count against the progress deadline.
    pub(super) async fn note_pause(&mut self) -> Result<(), Error> {
        if let Some(condition) = progress::pause(&self.deployment, Timestamp::now()) {
            set_condition(self.deployment.status.get_or_insert_default(), condition);
            self.deployment = self.this.client.replace_status(&self.deployment).await?;
        }
        Ok(())
    }

    /// Whether somebody has changed the size since the ReplicaSets were sized.
    pub(super) fn changes_size(&self) -> bool {
        let mut active = self.old.iter().chain(&self.new).filter(|set| size(set) > 0);
        active.any(|set| revision::desired(set).is_some_and(|desired| desired != self.bounds.replicas))
    }

    /// RollingUpdate: one step up or down within the bounds.
    pub(super) async fn roll(mut self) -> Result<Next, Error> {
        let Some(mut new) = self.with_new().await? else { return Ok(Next::Done) };
        let all = self.old.iter().map(size).sum::<i32>() + size(&new);
        let wanted = self.bounds.new_size(size(&new), all);
        if self.scale(&mut new, wanted).await? {
            self.new = Some(new);
            return self.report().await;
        }
        let counts = |set: &ReplicaSet| Set {
            replicas: size(set),
            available: status_of(set).available_replicas.unwrap_or(0),
        };
        let old: Vec<Set> = self.old.iter().map(counts).collect();
        let sizes = self.bounds.old_sizes(counts(&new), &old);
        self.new = Some(new);
        if !self.scale_old(&sizes).await? {
            self.clean_up().await?;
        }
        self.report().await
    }

    /// Recreate: the new ReplicaSet begins when no old Pod runs any more.
    pub(super) async fn recreate(mut self) -> Result<Next, Error> {
        self.sync_revision().await?;
        if self.scale_old(&vec![0; self.old.len()]).await? || self.this.may_run(&self.old) {
            return self.report().await;
        }
        let Some(mut new) = self.with_new().await? else { return Ok(Next::Done) };
        let scaled = self.scale(&mut new, self.bounds.replicas).await?;
        self.new = Some(new);
        if !scaled {
            self.clean_up().await?;
        }
        self.report().await
    }

    /// Paused, or of another size: the ReplicaSets that there are share it.
    pub(super) async fn resize(mut self) -> Result<Next, Error> {
        self.sync_revision().await?;
        self.share_size().await?;
        if is_paused(&self.deployment) {
            self.clean_up().await?;
        }
        self.report_counts().await
    }

    async fn share_size(&mut self) -> Result<(), Error> {
        let active: Vec<usize> =
            (0..=self.old.len()).filter(|at| self.at(*at).is_some_and(|set| size(set) > 0)).collect();
        // The index after the last old one is the new one's.
        let latest = if self.new.is_some() { Some(self.old.len()) } else { self.old.len().checked_sub(1) };
        let only = match active[..] {
            [] => latest,
            [only] => Some(only),
            _ => None,
        };
        if let Some(only) = only {
            return self.scale_at(only, self.bounds.replicas).await;
        }
        if self.new.as_ref().is_some_and(|new| self.is_saturated(new)) {
            return self.scale_old(&vec![0; self.old.len()]).await.map(drop);
        }
        let rolling = self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        if rolling.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate")) {
            return Ok(());
        }
        self.share_in_proportion(active).await
    }

    async fn share_in_proportion(&mut self, mut active: Vec<usize>) -> Result<(), Error> {
        let all: i32 = active.iter().filter_map(|at| self.at(*at)).map(size).sum();
        let grows = self.bounds.most() > all && self.bounds.replicas > 0;
        // The largest first; of equal ones the newest when there are to be more, the eldest when fewer.
        active.sort_by_key(|at| {
            let age = if grows { usize::MAX - at } else { *at };
            (std::cmp::Reverse(self.at(*at).map_or(0, size)), age)
        });
        let before = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let sets: Vec<Proportion> = active
            .iter()
            .filter_map(|at| self.at(*at))
            .map(|set| Proportion { replicas: size(set), most_before: revision::most(set).unwrap_or(before) })
            .collect();
        for (at, size) in active.into_iter().zip(self.bounds.proportional(&sets)) {
            self.scale_at(at, size).await?;
        }
        Ok(())
    }

    fn at(&self, at: usize) -> Option<&ReplicaSet> {
        self.old.get(at).or(if at == self.old.len() { self.new.as_ref() } else { None })
    }

    async fn scale_at(&mut self, at: usize, size: i32) -> Result<(), Error> {
        let Some(mut set) = self.at(at).cloned() else { return Ok(()) };
        self.scale(&mut set, size).await?;
        match self.old.get_mut(at) {
            Some(old) => *old = set,
            None => self.new = Some(set),
        }
        Ok(())
    }

    /// The new ReplicaSet has all its Pods, and all are available.
    fn is_saturated(&self, new: &ReplicaSet) -> bool {
        size(new) == self.bounds.replicas
            && revision::desired(new) == Some(self.bounds.replicas)
            && status_of(new).available_replicas == Some(self.bounds.replicas)
    }

    /// True when one of the old ReplicaSets changed its size.
    async fn scale_old(&mut self, sizes: &[i32]) -> Result<bool, Error> {
        let mut scaled = false;
        for (at, wanted) in sizes.iter().enumerate() {
            let Some(mut set) = self.old.get(at).filter(|set| size(set) != *wanted).cloned() else {
                continue;
            };
            scaled |= self.scale(&mut set, *wanted).await?;
            self.old[at] = set;
        }
        Ok(scaled)
    }

    /// Gives a ReplicaSet this size, and notes the Deployment's on it. True when it has changed.
    async fn scale(&self, set: &mut ReplicaSet, wanted: i32) -> Result<bool, Error> {
        let before = size(set);
        let mut changed = set.clone();
        let noted = revision::note_size(&mut changed, self.bounds.replicas, self.bounds.most());
        if before == wanted && !noted {
            return Ok(false);
        }
        changed.spec.get_or_insert_default().replicas = Some(wanted);
        *set = self.this.client.replace(&changed).await?;
        self.note_written(set);
        if before != wanted {
            self.tell_scaled(set, before, wanted);
        }
        Ok(before != wanted)
    }

    fn note_written(&self, set: &ReplicaSet) {
        self.this.written.note(&key_of(&self.deployment), &set.metadata);
    }

    fn tell_scaled(&self, set: &ReplicaSet, before: i32, wanted: i32) {
        let direction = if before < wanted { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let text = format!("Scaled {direction} replica set {name} from {before} to {wanted}");
        say(&self.this.recorder, &self.deployment, EventType::Normal, "ScalingReplicaSet", text);
    }

    /// The new ReplicaSet; made when it is not there. `None`: look again when the next change comes.
    async fn with_new(&mut self) -> Result<Option<ReplicaSet>, Error> {
        if self.new.is_none() {
            return self.create().await;
        }
        self.sync_revision().await?;
        Ok(self.new.clone())
    }

    /// Ties the new ReplicaSet and the Deployment to the revision that they make.
    async fn sync_revision(&mut self) -> Result<(), Error> {
        let Some(mut new) = self.new.clone() else { return Ok(()) };
        let annotated = revision::annotate(&mut new, &self.deployment, revision::next_revision(&self.old));
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let spec = new.spec.get_or_insert_default();
        let waits_otherwise = spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0);
        spec.min_ready_seconds = min_ready;
        if annotated || waits_otherwise {
            new = self.this.client.replace(&new).await?;
            self.note_written(&new);
        }
        let found = {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            ("FoundNewReplicaSet", format!("Found new replica set {name:?}"))
        };
        let unknown = self
            .deployment
            .status
            .as_ref()
            .is_none_or(|status| progress::condition(status, PROGRESSING).is_none());
        self.note_new(&new, unknown.then_some(found)).await?;
        self.new = Some(new);
        Ok(())
    }

    /// Writes the revision, and a condition about the new ReplicaSet, to the Deployment.
    async fn note_new(&mut self, new: &ReplicaSet, told: Option<(&str, String)>) -> Result<(), Error> {
        let revision = revision::annotation(new.metadata.annotations.as_ref(), REVISION).map(str::to_owned);
        let known = revision::annotation(self.deployment.metadata.annotations.as_ref(), REVISION);
        let told = told.filter(|_| progress::deadline(&self.deployment).is_some());
        if known == revision.as_deref() && told.is_none() {
            return Ok(());
        }
        if let Some(revision) = revision {
            self.deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(REVISION.to_owned(), revision);
        }
        if let Some((reason, text)) = told {
            let condition = new_condition(PROGRESSING, "True", reason, text, Timestamp::now());
            set_condition(self.deployment.status.get_or_insert_default(), condition);
        }
        self.deployment = self.this.client.replace_status(&self.deployment).await?;
        Ok(())
    }

    async fn create(&mut self) -> Result<Option<ReplicaSet>, Error> {
        let made = self.first_size(self.new_set());
        let namespace = self.deployment.metadata.namespace.clone().unwrap_or_default();
        let name = made.metadata.name.clone().unwrap_or_default();
        match self.this.client.create(&namespace, &made).await {
            Ok(new) => {
                self.note_written(&new);
                let size = size(&new);
                if size > 0 {
                    self.tell_scaled(&new, 0, size);
                }
                let created = ("NewReplicaSetCreated", format!("Created new replica set {name:?}"));
                self.note_new(&new, Some(created)).await?;
                Ok(Some(new))
            }
            Err(error) if error.is_already_exists() => self.take_or_collide(&namespace, &name, error).await,
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                let text = format!("Failed to create new replica set {name:?}: {}", words(&error));
                say(&self.this.recorder, &self.deployment, EventType::Warning, "FailedCreate", text.clone());
                if progress::deadline(&self.deployment).is_some() {
                    let reason = "ReplicaSetCreateError";
                    let condition = new_condition(PROGRESSING, "False", reason, text, Timestamp::now());
                    set_condition(self.deployment.status.get_or_insert_default(), condition);
                    unless_gone(self.this.client.replace_status(&self.deployment).await)?;
                }
                Err(error)
            }
        }
    }

    /// The name is taken: by our own, which the informer did not show yet, or by another template.
    async fn take_or_collide(
        &mut self,
        namespace: &str,
        name: &str,
        taken: Error,
    ) -> Result<Option<ReplicaSet>, Error> {
        let there: ReplicaSet = self.this.client.get(namespace, name).await?;
        let owner = crate::ownership::controller_of(&there.metadata).map(|owner| owner.uid.as_str());
        if owner == self.deployment.metadata.uid.as_deref()
            && revision::is_of(&there, &template(&self.deployment))
        {
            self.note_new(&there, None).await?;
            return Ok(Some(there));
        }
        let status = self.deployment.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        self.this.client.replace_status(&self.deployment).await?;
        // Another hash is tried after a pause.
        Err(taken)
    }

    fn new_set(&self) -> ReplicaSet {
        let (metadata, spec) = (&self.deployment.metadata, self.deployment.spec.clone().unwrap_or_default());
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = revision::hash(&spec.template, collisions.unwrap_or(0));
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", metadata.name.as_deref().unwrap_or_default())),
                namespace: metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        }
    }

    fn first_size(&self, mut set: ReplicaSet) -> ReplicaSet {
        let all = self.old.iter().map(size).sum();
        let first = match self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()) {
            Some(strategy) if strategy.type_.as_deref() == Some("Recreate") => self.bounds.replicas,
            _ => self.bounds.new_size(0, all),
        };
        set.spec.get_or_insert_default().replicas = Some(first);
        revision::annotate(&mut set, &self.deployment, revision::next_revision(&self.old));
        revision::note_size(&mut set, self.bounds.replicas, self.bounds.most());
        set
    }

    /// Deletes old ReplicaSets beyond `revisionHistoryLimit`, once the rollout is through.
    async fn clean_up(&self) -> Result<(), Error> {
        let status = progress::counted(&self.deployment, self.new.as_ref(), &self.old, Timestamp::now());
        if !is_paused(&self.deployment) && !progress::is_complete(&self.deployment, &status) {
            return Ok(());
        }
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Ok(()) };
        let mut old: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| (revision::revision(set), age(set).0));
        for set in &old[..old.len().saturating_sub(limit)] {
            let counted = status_of(set);
            let empty = counted.replicas == 0 && size(set) == 0;
            if empty && counted.observed_generation >= set.metadata.generation {
                let metadata = &set.metadata;
                let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
                let options = DeleteOptions::of_uid(metadata.uid.as_deref().unwrap_or_default());
                let deleted = self.this.client.delete::<ReplicaSet>(
                    namespace.unwrap_or_default(),
                    name.unwrap_or_default(),
                    &options,
                );
                unless_gone(deleted.await)?;
            }
        }
        Ok(())
    }

    /// Says how the rollout goes, and comes back when its deadline has passed.
    async fn report(self) -> Result<Next, Error> {
        let now = Timestamp::now();
        let status = progress::rolled(&self.deployment, self.new.as_ref(), &self.old, now);
        let again = progress::look_again(&self.deployment, &status, now);
        self.write(status).await?;
        Ok(again.map_or(Next::Done, Next::After))
    }

    /// Says what there is, without a word on the rollout.
    pub(super) async fn report_counts(self) -> Result<Next, Error> {
        let status = progress::counted(&self.deployment, self.new.as_ref(), &self.old, Timestamp::now());
        self.write(status).await?;
        Ok(Next::Done)
    }

    async fn write(self, status: DeploymentStatus) -> Result<(), Error> {
        let before = self.deployment.status.clone().unwrap_or_default();
        if progress::says_the_same(&before, &status) {
            return Ok(());
        }
        let mut changed = self.deployment;
        changed.status = Some(status);
        unless_gone(self.this.client.replace_status(&changed).await)
    }
}

/// By the time of creation, then by name.
fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

fn template(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}
