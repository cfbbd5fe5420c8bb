//! Every limit of a job, in one place, each with its reason.
//!
//! A bound is checked before anything of that size is allocated or computed.

/// Bytes of a job's JSON. RabbitMQ 4 refuses messages over 16 MiB by default; half of that leaves room for headers
/// and still holds a `data:` picture of about 6 MB.
pub const MAX_JOB_JSON_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of a task's JSON: a job, a mask in which every character may be escaped, and a few references.
pub const MAX_TASK_JSON_BYTES: usize = MAX_JOB_JSON_BYTES + 2 * MAX_MASK_BYTES + 64 * 1024;

/// Bytes of a mask's text in a task. The outline of a smooth object takes two for each row of its picture, four where it has
/// two parts; the highest pictures have 16,384 rows.
pub const MAX_MASK_BYTES: usize = 64 * 1024;

/// Levels of lists and objects within each other in JSON from outside. An event with a result has five.
pub const MAX_JSON_DEPTH: usize = 32;

/// Bytes of memory that the structure (lists, objects, values, without their text) of any message may take; longer
/// messages may take two more for each byte. See [`json`](crate::json).
pub const MAX_JSON_STRUCTURE_BYTES: usize = 512 * 1024;

/// Different fields that a job may repeat before it is refused for that alone.
pub(crate) const MAX_REPEATED_FIELDS: usize = 64;

/// Bytes of a text in a message's header. AMQP's own names and identifiers have 255 bytes at most.
pub const MAX_HEADER_BYTES: usize = 4_096;

/// Characters of a prompt. The text encoder reads 512 tokens, about 2,000 characters of English; the rest would be cut
/// off silently.
pub const MAX_PROMPT_CHARS: usize = 2_000;

/// Characters of a subject's name: a noun phrase.
pub const MAX_NAME_CHARS: usize = 200;

/// Characters of a job's id; with a suffix it is still a file name everywhere (255 bytes).
pub const MAX_ID_CHARS: usize = 128;

/// Characters of a tenant's name.
pub const MAX_TENANT_CHARS: usize = 64;

/// Pictures of one job. They share one task, and a task must end well before the broker's delivery timeout.
pub const MAX_SEEDS: usize = 64;

/// Previews of each picture: one for each scale of the schedule table but the last, and some more.
pub const MAX_PREVIEWS: u32 = 16;

/// Scales of the schedule table: a list "per scale" has at most so many numbers.
pub const MAX_SCALES: usize = 13;

/// Greatest guidance. The published values are 2.5 and 3; above 30 only the sign decides every bit.
pub const MAX_GUIDANCE: f64 = 30.0;

/// Greatest temperature. The published value is 2; above 100 every bit is practically random.
pub const MAX_TEMPERATURE: f64 = 100.0;

/// Widest ratio of width to height, and one over the narrowest: the ends of the schedule table.
pub const MAX_ASPECT_RATIO: f64 = 3.0;

/// Characters of a path or address of a picture, unless it contains the picture itself (`data:`).
pub const MAX_ADDRESS_CHARS: usize = 4_096;

/// Characters of a callback's address, a common limit of browsers and proxies.
pub const MAX_CALLBACK_CHARS: usize = 2_048;

/// Entries of the metadata.
pub const MAX_METADATA_ENTRIES: usize = 64;

/// Characters of a metadata key.
pub const MAX_METADATA_KEY_CHARS: usize = 64;

/// Characters of a metadata value.
pub const MAX_METADATA_VALUE_CHARS: usize = 1_024;

/// Bytes of an object key. S3 allows 1,024; the rest is room for a prefix of the store's own.
pub const MAX_KEY_BYTES: usize = 900;

/// Bytes of one part of an object key. File systems allow 255; the rest is room for a temporary name.
pub const MAX_KEY_PART_BYTES: usize = 200;

/// Bytes of a fetched picture, before it is decoded.
pub const MAX_IMAGE_BYTES: u64 = 64 * 1024 * 1024;

/// Largest number of [`Job::again`](crate::Job::again): the largest that every JSON reader keeps exactly.
pub const MAX_AGAIN: u64 = (1 << 53) - 1;
