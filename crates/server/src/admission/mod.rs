//! Admission: what stands between what a client wishes and what is written, as an ordered chain of steps.
//!
//! ```text
//! decode ─ defaults ─ ownership ─ MUTATE ─ prepare ─ the kind's rules ─ VALIDATE ─ addresses ─ store
//!                                 step by step                          step by step, quota last
//! ```
//!
//! A step is a value of [`chain::CHAIN`] with the name that upstream gives the plugin, the operations it
//! handles and what it concerns. Its mutating half may complete or refuse the object before the kind's own
//! rules are asked; its validating half judges what would be written and changes nothing. Deleting and
//! connecting go the same way as creating and updating.
//!
//! Steps may wait: for other objects, later for somebody outside. So nothing is locked while they run;
//! addresses are given out after the last of them.

mod certificates;
mod chain;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pods;
mod resource_quota;
mod storage;
mod without_effect;

use std::sync::Arc;

use api::kinds::Kind;
use api::meta::Object as _;
use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;

pub(crate) use resource_quota::give_back;

use chain::CHAIN;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is asked, as the steps see it: upstream's admission attributes.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The call, with who asks, what for and when.
    pub(crate) call: &'a Call,
    pub(crate) operation: Operation,
    /// What is to be: in the stored version for a kind's own objects; null for a deletion.
    pub(crate) object: Value,
    /// What is there: on updates and deletions.
    pub(crate) old: Option<&'a Value>,
    /// Whether the object is of the resource's own kind: not a Binding, an Eviction or a TokenRequest.
    pub(crate) is_own_kind: bool,
    /// Whether nothing is kept.
    pub(crate) dry_run: bool,
}

impl<'a> Request<'a> {
    /// For a new object of the resource's own kind.
    pub(crate) fn create(call: &'a Call, object: Value) -> Result<Self, Status> {
        Self::new(call, Operation::Create, object, None)
    }

    /// For a changed object of the resource's own kind.
    pub(crate) fn update(call: &'a Call, object: Value, old: &'a Value) -> Result<Self, Status> {
        Self::new(call, Operation::Update, object, Some(old))
    }

    /// For an object that goes.
    pub(crate) fn delete(call: &'a Call, old: &'a Value) -> Result<Self, Status> {
        Self::new(call, Operation::Delete, Value::Null, Some(old))
    }

    /// For an object that is acted upon and kept nowhere: created at a subresource, or a review.
    pub(crate) fn act(call: &'a Call, object: Value) -> Result<Self, Status> {
        Ok(Self { is_own_kind: false, ..Self::new(call, Operation::Create, object, None)? })
    }

    /// For a connection to what runs; `options` is what upstream decodes the query into.
    pub(crate) fn connect(call: &'a Call, options: Value) -> Result<Self, Status> {
        Ok(Self { is_own_kind: false, ..Self::new(call, Operation::Connect, options, None)? })
    }

    fn new(
        call: &'a Call,
        operation: Operation,
        object: Value,
        old: Option<&'a Value>,
    ) -> Result<Self, Status> {
        Ok(Self { call, operation, object, old, is_own_kind: true, dry_run: call.dry_run()? })
    }

    /// The resource, in its stored version.
    pub(crate) fn resource(&self) -> &'a Kind {
        self.call.resource.storage()
    }

    pub(crate) fn subresource(&self) -> &str {
        &self.call.target.subresource
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.call.target.namespace
    }

    /// The name of the path, or of the object where the path has none: creations, and the objects of a
    /// collection that is deleted.
    pub(crate) fn name(&self) -> &str {
        match self.call.target.name.as_str() {
            "" => self.old.unwrap_or(&self.object).meta().name(),
            name => name,
        }
    }

    /// The 403 of a step that refuses.
    pub(crate) fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.call.resource, self.name(), why)
    }

    /// All objects of another kind, in one namespace or of one that is in none.
    fn all(&self, resource: &Kind, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
        self.call.state.collections.all(resource, namespace)
    }
}

/// What the validating steps leave besides their verdict.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the client hears although its object is accepted.
    pub(crate) warnings: Vec<String>,
    /// What was taken from quotas; to be given back when the object is not written after all.
    pub(crate) charged: resource_quota::Charged,
}

type Mutate = for<'r> fn(&'r mut Request<'_>) -> BoxFuture<'r, Result<(), Status>>;
type Validate = for<'r> fn(&'r Request<'_>, &'r mut Outcome) -> BoxFuture<'r, Result<(), Status>>;

/// What a step concerns: resources by group, plural and subresource; `*` is any.
#[derive(Debug, Clone, Copy)]
enum Concern {
    Everything,
    These(&'static [(&'static str, &'static str, &'static str)]),
}

impl Concern {
    fn is(self, resource: &Kind, subresource: &str) -> bool {
        match self {
            Concern::Everything => true,
            Concern::These(list) => list.iter().any(|(group, plural, part)| {
                (*group, *plural) == (&*resource.group, &*resource.plural)
                    && (*part == "*" || *part == subresource)
            }),
        }
    }
}

/// One step of the chain.
#[derive(Debug)]
struct Step {
    /// Upstream's name of the plugin.
    name: &'static str,
    operations: &'static [Operation],
    concern: Concern,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

impl Step {
    fn handles(&self, request: &Request<'_>) -> bool {
        self.operations.contains(&request.operation)
            && self.concern.is(request.resource(), request.subresource())
    }
}

/// The first phase: each step completes the object, or refuses it.
pub(crate) async fn mutate(request: &mut Request<'_>) -> Result<(), Status> {
    for step in CHAIN {
        if let Some(mutate) = step.mutate.filter(|_| step.handles(request)) {
            mutate(request).await.inspect_err(|why| refused(step, why))?;
        }
    }
    Ok(())
}

/// The second phase: each step judges what would be written. What was taken before a later step refused is
/// given back.
pub(crate) async fn validate(request: &Request<'_>) -> Result<Outcome, Status> {
    let mut outcome = Outcome::default();
    for step in CHAIN {
        let Some(validate) = step.validate.filter(|_| step.handles(request)) else { continue };
        if let Err(why) = validate(request, &mut outcome).await {
            refused(step, &why);
            give_back(request.call, outcome.charged).await;
            return Err(why);
        }
    }
    Ok(outcome)
}

/// Both phases at once, for what is not written as an object of its own kind: deletions, connections and
/// the subresources that act. Answers with the object as the steps completed it.
pub(crate) async fn admit(mut request: Request<'_>) -> Result<(Value, Outcome), Status> {
    mutate(&mut request).await?;
    let outcome = validate(&request).await?;
    Ok((request.object, outcome))
}

fn refused(step: &Step, why: &Status) {
    tracing::debug!(step = step.name, why = %why.message, "refused at admission");
}
