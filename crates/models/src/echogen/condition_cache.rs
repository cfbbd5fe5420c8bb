//! Bounded caches of conditions across jobs, and the conditions of one batch.
//!
//! A text or a subject is known by the [`FeatureKey`] that its owner has for it, otherwise by a hash of its features, which
//! have to be read back from the device for it; "no text" by its length, "no subject" by its token counts. So a prompt's row
//! without subject is shared by all subjects, the row without text and subject by all prompts of one length, and the full row
//! by all seeds.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Result, Tensor};
use moka::{policy::EvictionPolicy, sync::Cache};
use sha2::{Digest, Sha256};

use super::{
    conditions::{RowCondition, SubjectCondition, TextCondition},
    model::{EchoGen, SubjectFeatures},
};

/// What the owner of features knows them by: equal keys have equal features, within one model.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FeatureKey([u8; 32]);

impl FeatureKey {
    /// Returns the key of what has this name, such as a prompt, or the key of an encoded subject in a store.
    pub fn of(name: &str) -> Self {
        Self(Sha256::digest(name.as_bytes()).into())
    }
}

impl std::fmt::Debug for FeatureKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FeatureKey({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// The keys of a request's features; none where nobody has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureKeys {
    /// Of the text.
    pub text: Option<FeatureKey>,
    /// Of the negative text.
    pub negative_text: Option<FeatureKey>,
    /// Of the subject.
    pub subject: Option<FeatureKey>,
}

/// The text of a guidance row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text<'a> {
    /// Features (T, text_channels), and their key.
    Features(&'a Tensor, Option<FeatureKey>),
    /// The learned "no text" with that many tokens.
    Nothing(usize),
}

/// The subject of a guidance row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    /// A subject's features, and their key.
    Features(&'a SubjectFeatures, Option<FeatureKey>),
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
    Given(FeatureKey),
    Features([u8; 32]),
    Nothing(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SubjectKey {
    Given(FeatureKey),
    Features([u8; 32]),
    Nothing(usize, usize),
}

/// Three caches (texts, subjects, pairs) with a common limit in bytes.
pub(crate) struct ConditionCache {
    texts: Cache<TextKey, Arc<TextCondition>>,
    subjects: Cache<SubjectKey, Arc<SubjectCondition>>,
    rows: Cache<(TextKey, SubjectKey), Arc<RowCondition>>,
}

/// The conditions of one batch: each is computed once, however little the cache can hold.
#[derive(Default)]
pub(crate) struct BatchConditions {
    texts: HashMap<TextKey, Arc<TextCondition>>,
    subjects: HashMap<SubjectKey, Arc<SubjectCondition>>,
    rows: HashMap<(TextKey, SubjectKey), Arc<RowCondition>>,
    usage: CacheUse,
}

impl BatchConditions {
    /// Returns what was found and what was computed so far.
    pub(crate) fn usage(&self) -> CacheUse {
        self.usage
    }
}

/// Hits and misses of a batch's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Number of rows found in the cache or in the batch.
    pub hits: usize,
    /// Number of rows computed.
    pub misses: usize,
    /// Number of texts and subjects computed for these rows.
    pub parts: usize,
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

    /// Returns the conditions of a row from the batch or the cache, or computes them.
    pub(crate) fn row(
        &self,
        model: &EchoGen,
        text: Text,
        subject: Subject,
        batch: &mut BatchConditions,
    ) -> Result<Arc<RowCondition>> {
        let (text_key, subject_key) = (text_key(text)?, subject_key(subject)?);
        let BatchConditions { texts, subjects, rows, usage } = batch;
        let misses = usage.misses;
        let row = find(rows, &self.rows, (text_key, subject_key), || {
            usage.misses += 1;
            let text = find(texts, &self.texts, text_key, || {
                usage.parts += 1;
                match text {
                    Text::Features(features, _) => model.text_condition(features),
                    Text::Nothing(length) => model.text_condition(&model.no_text(length)?),
                }
            })?;
            let subject = find(subjects, &self.subjects, subject_key, || {
                usage.parts += 1;
                match subject {
                    Subject::Features(features, _) => model.subject_condition(features),
                    Subject::Nothing { content, patches } => {
                        model.subject_condition(&model.no_subject(content, patches)?)
                    }
                }
            })?;
            model.row_condition(text, &subject, |_| ())
        })?;
        usage.hits += usize::from(usage.misses == misses);
        Ok(row)
    }
}

/// Returns a condition that the batch or the cache has, or computes it. Afterwards the batch has it, and the cache if it
/// was computed and is not too large.
fn find<K, V>(
    batch: &mut HashMap<K, Arc<V>>,
    cache: &Cache<K, Arc<V>>,
    key: K,
    compute: impl FnOnce() -> Result<V>,
) -> Result<Arc<V>>
where
    K: std::hash::Hash + Eq + Copy + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    if let Some(own) = batch.get(&key) {
        return Ok(Arc::clone(own));
    }
    let found = match cache.get(&key) {
        Some(kept) => kept,
        None => {
            let computed = Arc::new(compute()?);
            insert(cache, key, Arc::clone(&computed));
            computed
        }
    };
    batch.insert(key, Arc::clone(&found));
    Ok(found)
}

fn text_key(text: Text) -> Result<TextKey> {
    Ok(match text {
        Text::Features(_, Some(key)) => TextKey::Given(key),
        Text::Features(features, None) => TextKey::Features(hash(&[features])?),
        Text::Nothing(length) => TextKey::Nothing(length),
    })
}

fn subject_key(subject: Subject) -> Result<SubjectKey> {
    Ok(match subject {
        Subject::Features(_, Some(key)) => SubjectKey::Given(key),
        Subject::Features(s, None) => SubjectKey::Features(hash(&[&s.cls_token, &s.patch_tokens, &s.content])?),
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
