//! The file: rows of redb, written by one durable transaction for each commit.
//!
//! Quick-repair is on for every commit, so that a file whose process was killed
//! opens in milliseconds (without it the next open walks the whole file). It
//! implies two-phase commit: two syncs, and no trust in checksums.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::interface::{Entry, Error};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// The revision of the last write in the file.
const REVISION: &str = "revision";
/// Revisions up to this one may have been given out to writes that are not in the file.
const CEILING: &str = "ceiling";
/// create_revision and revision, little endian, before each value.
const HEADER: usize = 16;

/// Reads never touch the file, so the pages redb keeps are only those the next
/// commit is likely to change.
const CACHE_BYTES: usize = 2 << 20;

/// Opens the file, again after a failure. A trait so that tests can put a disk
/// underneath that loses or refuses writes.
pub(crate) trait Medium: Send + 'static {
    fn open(&self, builder: &redb::Builder) -> Result<Database, redb::DatabaseError>;
}

impl<F> Medium for F
where
    F: Fn(&redb::Builder) -> Result<Database, redb::DatabaseError> + Send + 'static,
{
    fn open(&self, builder: &redb::Builder) -> Result<Database, redb::DatabaseError> {
        self(builder)
    }
}

/// A row as the next transaction will write it: `None` removes it.
pub(crate) type Row = (Arc<str>, Option<Arc<Entry>>);

/// The counters that are kept beside the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) revision: u64,
    pub(crate) ceiling: u64,
}

pub(crate) struct Disk {
    medium: Box<dyn Medium>,
    database: Option<Database>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("open", &self.database.is_some()).finish_non_exhaustive()
    }
}

impl Disk {
    pub(crate) fn open(medium: Box<dyn Medium>) -> Result<Self, redb::Error> {
        let mut disk = Self { medium, database: None };
        disk.reopen()?;
        Ok(disk)
    }

    /// Opens the file again after a failed commit: redb refuses everything after
    /// an input or output error. Answers what the file holds now.
    pub(crate) fn reopen(&mut self) -> Result<Counters, redb::Error> {
        self.database = None;
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let database = self.medium.open(&builder)?;
        let counters = read_counters(&database)?;
        self.database = Some(database);
        Ok(counters)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Everything in the file, in key order.
    pub(crate) fn load(&self) -> Result<(Counters, Vec<Entry>), redb::Error> {
        let Some(database) = &self.database else { return Err(redb::Error::DatabaseClosed) };
        let counters = read_counters(database)?;
        let transaction = database.begin_read()?;
        let mut entries = Vec::new();
        match transaction.open_table(OBJECTS) {
            Ok(table) => {
                for row in table.iter()? {
                    let (key, value) = row?;
                    entries.push(read_row(key.value(), value.value())?);
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(err) => return Err(err.into()),
        }
        Ok((counters, entries))
    }

    /// Writes the rows in one durable transaction. After an error the file holds
    /// either all of it or nothing, and has to be opened again.
    pub(crate) fn commit<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Row>,
        counters: Counters,
    ) -> Result<(), redb::Error> {
        let Some(database) = &self.database else { return Err(redb::Error::DatabaseClosed) };
        let result = write(database, rows, counters);
        if result.is_err() {
            self.database = None;
        }
        result
    }
}

fn write<'a>(
    database: &Database,
    rows: impl Iterator<Item = &'a Row>,
    counters: Counters,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for (key, entry) in rows {
            let Some(entry) = entry else {
                objects.remove(&**key)?;
                continue;
            };
            let mut row = objects.insert_reserve(&**key, HEADER + entry.value.len())?;
            let row = row.as_mut();
            row[..8].copy_from_slice(&entry.create_revision.to_le_bytes());
            row[8..HEADER].copy_from_slice(&entry.revision.to_le_bytes());
            row[HEADER..].copy_from_slice(&entry.value);
        }
        let mut table = transaction.open_table(COUNTERS)?;
        table.insert(REVISION, counters.revision)?;
        table.insert(CEILING, counters.ceiling)?;
    }
    transaction.commit()?;
    Ok(())
}

fn read_counters(database: &Database) -> Result<Counters, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(COUNTERS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Counters::default()),
        Err(err) => return Err(err.into()),
    };
    let read = |name| Ok::<_, redb::Error>(table.get(name)?.map_or(0, |value| value.value()));
    Ok(Counters { revision: read(REVISION)?, ceiling: read(CEILING)? })
}

fn read_row(key: &str, row: &[u8]) -> Result<Entry, redb::Error> {
    let (Some((create, rest)), key) = (row.split_first_chunk::<8>(), Arc::from(key)) else {
        return Err(redb::Error::Corrupted(format!("the row of {key} is too short")));
    };
    let Some((revision, value)) = rest.split_first_chunk::<8>() else {
        return Err(redb::Error::Corrupted(format!("the row of {key} is too short")));
    };
    let value = Bytes::copy_from_slice(value);
    Ok(Entry::new(key, value, u64::from_le_bytes(*create), u64::from_le_bytes(*revision)))
}

/// What a caller of the store is told about a failure of the disk.
pub(crate) fn explain(err: redb::Error) -> Error {
    match err {
        redb::Error::Io(io) if is_full(&io) => Error::Full,
        err => Error::Disk(Arc::new(err)),
    }
}

fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
