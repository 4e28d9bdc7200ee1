//! What a kind adds to the generic paths of the server, as functions of values. Upstream calls these
//! strategies; the paths ask the kind for its rule and never which kind it is.

use std::fmt;

use serde_json::{Map, Value};

use super::Kind;
use crate::field::ErrorList;
use crate::selector::field;
use crate::strategy::admission::quota::Counting;
use crate::strategy::prepare::{self, Author};
use crate::table::{self, Printer};
use crate::validate::view::View;
use crate::validate::{NameRule, name_is_dns_subdomain};

/// A JSON object that a rule changes.
pub(crate) type Object = Map<String, Value>;

/// What an update through a subresource, or of the object itself, may change; the last is the old object.
pub(crate) type PrepareUpdate = fn(&Kind, Option<&str>, &mut Object, &Object);

/// What an object says of a time; the old one is there on updates.
pub(crate) type Date = fn(&mut Object, Option<&Object>, &str);

/// What is wrong with an object; the old one is there on updates.
pub(crate) type Validate = fn(View<'_>, Option<View<'_>>, &mut ErrorList);

/// What is wrong with a change through a subresource, or of the object itself; the old object comes last.
pub(crate) type ValidateUpdate = fn(Option<&str>, &Value, &Value, &mut ErrorList);

/// The present name of a field that the kind does not list as selectable, or why there is none.
pub(crate) type UnlistedField = fn(&Kind, &str) -> Result<&'static str, String>;

/// The rules of a kind. Those of most kinds do nothing, which is their default.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// What a field means when it is not given. Applying it twice must change nothing.
    pub(crate) defaults: fn(&mut Object),
    /// What a name may be.
    pub(crate) name: NameRule,
    /// When `metadata.generation` counts.
    pub(crate) generation: Generation,
    /// Whether a client may give the status when it creates the object: nodes register with theirs.
    pub(crate) created_with_status: bool,
    /// What a write to the status leaves as it was in the metadata.
    pub(crate) kept_by_status: &'static [&'static str],
    /// What the server writes into a new object, besides identity, generation and an empty status.
    pub(crate) prepare_create: fn(&mut Object),
    /// What the server takes back from a changed object.
    pub(crate) prepare_update: PrepareUpdate,
    /// What a new object says of who asked for it.
    pub(crate) author: fn(&mut Object, &Author<'_>),
    /// What an object says of when it was created, or has changed; the time is the last.
    pub(crate) date: Date,
    /// What there must be from the first moment of an object of this name on; its authority's certificate
    /// is PEM.
    pub(crate) companions: fn(&str, &str) -> Vec<Value>,
    /// What it counts for in quotas.
    pub(crate) counting: Counting,
    /// What is wrong with a new object, or a changed one.
    pub(crate) validate: Validate,
    /// What is wrong with a new status.
    pub(crate) validate_status: fn(View<'_>, View<'_>, &mut ErrorList),
    /// In place of both for updates, where each subresource has rules of its own.
    pub(crate) validate_update: Option<ValidateUpdate>,
    /// From the stored version to this one, `apiVersion` apart.
    pub(crate) serve: fn(&mut Object),
    /// From this version to the stored one, `apiVersion` apart.
    pub(crate) store: fn(&mut Object),
    /// What a changed object keeps of the old one because this version cannot say it.
    pub(crate) keep_unsaid: fn(&mut Object, &Value),
    /// The texts of `Warning` headers for an object that was accepted; the old one is there on updates.
    pub(crate) warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// What a selector means by a field that is not listed.
    pub(crate) unlisted_field: UnlistedField,
    /// The cells of its row in a table.
    pub(crate) cells: Printer,
    /// What its row says of the object as a whole.
    pub(crate) row_conditions: fn(&Value) -> Option<Value>,
}

/// Who answers what is asked of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Its objects are kept.
    FromStore,
    /// Its object is a question about access, answered and forgotten.
    ByReview,
    /// Its object binds another one to a node.
    ByBinding,
    /// What nodes measured.
    ByMeasuring,
}

/// What a kind has to do with the addresses that no two objects may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressed {
    /// Its objects get addresses and ports.
    Holder,
    /// Its objects are named after an address that they keep for somebody.
    Address,
    /// Its objects say which addresses there are to give.
    Ranges,
}

