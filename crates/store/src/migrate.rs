//! From the engine before this one: a file of redb, read once.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::disk::{Counters, Disk, InDirectory};
use crate::embedded::OpenError;
use crate::interface::Entry;

const FORMER: &str = "store.redb";
/// Where the old file stays, for whoever goes back to the old program.
const KEPT: &str = "store.redb.migrated";
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Writes `path` from the former engine's file, if there is that one and not this one.
pub(crate) fn from_redb(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let former = directory.join(FORMER);
    if path.exists() || !former.exists() {
        return Ok(());
    }
    let failed = |err| OpenError::Former { path: former.clone(), err: Box::new(err) };
    let (counters, entries) = load(&former).map_err(failed)?;
    let at = |err| OpenError::Directory { path: directory.to_owned(), err };
    let medium = Box::new(InDirectory::new(path.to_owned()));
    let (mut disk, _) = Disk::open(medium).map_err(|err| OpenError::of(path, err))?;
    disk.rewrite(&entries, counters).map_err(at)?;
    fs::rename(&former, directory.join(KEPT)).map_err(at)?;
    tracing::info!(objects = entries.len(), "the store has a new format; the old file is kept as {KEPT}");
    Ok(())
}

fn load(path: &Path) -> Result<(Counters, Vec<Arc<Entry>>), redb::Error> {
    let database = redb::Database::open(path)?;
    let transaction = database.begin_read()?;
    let mut counters = Counters::default();
    match transaction.open_table(COUNTERS) {
        Ok(table) => {
            let read = |name| Ok::<_, redb::Error>(table.get(name)?.map_or(0, |value| value.value()));
            counters = Counters { revision: read("revision")?, ceiling: read("ceiling")? };
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(err) => return Err(err.into()),
    }
    let mut entries = Vec::new();
    match transaction.open_table(OBJECTS) {
        Ok(table) => {
            for row in table.iter()? {
                let (key, value) = row?;
                entries.push(Arc::new(read_row(key.value(), value.value())?));
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(err) => return Err(err.into()),
    }
    Ok((counters, entries))
}

/// create_revision and revision, little endian, stand before each value.
fn read_row(key: &str, row: &[u8]) -> Result<Entry, redb::Error> {
    let split = row.split_first_chunk::<8>().and_then(|(create, rest)| {
        rest.split_first_chunk::<8>().map(|(revision, value)| (create, revision, value))
    });
    let Some((create, revision, value)) = split else {
        return Err(redb::Error::Corrupted(format!("the row of {key} is too short")));
    };
    let value = Bytes::copy_from_slice(value);
    Ok(Entry::new(Arc::from(key), value, u64::from_le_bytes(*create), u64::from_le_bytes(*revision)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedded, History, Store};

    #[test]
    fn a_file_of_the_former_engine_is_taken_over_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let former = redb::Database::create(directory.path().join(FORMER)).unwrap();
        let transaction = former.begin_write().unwrap();
        {
            let mut objects = transaction.open_table(OBJECTS).unwrap();
            let row = [&3_u64.to_le_bytes()[..], &7_u64.to_le_bytes(), b"value"].concat();
            objects.insert("/pods/default/a", row.as_slice()).unwrap();
            let mut counters = transaction.open_table(COUNTERS).unwrap();
            counters.insert("revision", 9).unwrap();
            counters.insert("ceiling", 1_009).unwrap();
        }
        transaction.commit().unwrap();
        drop(former);
        let store = Embedded::open(directory.path(), |value, _| value.clone(), History::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let entry = runtime.block_on(store.get("/pods/default/a")).unwrap().unwrap();
        assert_eq!((entry.create_revision, entry.revision, &entry.value[..]), (3, 7, &b"value"[..]));
        assert_eq!(store.revision(), 1_009, "revisions that may have been given out are not given again");
        assert!(directory.path().join(KEPT).exists() && !directory.path().join(FORMER).exists());
    }
}
