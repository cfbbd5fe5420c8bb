//! Strict loading: builds a network from a checkpoint and compares the two by tensor name and shape.

use crate::error::Misshaped;
use crate::{Checkpoint, CheckpointError, Mismatch};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tensors requested so far, and the faults found.
#[derive(Default)]
struct Record {
    used: BTreeSet<String>,
    mismatch: Mismatch,
}

/// A backend that answers every request and records those that the checkpoint cannot satisfy.
struct RecordingBackend {
    checkpoint: Checkpoint,
    record: Arc<Mutex<Record>>,
}

pub(crate) fn load<T>(
    checkpoint: &Checkpoint,
    dtype: DType,
    device: &Device,
    ignored: impl Fn(&str) -> bool,
    build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
) -> Result<T, CheckpointError> {
    let record = Arc::new(Mutex::new(Record::default()));
    let backend = RecordingBackend { checkpoint: checkpoint.clone(), record: record.clone() };
    let built = build(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()));
    let mut record = lock(&record);
    let mut mismatch = std::mem::take(&mut record.mismatch);
    // A failed constructor may not have requested all its tensors, so the remaining ones are not "unexpected".
    if built.is_ok() {
        let unexpected = checkpoint.names().filter(|name| !record.used.contains(*name) && !ignored(name));
        mismatch.unexpected = unexpected.map(str::to_owned).collect();
    }
    mismatch.origin = checkpoint.origin();
    match built {
        _ if !mismatch.is_empty() => Err(CheckpointError::Mismatch(Box::new(mismatch))),
        Ok(network) => Ok(network),
        Err(source) => Err(CheckpointError::Build { origin: checkpoint.origin(), source }),
    }
}

/// Ignores poisoning: after a panic of a constructor on another thread the record is still valid.
fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RecordingBackend {
    /// Marks `name` as used and returns its shape, or records (once) that it is missing.
    fn find(&self, name: &str) -> Option<Vec<usize>> {
        let mut record = lock(&self.record);
        let first_time = record.used.insert(name.to_owned());
        let shape = self.checkpoint.shape(name).map(<[usize]>::to_vec);
        if shape.is_none() && first_time {
            record.mismatch.missing.push(name.to_owned());
        }
        shape
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Option<Tensor>> {
        match self.checkpoint.tensor(name, dtype, device) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(error) => {
                lock(&self.record).mismatch.unreadable.push(format!("{name} ({error})"));
                Ok(None)
            }
        }
    }
}

impl SimpleBackend for RecordingBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let found = self.find(name);
        let fits = found.as_deref() == Some(shape.dims());
        let tensor = if fits { self.read(name, dtype, device)? } else { None };
        if let Some(tensor) = tensor {
            return Ok(tensor);
        }
        if let Some(found) = found.filter(|_| !fits) {
            let misshaped = Misshaped { name: name.to_owned(), expected: shape.dims().to_vec(), found };
            lock(&self.record).mismatch.misshaped.push(misshaped);
        }
        // One element, broadcast to the shape: nothing is allocated, the constructor continues, and `load` fails at
        // the end.
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name) {
            Some(_) => self.read(name, dtype, device)?,
            None => None,
        }
        .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.shape(name).is_some()
    }
}