/// When the generation of an object counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// It has none.
    Never,
    /// When what the user wishes changes: the spec, or all but metadata and status where there is none.
    Wishes,
    /// Also when labels change: those of a slice say what it belongs to.
    WishesAndLabels,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            defaults: |_| {},
            name: name_is_dns_subdomain,
            generation: Generation::Never,
            created_with_status: false,
            kept_by_status: &[],
            prepare_create: |_| {},
            prepare_update: prepare::update,
            author: |_, _| {},
            date: |_, _, _| {},
            companions: |_, _| Vec::new(),
            counting: Counting::default(),
            validate: |_, _, _| {},
            validate_status: |_, _, _| {},
            validate_update: None,
            serve: |_| {},
            store: |_| {},
            keep_unsaid: |_, _| {},
            warnings: |_, _| Vec::new(),
            unlisted_field: field::unlisted,
            cells: table::name_and_creation,
            row_conditions: |_| None,
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Functions have no names to show.
        f.debug_struct("Rules").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// How a kind is given its rules; each is described at its field in [`Rules`].
impl Kind {
    pub(super) const fn defaults(mut self, rule: fn(&mut Object)) -> Self {
        self.rules.defaults = rule;
        self
    }

    pub(super) const fn name_rule(mut self, rule: NameRule) -> Self {
        self.rules.name = rule;
        self
    }

    pub(super) const fn generation(mut self, rule: Generation) -> Self {
        self.rules.generation = rule;
        self
    }

    pub(super) const fn created_with_status(mut self) -> Self {
        self.rules.created_with_status = true;
        self
    }

    pub(super) const fn kept_by_status(mut self, fields: &'static [&'static str]) -> Self {
        self.rules.kept_by_status = fields;
        self
    }

    pub(super) const fn prepare_create(mut self, rule: fn(&mut Object)) -> Self {
        self.rules.prepare_create = rule;
        self
    }

    pub(super) const fn prepare_update(mut self, rule: PrepareUpdate) -> Self {
        self.rules.prepare_update = rule;
        self
    }

    pub(super) const fn author(mut self, rule: fn(&mut Object, &Author<'_>)) -> Self {
        self.rules.author = rule;
        self
    }

    pub(super) const fn date(mut self, rule: Date) -> Self {
        self.rules.date = rule;
        self
    }

    pub(super) const fn companions(mut self, rule: fn(&str, &str) -> Vec<Value>) -> Self {
        self.rules.companions = rule;
        self
    }

    pub(super) const fn counting(mut self, rule: Counting) -> Self {
        self.rules.counting = rule;
        self
    }

    pub(super) const fn answered(mut self, by: Answered) -> Self {
        self.answered = by;
        self
    }

    pub(super) const fn addressed(mut self, how: Addressed) -> Self {
        self.addressed = Some(how);
        self
    }

    pub(super) const fn validate(mut self, rule: Validate) -> Self {
        self.rules.validate = rule;
        self
    }

    pub(super) const fn validate_status(mut self, rule: fn(View<'_>, View<'_>, &mut ErrorList)) -> Self {
        self.rules.validate_status = rule;
        self
    }

    pub(super) const fn validate_update(mut self, rule: ValidateUpdate) -> Self {
        self.rules.validate_update = Some(rule);
        self
    }

    pub(super) const fn converts(mut self, serve: fn(&mut Object), store: fn(&mut Object)) -> Self {
        self.rules.serve = serve;
        self.rules.store = store;
        self
    }

    pub(super) const fn keep_unsaid(mut self, rule: fn(&mut Object, &Value)) -> Self {
        self.rules.keep_unsaid = rule;
        self
    }

    pub(super) const fn warnings(mut self, rule: fn(&Value, Option<&Value>) -> Vec<String>) -> Self {
        self.rules.warnings = rule;
        self
    }

    pub(super) const fn unlisted_field(mut self, rule: UnlistedField) -> Self {
        self.rules.unlisted_field = rule;
        self
    }

    pub(super) const fn cells(mut self, rule: Printer) -> Self {
        self.rules.cells = rule;
        self
    }

    pub(super) const fn row_conditions(mut self, rule: fn(&Value) -> Option<Value>) -> Self {
        self.rules.row_conditions = rule;
        self
    }
}
