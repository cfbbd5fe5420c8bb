//! What a client asks for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    AspectRatio, ContentHash, Guidance, ImageLocation, ImageSource, OutputOptions, Partitions, PerScale, PixelBudget,
    QueueName, Seeds, StageName, Subject, limits, names::named,
};

// Of a client's job nothing unknown is accepted: `Job::parse` compares it with the schema, which is closed. Serde's reader,
// by which the stages read the jobs inside their tasks, ignores what a later version may add.
/// One request: a subject, a prompt, and how to sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Job {
    /// Idempotency key: the same id names the same job, however often it is sent. Absent: derived from all the other
    /// fields, so that the same line in a jobs file is the same job.
    #[serde(default, deserialize_with = "given_id")]
    #[schemars(transform = without_default)]
    pub id: JobId,
    /// Whose job it is, in letters, digits, `.`, `_`, `-`. It decides which of a lane's queues the job is published to; the
    /// service itself does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::MAX_TENANT_CHARS), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub tenant: Option<String>,
    /// What to put into the scene.
    pub subject: Subject,
    /// The scene, in words; at most 2,000 characters.
    #[schemars(length(min = 1, max = limits::MAX_PROMPT_CHARS))]
    pub prompt: String,
    /// What the picture should not show; takes the place of "no text" in the guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::MAX_PROMPT_CHARS))]
    pub negative_prompt: Option<String>,
    /// One picture is made for each seed.
    #[serde(default)]
    pub seeds: Seeds,
    /// Width to height, such as `"1:1"`, `"16:9"` or 1.5; from 1:3 to 3:1. The nearest shape that the networks support
    /// is used.
    #[serde(default)]
    pub aspect_ratio: AspectRatio,
    /// About how many pixels a picture has. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixel_budget: Option<PixelBudget>,
    /// Strength of text and subject. Absent: the bundle's defaults.
    #[serde(default)]
    pub guidance: Guidance,
    /// Divides the logits, above 0 and at most 100: above 1 is more varied, below 1 is safer. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<PerScale>,
    /// 1 always takes the likelier value of a bit (greedy); more changes nothing, since a bit has two values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
    /// A bit value as rare as `1 - top_p` is never drawn; above 0, at most 1. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub top_p: Option<f64>,
    /// How and where the pictures are written.
    #[serde(default)]
    pub output: OutputOptions,
    /// Which intake queue serves the job.
    #[serde(default)]
    pub lane: Lane,
    /// A job without a result at this time ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// An `https://` address that is notified when the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::MAX_CALLBACK_CHARS), regex(pattern = "^https://[^/]"))]
    pub callback: Option<String>,
    /// Asks again for a job that has failed, expired or was cancelled or parked: a number greater than that of the asking
    /// before, such as the time in milliseconds. What has completed stays as it is.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = limits::MAX_AGAIN))]
    pub again: u64,
    /// Small pictures of each picture on its way, from the scales sampled so far: this many, evenly over the scales but for
    /// the last. They change no picture, and are left out while other work waits.
    #[serde(default, skip_serializing_if = "no_previews")]
    #[schemars(range(max = limits::MAX_PREVIEWS))]
    pub previews: u32,
    /// The client's own notes; copied into the result, except when the job is cancelled or its JSON is invalid. At most 64
    /// of them, keys to 64 characters, values to 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = limits::MAX_METADATA_ENTRIES))]
    pub metadata: BTreeMap<String, String>,
}

impl Job {
    /// A job of one picture with every setting at its default, and no id yet.
    pub fn new(image: ImageSource, prompt: impl Into<String>) -> Self {
        Self {
            id: JobId::default(),
            tenant: None,
            subject: Subject::new(image),
            prompt: prompt.into(),
            negative_prompt: None,
            seeds: Seeds::default(),
            aspect_ratio: AspectRatio::default(),
            pixel_budget: None,
            guidance: Guidance::default(),
            temperature: None,
            top_k: None,
            top_p: None,
            output: OutputOptions::default(),
            lane: Lane::default(),
            deadline: None,
            callback: None,
            again: 0,
            previews: 0,
            metadata: BTreeMap::new(),
        }
    }

    /// Gives the job the id that follows from its other fields, unless it has one.
    #[must_use]
    pub fn with_id(mut self) -> Self {
        if self.id.0.is_empty() {
            // Whoever asks again names the same job.
            let again = std::mem::take(&mut self.again);
            self.id = JobId(format!("job-{:.32}", self.hash().to_string()));
            self.again = again;
        }
        self
    }

    /// The intake queue of its lane and of its tenant's partition.
    pub fn intake(&self, partitions: Partitions) -> QueueName {
        QueueName::in_partition(StageName::Dispatcher, self.lane, partitions.of(self.tenant.as_deref()))
    }

