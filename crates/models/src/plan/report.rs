//! The plan in words: a table that explains itself, and what to change where something does not fit.

use std::fmt::{self, Write};

use super::{BudgetPlan, Limits, MemoryPlan, Scores, SetLimits};

/// Columns of the names of items.
const NAME: usize = 40;

/// Bytes in GiB with two decimals.
struct Gib(u64);

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In front of the padding, so that columns line up.
        f.pad(&format!("{:.2}", self.0 as f64 / (1u64 << 30) as f64))
    }
}

impl MemoryPlan {
    /// Returns the plan as a table, one item a line.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing into a text cannot fail.
        self.write(&mut text).map_or_else(|_| String::new(), |()| text)
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let device = if self.is_cpu { "CPU" } else { "GPU" };
        let attention = match (self.is_cpu, self.scores) {
            (true, _) => "",
            (_, Scores::None) => ", attention in one kernel",
            (_, Scores::Bands(_)) => ", attention in bands",
            (_, Scores::All) => ", attention in several operations",
        };
        writeln!(text, "{}: memory of a sampler on a {device} in {}{attention}\n", self.bundle, self.dtype)?;
        writeln!(text, "{:<NAME$} {:>9}", "", "GiB")?;
        let mut line = |name: &str, bytes: u64, note: &str| writeln!(text, "{name:<NAME$} {:>9}  {note}", Gib(bytes));
        match self.memory {
            Some(memory) if memory.free < memory.total => {
                line("free memory", memory.free, &format!("of {}", Gib(memory.total)))?
            }
            Some(memory) => line("memory", memory.total, "")?,
            None => line("memory", 0, "the device does not say; taken for unlimited")?,
        }
        line(
            "- reserve",
            self.reserve_bytes,
            if self.is_cpu { "other processes, kept subjects" } else { "context, libraries, gaps" },
        )?;
        for weights in &self.weights {
            let from = if weights.from_files { "as its files say" } else { "by its sizes; the files are not here" };
            let exact = match weights.reduced_bytes {
                0 => String::new(),
                _ if weights.exact_bytes < 5 << 20 => String::new(),
                _ => format!("{} of it in f32; ", Gib(weights.exact_bytes)),
            };
            line(&format!("- weights of the {}", weights.network), weights.bytes(), &format!("{exact}{from}"))?;
        }
        if self.memory.is_some() {
            line("= left for batches and their conditions", self.left_bytes, "")?;
        }
        self.write_budgets(text)?;
        self.write_limits(text)
    }

    fn write_budgets(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "\n{:<10} {:>11} {:>8} | {:>34} | {:>9}", "", "", "image", "GiB of one picture", "pictures")?;
        writeln!(
            text,
            "{:<10} {:>11} {:>8} | {:>10} {:>10} {:>12} | {:>9}",
            "pixels", "size", "tokens", "keys", "conditions", "working", "in a batch"
        )?;
        for budget in &self.budgets {
            let size = format!("{} x {}", budget.width, budget.height);
            let pictures = match budget.pictures {
                0 => "does not fit".to_owned(),
                pictures => pictures.to_string(),
            };
            writeln!(
                text,
                "{:<10} {size:>11} {:>8} | {:>10} {:>10} {:>12} | {pictures:>9}",
                budget.name,
                budget.image_tokens,
                Gib(budget.kv_bytes),
                Gib(budget.condition_bytes),
                Gib(budget.working_bytes),
            )?;
        }
        writeln!(
            text,
            "\nkeys: key-value caches of {} guidance rows. conditions: of a picture with a subject and a prompt of its own; seeds of\n\
             one job share them. working: at the worst moment of a batch of one.\n\nlimits:",
            self.rows
        )
    }

    fn write_limits(&self, text: &mut String) -> fmt::Result {
        let Limits { max_batch_tokens, max_kv_bytes, condition_cache_bytes } = self.limits;
        let mut line = |name: &str, value: &str| writeln!(text, "  sampler.{name:<22} {value}");
        let bytes = |bytes: u64| format!("{bytes} ({} GiB)", Gib(bytes));
        let tokens =
            max_batch_tokens.map_or_else(|| "none: memory decides, as above".to_owned(), |most| most.to_string());
        line("max_batch", &self.max_batch.to_string())?;
        line("max_batch_tokens", &tokens)?;
        line("max_kv_bytes", &bytes(max_kv_bytes))?;
        line("condition_cache_bytes", &bytes(condition_cache_bytes))?;
        line("subject_cache_bytes", &bytes(self.subject_cache_bytes))
    }

    /// What to change if the weights alone do not fit.
    pub(super) fn no_weights(&self) -> String {
        format!(
            "{} does not fit: its weights take {} GiB in {} and the reserve {}, and {} GiB are free; {}",
            self.bundle,
            Gib(self.weight_bytes()),
            self.dtype,
            Gib(self.reserve_bytes),
            self.free(),
            self.advice(self.weight_bytes() + self.reserve_bytes)
        )
    }

    /// What to change if not one picture of a pixel budget fits.
    pub(super) fn no_picture(&self, budget: &BudgetPlan) -> String {
        let BudgetPlan { name, kv_bytes, condition_bytes, working_bytes, .. } = budget;
        let picture = kv_bytes + condition_bytes + working_bytes;
        let needed = picture + self.weight_bytes() + self.reserve_bytes;
        format!(
            "{}: a picture of {name} does not fit: it takes {} GiB (keys {}, conditions {}, working memory {}) beside {} GiB of \
             weights in {} and a reserve of {}, {} in all, and {} GiB are free; {}",
            self.bundle,
            Gib(picture),
            Gib(*kv_bytes),
            Gib(*condition_bytes),
            Gib(*working_bytes),
            Gib(self.weight_bytes()),
            self.dtype,
            Gib(self.reserve_bytes),
            Gib(needed),
            self.free(),
            self.advice(needed)
        )
    }

    fn free(&self) -> String {
        self.memory.map_or_else(|| "unknown".to_owned(), |memory| Gib(memory.free).to_string())
    }

    fn advice(&self, needed: u64) -> String {
        let mut changes = Vec::new();
        if self.dtype == "f32" && !self.is_cpu {
            changes.push("bf16 (--dtype bf16)".to_owned());
        }
        let fitting: Vec<&str> =
            self.budgets.iter().filter(|budget| budget.pictures > 0).map(|budget| budget.name.as_str()).collect();
        if !fitting.is_empty() {
            changes.push(format!("a smaller pixel budget ({})", fitting.join(", ")));
        }
        changes.push("weights of 8 bits".to_owned());
        changes.push(format!("a device with {} GiB", Gib(needed)));
        format!("choose {}", changes.join(", or "))
    }

    /// Whether a limit that is set cannot be kept; the answer says what can.
    pub(super) fn set_too_high(&self, set: &SetLimits) -> Option<String> {
        let cache = self.limits.condition_cache_bytes;
        if set.condition_cache_bytes.is_some() && cache > self.left_bytes {
            return Some(self.too_high("condition_cache_bytes", cache, self.left_bytes, ""));
        }
        let largest = self.budgets.iter().map(|budget| {
            // However high the limit, a batch has no more pictures than its other limits allow.
            let by_tokens =
                self.limits.max_batch_tokens.map_or(self.max_batch, |most| most / budget.image_tokens.max(1));
            (budget.kv_bytes * by_tokens.clamp(1, self.max_batch) as u64, budget.working_bytes)
        });
        let (kv_bytes, working) = largest.max()?;
        let wanted = set.max_kv_bytes?.min(kv_bytes);
        let possible = self.left_bytes.saturating_sub(cache).saturating_sub(working);
        let beside = format!(", the cache of conditions {} and working memory {}", Gib(cache), Gib(working));
        (wanted > possible)
            .then(|| self.too_high("max_kv_bytes", set.max_kv_bytes.unwrap_or(wanted), possible, &beside))
    }

    fn too_high(&self, setting: &str, value: u64, possible: u64, beside: &str) -> String {
        format!(
            "sampler.{setting} is {value} ({} GiB) and does not fit: of {} GiB that are free, the weights of {} take {}, the \
             reserve {}{beside}; give at most {possible}, or leave the setting out",
            Gib(value),
            self.free(),
            self.bundle,
            Gib(self.weight_bytes()),
            Gib(self.reserve_bytes)
        )
    }
}
