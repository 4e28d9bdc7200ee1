//! Stored objects in the forms clients ask for: as they are, as rows of a
//! table, as metadata only; and in the version of the path.

use api::resource::Resource;
use api::table;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::convert;
use crate::negotiate::Shape;
use crate::object::{head, read};

/// What the rows of a table carry of their objects: the parameter `includeObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// A PartialObjectMetadata.
    Metadata,
    /// All of it.
    Object,
}

/// A stored object in the version of `resource`.
pub(crate) fn served(resource: &Resource, stored: &Bytes) -> Bytes {
    if convert::is_stored_form(resource) {
        return stored.clone();
    }
    match read(stored) {
        Ok(object) => encode(&convert::to_served(resource, object)),
        Err(_) => stored.clone(),
    }
}

/// A stored object in the form that was asked for, as JSON.
pub(crate) fn object(
    resource: &Resource,
    stored: &Bytes,
    shape: Shape,
    include: Include,
    now: Timestamp,
) -> Bytes {
    match shape {
        Shape::Object => served(resource, stored),
        Shape::Metadata => encode(&metadata(&shown(resource, stored))),
        Shape::Table => {
            let value = shown(resource, stored);
            let version = value["metadata"]["resourceVersion"].clone();
            let rows = vec![row(resource, &value, include, now)];
            encode(&table(resource, json!({ "resourceVersion": version }), rows, true))
        }
    }
}

/// A stored object for a table or a list of metadata. One that cannot be read has a name that
/// says so, and does not take the others out of sight.
pub(crate) fn shown(resource: &Resource, stored: &Bytes) -> Value {
    match read(stored) {
        Ok(object) => convert::to_served(resource, object),
        Err(_) => json!({ "metadata": { "name": "<unreadable>" } }),
    }
}

/// The item of a list: a stored object without kind and apiVersion, as upstream's
/// typed lists have it.
pub(crate) fn write_item(resource: &Resource, stored: &Bytes, out: &mut Vec<u8>) {
    let object = served(resource, stored);
    let head = head(resource);
    out.push(b'{');
    match object.strip_prefix(head.as_bytes()) {
        Some(rest) => out.extend_from_slice(rest),
        None => out.extend_from_slice(object.get(1..).unwrap_or(b"}")),
    }
}

/// The PartialObjectMetadata of an object.
pub(crate) fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// One row of a table.
pub(crate) fn row(resource: &Resource, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut row = json!({ "cells": table::cells(resource, object, now) });
    if let Some(conditions) = table::conditions(resource, object) {
        row["conditions"] = conditions;
    }
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = metadata(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// A table. Later events of a watch leave the columns out.
pub(crate) fn table(resource: &Resource, metadata: Value, rows: Vec<Value>, named: bool) -> Value {
    let columns = if named { json!(table::columns(resource)) } else { Value::Null };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// JSON of a value: text keys and finite numbers always encode.
pub(crate) fn encode(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
