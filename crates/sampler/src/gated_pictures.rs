//! The check of finished pictures by the operator's content gate, before they are stored.

use std::sync::Arc;

use bytes::Bytes;
use echogen_ports::{Backoff, ContentGate, Fault, FaultKind, GateContent, GatePlace, GateSubject, Verdict};
use echogen_protocol::{Job, Safety, SafetyVerdict};

/// How often the gate is asked for a verdict before the task is given back, which loses the picture.
const TRIES: u32 = 5;

/// The waits between them: a gate in redeployment costs seconds, not pictures.
const WAITS: Backoff = Backoff::doubling(0.5, 8.0);

/// The gate of finished pictures, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatedPictures(Option<Arc<dyn ContentGate>>);

/// What may be done with a picture.
pub(crate) enum Checked {
    /// It is stored, with the verdict if it was checked.
    Usable(Option<Safety>),
    /// It is not, for this reason.
    Withheld(String),
}

impl GatedPictures {
    /// The gate, if it checks finished pictures.
    pub(crate) fn new(gate: Option<Arc<dyn ContentGate>>) -> Self {
        Self(gate.filter(|gate| gate.checks(GatePlace::Result)))
    }

    /// Whether pictures are checked.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Checks the file of a picture.
    pub(crate) async fn check(&self, job: &Job, index: usize, seed: u64, image: &Bytes) -> Result<Checked, Fault> {
        let Some(gate) = &self.0 else { return Ok(Checked::Usable(None)) };
        let content = GateContent::ResultImage { image: image.clone(), index, seed };
        let subject = GateSubject { job: job.id.clone(), tenant: job.tenant.clone(), content };
        let mut tries = 0;
        loop {
            tries += 1;
            match gate.check(subject.clone()).await {
                Ok(Verdict::Allowed) => return Ok(Checked::Usable(Some(Safety { verdict: SafetyVerdict::Allowed }))),
                Ok(Verdict::Withheld { reason }) => return Ok(Checked::Withheld(reason)),
                Err(error) if tries < TRIES && error.kind() == FaultKind::CircuitOpen => {
                    tokio::time::sleep(WAITS.wait(tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
