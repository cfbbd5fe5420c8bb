//! The in-memory content gate: withholds what contains a mark.

use std::sync::Mutex;

use async_trait::async_trait;

use super::lock;
use crate::{ContentGate, Fault, GateContent, GatePlace, GateSubject, Verdict, WhenUnreachable};

/// A gate in memory, which records what it has checked.
#[derive(Debug)]
pub struct MemoryContentGate {
    places: Vec<GatePlace>,
    /// Texts or bytes, and the reasons for which content with them is withheld.
    marks: Vec<(Vec<u8>, String)>,
    /// What holds while it gives no verdict; `None` while it does.
    away: Mutex<Option<WhenUnreachable>>,
    checked: Mutex<Vec<GateSubject>>,
}

impl MemoryContentGate {
    /// A gate that checks at these places, and allows everything.
    pub fn at(places: &[GatePlace]) -> Self {
        Self { places: places.to_vec(), marks: Vec::new(), away: Mutex::default(), checked: Mutex::default() }
    }

    /// The same gate, which withholds words and pictures that contain `mark`.
    #[must_use]
    pub fn withholding(mut self, mark: &[u8], reason: &str) -> Self {
        self.marks.push((mark.to_vec(), reason.to_owned()));
        self
    }

    /// From now on it gives no verdict, and this holds; `None`: it gives verdicts again.
    pub fn let_away(&self, away: Option<WhenUnreachable>) {
        *lock(&self.away) = away;
    }

    /// What it has checked, in order.
    pub fn checked(&self) -> Vec<GateSubject> {
        lock(&self.checked).clone()
    }
}

#[async_trait]
impl ContentGate for MemoryContentGate {
    fn checks(&self, place: GatePlace) -> bool {
        self.places.contains(&place)
    }

    async fn check(&self, subject: GateSubject) -> Result<Verdict, Fault> {
        if !self.checks(subject.content.place()) {
            return Ok(Verdict::Allowed);
        }
        match *lock(&self.away) {
            None => {}
            Some(WhenUnreachable::Open) => return Ok(Verdict::Allowed),
            Some(WhenUnreachable::Closed) => return Err(Fault::circuit_open("the content gate gives no verdict")),
        }
        let parts: Vec<&[u8]> = match &subject.content {
            GateContent::Words { prompt, negative_prompt, name } => {
                let optional = [negative_prompt, name].into_iter().flatten();
                optional.chain([prompt]).map(String::as_bytes).collect()
            }
            GateContent::SubjectImage(image) | GateContent::ResultImage { image, .. } => vec![image],
        };
        let contains = |mark: &[u8]| parts.iter().any(|part| part.windows(mark.len().max(1)).any(|part| part == mark));
        let found = self.marks.iter().find(|(mark, _)| contains(mark));
        let verdict = found.map_or(Verdict::Allowed, |(_, reason)| Verdict::Withheld { reason: reason.clone() });
        lock(&self.checked).push(subject);
        Ok(verdict)
    }
}
