//! Bounded caches of conditions across jobs.
//!
//! Keys are derived from content: a text's key from its features (for "no text" from its length), a subject's from its
//! features (for "no subject" from its token counts). So a prompt's row without subject is shared by all subjects, the
//! row without text and subject is shared by all prompts of one length, and the full row is shared by all seeds.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use moka::{policy::EvictionPolicy, sync::Cache};
use sha2::{Digest, Sha256};

use super::{
    conditions::{RowCondition, SubjectCondition, TextCondition},
    model::{EchoGen, SubjectFeatures},
};

/// The text of a guidance row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text<'a> {
    /// Features (T, text_channels).
    Features(&'a Tensor),
    /// The learned "no text" with that many tokens.
    Nothing(usize),
}

/// The subject of a guidance row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    /// A subject's features.
    Features(&'a SubjectFeatures),
    /// The learned "no subject".
    Nothing {
        /// Number of content tokens.
        content: usize,
        /// Number of patches.
        patches: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TextKey {
    Features([u8; 32]),
    Nothing(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SubjectKey {
    Features([u8; 32]),
    Nothing(usize, usize),
}

/// Three caches (texts, subjects, pairs) with a common limit in bytes.
pub(crate) struct ConditionCache {
    texts: Cache<TextKey, Arc<TextCondition>>,
    subjects: Cache<SubjectKey, Arc<SubjectCondition>>,
    rows: Cache<(TextKey, SubjectKey), Arc<RowCondition>>,
}

/// Hits and misses of the condition cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Number of rows found in the cache.
    pub hits: usize,
    /// Number of rows computed.
    pub misses: usize,
}

/// Returns the cache weight in KiB, because moka's weights are 32-bit.
fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn lru<K, V>(bytes: usize, size: fn(&V) -> usize) -> Cache<K, Arc<V>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity((bytes / 1024) as u64)
        .weigher(move |_, value: &Arc<V>| weight(size(value)))
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

/// Inserts a value and evicts at once. Left to itself, `moka` evicts some time after the limit is exceeded, which is too
/// late for values of many megabytes.
fn insert<K, V>(cache: &Cache<K, Arc<V>>, key: K, value: Arc<V>)
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    cache.insert(key, value);
    cache.run_pending_tasks();
}

impl ConditionCache {
    /// Creates a cache of at most `bytes`. The pairs, which are the most expensive to compute, get five eighths of it,
    /// the texts a quarter, the subjects an eighth.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            texts: lru(bytes / 4, TextCondition::bytes),
            subjects: lru(bytes / 8, SubjectCondition::bytes),
            rows: lru(bytes / 8 * 5, RowCondition::bytes),
        }
    }

    /// Returns the conditions of a row from the cache, or computes them. Counts the hit or miss in `usage`.
    pub(crate) fn row(
        &self,
        model: &EchoGen,
        text: Text,
        subject: Subject,
        usage: &mut CacheUse,
    ) -> Result<Arc<RowCondition>> {
        let key = (text_key(text)?, subject_key(subject)?);
        if let Some(row) = self.rows.get(&key) {
            usage.hits += 1;
            return Ok(row);
        }
        usage.misses += 1;
        let text = self.text(model, key.0, text)?;
        let subject = self.subject(model, key.1, subject)?;
        let row = Arc::new(model.row_condition(text, &subject, |_| ())?);
        insert(&self.rows, key, Arc::clone(&row));
        Ok(row)
    }

    fn text(&self, model: &EchoGen, key: TextKey, text: Text) -> Result<Arc<TextCondition>> {
        if let Some(kept) = self.texts.get(&key) {
            return Ok(kept);
        }
        let computed = Arc::new(match text {
            Text::Features(features) => model.text_condition(features)?,
            Text::Nothing(length) => model.text_condition(&model.no_text(length)?)?,
        });
        insert(&self.texts, key, Arc::clone(&computed));
        Ok(computed)
    }

    fn subject(&self, model: &EchoGen, key: SubjectKey, subject: Subject) -> Result<Arc<SubjectCondition>> {
        if let Some(kept) = self.subjects.get(&key) {
            return Ok(kept);
        }
        let computed = Arc::new(match subject {
            Subject::Features(features) => model.subject_condition(features)?,
            Subject::Nothing { content, patches } => model.subject_condition(&model.no_subject(content, patches)?)?,
        });
        insert(&self.subjects, key, Arc::clone(&computed));
        Ok(computed)
    }
}

fn text_key(text: Text) -> Result<TextKey> {
    Ok(match text {
        Text::Features(features) => TextKey::Features(hash(&[features])?),
        Text::Nothing(length) => TextKey::Nothing(length),
    })
}

fn subject_key(subject: Subject) -> Result<SubjectKey> {
    Ok(match subject {
        Subject::Features(s) => SubjectKey::Features(hash(&[&s.cls_token, &s.patch_tokens, &s.content])?),
        Subject::Nothing { content, patches } => SubjectKey::Nothing(content, patches),
    })
}

fn hash(tensors: &[&Tensor]) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    for tensor in tensors {
        hasher.update((tensor.elem_count() as u64).to_le_bytes());
        for value in tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()? {
            hasher.update(value.to_le_bytes());
        }
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_after_every_insertion() {
        const KIB: usize = 1024;
        let cache = lru(10 * KIB, Vec::<u8>::len);
        for key in 0..100_u32 {
            insert(&cache, key, Arc::new(vec![0; 3 * KIB]));
            assert!(cache.weighted_size() <= 10, "{} KiB after {key}", cache.weighted_size());
        }
        assert!(cache.get(&99).is_some() && cache.get(&0).is_none());
    }
}
