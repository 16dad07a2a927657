//! The store under measurement, open, with what it counts and a runtime for its async methods.

use std::path::Path;

use bytes::Bytes;
use prometheus::Registry;
use skerry_store::{Located, Store, StoreConfig};
use tokio::runtime::{Builder, Runtime};

use crate::Result;

/// An open store. RocksDB is closed when this is dropped.
pub(crate) struct Subject {
    pub(crate) store: Store,
    registry: Registry,
    runtime: Runtime,
}

impl Subject {
    /// Opens or makes it.
    pub(crate) fn open(dir: &Path, config: &StoreConfig) -> Result<Self> {
        let registry = Registry::new();
        let store = Store::open(dir, config, &registry)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).build()?;
        Ok(Self { store, registry, runtime })
    }

    /// Reads a chunk. Any number of threads may.
    pub(crate) fn read(&self, chunk: Located) -> Result<Option<Bytes>> {
        Ok(self.runtime.block_on(self.store.read(chunk))?)
    }

    /// All chunks put so far are on the disk when this returns.
    pub(crate) fn flush(&self) -> Result<()> {
        Ok(self.runtime.block_on(self.store.close())?)
    }

    /// A metric of the store, summed up over all that have this label value.
    pub(crate) fn metric(&self, name: &str, label: Option<&str>) -> Result<f64> {
        self.store.refresh_metrics();
        let families = self.registry.gather();
        let mut values = families
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                label.is_none_or(|label| metric.get_label().iter().any(|pair| pair.value() == label))
            })
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .peekable();
        values
            .peek()
            .ok_or_else(|| format!("the store has no metric {name} {}", label.unwrap_or_default()))?;
        Ok(values.sum())
    }
}