    /// What the job asks for: a hash of everything that determines its pictures, where they are written, and nothing else.
    /// An id has one content.
    pub fn content(&self) -> ContentHash {
        let (id, tenant, lane, callback) = (JobId::default(), None, Lane::default(), None);
        let (again, previews, deadline, metadata) = (0, 0, None, BTreeMap::new());
        let mut bare = Self { id, tenant, lane, deadline, callback, again, previews, metadata, ..self.clone() };
        // A path says where a picture is, not which: the same files may lie elsewhere.
        if matches!(bare.subject.image.location(), Ok(ImageLocation::File(_))) {
            bare.subject.image = ImageSource(String::new());
        }
        bare.hash()
    }

    /// The same job without its id, if the id is the one that follows from the other fields; for whoever changes those.
    #[must_use]
    pub fn without_derived_id(mut self) -> Self {
        let given = std::mem::take(&mut self.id);
        let mut job = self.with_id();
        job.id = if job.id == given { JobId::default() } else { given };
        job
    }

    /// Fields are serialised in a fixed order and the map is sorted: equal jobs have equal bytes.
    fn hash(&self) -> ContentHash {
        ContentHash::of_json(self).unwrap_or_else(|| ContentHash::of(b""))
    }

    /// What has to be known of the job to end it without its pictures.
    pub fn outline(&self) -> JobOutline {
        JobOutline {
            lane: self.lane,
            id: self.id.clone(),
            result_key: self.result_key(),
            seeds: self.seeds.values(),
            deadline: self.deadline,
            callback: self.callback.clone(),
            tenant: self.tenant.clone(),
            again: self.again,
            metadata: self.metadata.clone(),
        }
    }

    /// The prefix of the job's results in the result store: `<destination>/<id>`, or `<id>`.
    pub fn result_prefix(&self) -> String {
        self.id.result_prefix(self.output.destination.as_deref())
    }

    /// The key of the job's `result.json`, which exists if the job has ended.
    pub fn result_key(&self) -> String {
        self.id.result_key(self.output.destination.as_deref())
    }
}

/// Whether a number is left out of JSON: [`Job::again`] where the job was asked for once.
pub fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether [`Job::previews`] is left out of JSON.
fn no_previews(previews: &u32) -> bool {
    *previews == 0
}

/// What is needed of a job to end it without its pictures. Unlike the job it never contains a picture, so it is cheap
/// to keep beside a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutline {
    /// The job.
    pub id: JobId,
    /// The key of its `result.json`.
    pub result_key: String,
    /// Its lane.
    pub lane: Lane,
    /// The seeds, one by one.
    pub seeds: Vec<u64>,
    /// A job without a result at this time ends as expired.
    pub deadline: Option<Timestamp>,
    /// The address that is called when the job has ended.
    pub callback: Option<String>,
    /// Whose job it is; decides which secrets sign the call.
    pub tenant: Option<String>,
    /// See [`Job::again`].
    pub again: u64,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
}

impl JobOutline {
    /// The outline of a job of which only the id is known.
    pub fn of_id(id: JobId) -> Self {
        let result_key = id.result_key(None);
        Self {
            id,
            result_key,
            lane: Lane::default(),
            seeds: Vec::new(),
            deadline: None,
            callback: None,
            tenant: None,
            again: 0,
            metadata: BTreeMap::new(),
        }
    }
}

/// Names a job: 1 to 128 letters, digits, `.`, `_`, `-`; it does not begin with a dot. The default, empty, means
/// "not given yet" and is invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(
    #[schemars(length(min = 1, max = limits::MAX_ID_CHARS), extend("format" = Self::FORMAT), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub String,
);

impl JobId {
    /// The `format` of its JSON Schema.
    pub(crate) const FORMAT: &'static str = "job-id";

    /// The message for an id that is given but empty.
    pub(crate) const EMPTY: &'static str = "is empty; leave it out to have one made";

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id for a message of which no job can be read: `message-` and the start of its body's SHA-256.
    pub fn of_message(body: &[u8]) -> Self {
        Self(format!("message-{:.16}", ContentHash::of(body).to_string()))
    }

    /// The prefix of the results of a job with this id and destination: `<destination>/<id>`, or `<id>`.
    pub fn result_prefix(&self, destination: Option<&str>) -> String {
        destination.map_or_else(|| self.0.clone(), |destination| format!("{destination}/{self}"))
    }

    /// The key of the `result.json` of a job with this id and destination.
    pub fn result_key(&self, destination: Option<&str>) -> String {
        format!("{}/result.json", self.result_prefix(destination))
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

named! {
    /// Priority class of the intake: a queue each, served by weight.
    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    Lane, "lane" {
        /// A person is waiting.
        Interactive = "interactive",
        /// The default.
        #[default]
        Standard = "standard",
        /// Large batches; nobody is waiting.
        Bulk = "bulk",
    }
}

/// An id that is given but empty is an error; it does not request a derived id.
fn given_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
    let id = JobId::deserialize(deserializer)?;
    if id.0.is_empty() { Err(de::Error::custom(JobId::EMPTY)) } else { Ok(id) }
}

/// The default of an id is not the empty text that represents it here.
fn without_default(schema: &mut schemars::Schema) {
    schema.remove("default");
}
