//! What the filler asks of the rest of the node: to hold something, to let go of it, to say what it
//! holds, and to keep a few records.

use std::sync::Arc;

use skerry_core::bucket::Bucket;
use skerry_core::role::BoxFuture;
use skerry_store::catalogue::Progress;
use skerry_store::meta::{Change, Table};
use skerry_store::{ChunkId, Store, StoreError};

use crate::error::HoldFailure;
use crate::item::Item;
use crate::plan::{Changes, HeldSummary};

/// Makes the node hold things.
pub trait Holder: Send + Sync + 'static {
    /// Fetches what is missing of an item, pins it under [`Item::pin`], verifies it and puts it on record
    /// as a resource. A fetch that was broken off goes on where it was; dropping the future stops it.
    fn hold(
        &self,
        item: &Item,
        progress: Arc<Progress>,
        rate: Arc<Bucket>,
    ) -> BoxFuture<'static, Result<ChunkId, HoldFailure>>;

    /// Lets go of what is pinned under [`Item::pin`], a resource or a part of one. What others have pinned
    /// stays, another item too that has the same content.
    fn release(&self, item: &Item) -> BoxFuture<'static, Result<(), StoreError>>;

    /// All that the node holds. Blocks for the disk.
    ///
    /// # Errors
    /// When the store fails.
    fn held(&self) -> Result<Vec<HeldSummary>, StoreError>;

    /// What can still be pinned, bytes.
    fn pinnable(&self) -> u64;
}

/// Keys and values.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Where the plan is kept over a restart. Calls block for the disk.
pub trait Journal: Send + Sync + 'static {
    /// All records.
    ///
    /// # Errors
    /// When the store fails.
    fn load(&self) -> Result<Records, StoreError>;

    /// Writes records, or removes those without a value.
    ///
    /// # Errors
    /// When the store fails.
    fn write(&self, changes: Changes) -> Result<(), StoreError>;
}

impl Journal for Store {
    fn load(&self) -> Result<Records, StoreError> {
        let mut records = Vec::new();
        self.meta().scan(Table::Preload, b"", |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            true
        })?;
        Ok(records)
    }

    fn write(&self, changes: Changes) -> Result<(), StoreError> {
        let change = |(key, value)| match value {
            Some(value) => Change::Put(Table::Preload, key, value),
            None => Change::Delete(Table::Preload, key),
        };
        // A power cut may cost a count of failures, and nothing that cannot be asked for again.
        self.meta().write(&changes.into_iter().map(change).collect::<Vec<_>>(), false)
    }
}

#[cfg(test)]
mod tests {
    use skerry_store::StoreConfig;

    use super::*;

    #[test]
    fn records_are_kept_in_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let registry = prometheus::Registry::new();
        let store = Store::open(folder.path(), &StoreConfig::default(), &registry).unwrap();
        let (a, b) = (b"item a".to_vec(), b"list".to_vec());
        store.write(vec![(a.clone(), Some(vec![1])), (b.clone(), Some(vec![2]))]).unwrap();
        assert_eq!(store.load().unwrap(), [(a.clone(), vec![1]), (b.clone(), vec![2])]);
        store.write(vec![(a, None), (b.clone(), Some(vec![3]))]).unwrap();
        assert_eq!(store.load().unwrap(), [(b, vec![3])]);
    }
}
