//! The index of a sharded checkpoint, `….index.json`: which tensor is in which file.

use crate::error::listed;
use crate::unique_map::UniqueMap;
use crate::{CheckpointError, Tensors, mapped::MappedFile};
use echogen_protocol::json::{self, Bounds};
use echogen_protocol::text::quoted;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Maximum length of an index in bytes. Those of the largest published models are a few megabytes.
const MAX_INDEX_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

pub(crate) fn open(path: &Path, tensors: &mut Tensors) -> Result<(), CheckpointError> {
    let file = MappedFile::open(path)?;
    let malformed = |reason: String| CheckpointError::malformed(path, reason);
    let Index { weight_map: UniqueMap(weight_map) } =
        json::read(file.bytes(), &Bounds::table(MAX_INDEX_BYTES)).map_err(|error| malformed(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for shard in weight_map.values().collect::<BTreeSet<_>>() {
        if !stays_inside(shard) {
            return Err(malformed(format!("shard {} lies outside the index's folder", quoted(shard))));
        }
        super::open_weights(&folder.join(shard), tensors)?;
    }
    let absent: Vec<&str> = weight_map
        .iter()
        .filter(|(name, shard)| tensors.get(name).is_none_or(|tensor| tensor.path() != folder.join(shard)))
        .map(|(name, _)| name.as_str())
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(malformed(format!("{} tensors are not in the shards it names: {}", absent.len(), listed(&absent))))
}

fn stays_inside(shard: &str) -> bool {
    let mut components = Path::new(shard).components().peekable();
    components.peek().is_some() && components.all(|component| matches!(component, Component::Normal(_)))
}
