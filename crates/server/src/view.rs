//! Stored objects in the forms clients ask for: as they are, as rows of a
//! table, as metadata only; and in the version of the path.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use api::convert;
use api::kinds::Kind;
use api::meta::Object as _;
use api::table::{self, TableRow};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Entry;

use crate::negotiate::Shape;
use crate::object::{Notes, head, metadata_span, read};
use crate::pieces::{Packed, Pieces};

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
pub(crate) fn served(resource: &Kind, stored: &Bytes) -> Bytes {
    if resource.is_storage() {
        return stored.clone();
    }
    match read(stored) {
        Ok(object) => encode(&convert::to_served(resource, object)),
        Err(_) => stored.clone(),
    }
}

/// A stored object in the form that was asked for, as JSON.
pub(crate) fn object(
    resource: &Kind,
    stored: &Bytes,
    shape: Shape,
    include: Include,
    now: Timestamp,
) -> Bytes {
    match shape {
        Shape::Object => served(resource, stored),
        Shape::Metadata => encode(&metadata(&shown(resource, stored))),
        Shape::Table => table_of_one(resource, stored, include, now, true),
    }
}

/// A table with a single row.
pub(crate) fn table_of_one(
    resource: &Kind,
    stored: &Bytes,
    include: Include,
    now: Timestamp,
    columns: bool,
) -> Bytes {
    let row = Row::of(resource, stored);
    let mut out = Pieces::default();
    let version = json!({ "resourceVersion": row.version });
    begin_table(resource, &version, columns, out.fresh());
    row.write(resource, stored, include, now, &mut out);
    out.fresh().extend_from_slice(END_OF_TABLE);
    out.plain()
}

/// An object as a row, computed once.
#[derive(Debug)]
pub(crate) struct Row {
    cells: TableRow,
    /// The object's resourceVersion, as JSON.
    version: Value,
    /// Where its metadata is in its stored bytes.
    metadata: Option<Range<usize>>,
    packed_metadata: OnceLock<Packed>,
}

impl Row {
    fn of(resource: &Kind, stored: &Bytes) -> Self {
        let object = shown(resource, stored);
        Self {
            cells: table::row(resource, &object),
            version: object.meta().resource_version().into(),
            metadata: metadata_span(resource.storage(), stored),
            packed_metadata: OnceLock::new(),
        }
    }

    fn write<'a>(
        &'a self,
        resource: &Kind,
        stored: &'a Bytes,
        include: Include,
        now: Timestamp,
        out: &mut Pieces<'a>,
    ) {
        out.fresh().push(b'{');
        self.cells.write(now, out.fresh());
        if include != Include::None {
            out.fresh().extend_from_slice(b",\"object\":");
        }
        match include {
            Include::None => {}
            Include::Object => out.fresh().extend_from_slice(&served(resource, stored)),
            Include::Metadata => self.write_metadata(resource, stored, out),
        }
        out.fresh().push(b'}');
    }

    fn write_metadata<'a>(&'a self, resource: &Kind, stored: &'a Bytes, out: &mut Pieces<'a>) {
        let Some(span) = &self.metadata else {
            let object = shown(resource, stored);
            return out.fresh().extend_from_slice(&encode(&metadata(&object)));
        };
        out.fresh().extend_from_slice(PARTIAL);
        out.keep(&stored[span.clone()], &self.packed_metadata);
        out.fresh().push(b'}');
    }
}

/// What a PartialObjectMetadata begins with.
const PARTIAL: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;

/// A table up to its rows. Later events of a watch leave the columns out.
fn begin_table(resource: &Kind, metadata: &Value, columns: bool, out: &mut Vec<u8>) {
    let columns = if columns { json!(table::columns(resource)) } else { Value::Null };
    out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.extend_from_slice(&encode(metadata));
    out.extend_from_slice(br#","columnDefinitions":"#);
    out.extend_from_slice(&encode(&columns));
    out.extend_from_slice(br#","rows":["#);
}

/// What a table ends with.
const END_OF_TABLE: &[u8] = b"]}";

/// A table of entries.
pub(crate) fn table<'a>(
    resource: &Kind,
    metadata: &Value,
    entries: &'a [Arc<Entry>],
    include: Include,
    now: Timestamp,
) -> Pieces<'a> {
    let mut out = Pieces::default();
    begin_table(resource, metadata, true, out.fresh());
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.fresh().push(b',');
        }
        match Notes::of(entry).filter(|_| resource.is_storage()) {
            Some(notes) => {
                let row = notes.row(|| Row::of(resource, &entry.value));
                row.write(resource, &entry.value, include, now, &mut out);
            }
            // Rare, and nothing to keep them with: a second version of few kinds.
            None => {
                let mut one = Pieces::default();
                let row = Row::of(resource, &entry.value);
                row.write(resource, &entry.value, include, now, &mut one);
                out.fresh().extend_from_slice(&one.plain());
            }
        }
    }
    out.fresh().extend_from_slice(END_OF_TABLE);
    out
}

/// A row of a table that stands for no object: a bookmark.
pub(crate) fn bookmark_table(resource: &Kind, metadata: &Value, object: &Value, columns: bool) -> Bytes {
    let mut out = Vec::new();
    begin_table(resource, metadata, columns, &mut out);
    out.extend_from_slice(&encode(&json!({ "cells": [], "object": object })));
    out.extend_from_slice(END_OF_TABLE);
    out.into()
}

/// A list of metadata.
pub(crate) fn metadata_list<'a>(resource: &Kind, metadata: &Value, entries: &'a [Arc<Entry>]) -> Pieces<'a> {
    let mut out = Pieces::default();
    let head = br#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":"#;
    out.fresh().extend_from_slice(head);
    out.fresh().extend_from_slice(&encode(metadata));
    out.fresh().extend_from_slice(br#","items":["#);
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.fresh().push(b',');
        }
        match Notes::of(entry).filter(|_| resource.is_storage()) {
            Some(notes) => {
                let row = notes.row(|| Row::of(resource, &entry.value));
                row.write_metadata(resource, &entry.value, &mut out);
            }
            None => {
                let object = shown(resource, &entry.value);
                out.fresh().extend_from_slice(&encode(&self::metadata(&object)));
            }
        }
    }
    out.fresh().extend_from_slice(b"]}");
    out
}

/// A stored object for a table or a list of metadata. One that cannot be read has a name that
/// says so, and does not take the others out of sight.
pub(crate) fn shown(resource: &Kind, stored: &Bytes) -> Value {
    match read(stored) {
        Ok(object) => convert::to_served(resource, object),
        Err(_) => json!({ "metadata": { "name": "<unreadable>" } }),
    }
}

/// The item of a list: a stored object without kind and apiVersion, as upstream's typed lists have it.
pub(crate) fn write_item<'a>(resource: &Kind, entry: &'a Entry, out: &mut Pieces<'a>) {
    let head = head(resource);
    out.fresh().push(b'{');
    let kept = Notes::of(entry).filter(|_| resource.is_storage());
    match (kept, entry.value.strip_prefix(head.as_bytes())) {
        (Some(notes), Some(rest)) => out.keep(rest, notes.item()),
        _ => {
            let object = served(resource, &entry.value);
            let rest = object.strip_prefix(head.as_bytes()).or_else(|| object.get(1..));
            out.fresh().extend_from_slice(rest.unwrap_or(b"}"));
        }
    }
}

/// The PartialObjectMetadata of an object.
pub(crate) fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.meta().to_value(),
    })
}

/// JSON of a value: text keys and finite numbers always encode.
pub(crate) fn encode(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
