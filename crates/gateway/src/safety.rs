//! The check of words, before a job is recorded. Pictures are checked by the stages.

use echogen_ports::{GateContent, GatePlace, GateSubject, Verdict};
use echogen_protocol::Job;

use crate::{
    Gateway,
    problem::{Kind, Problem},
};

impl Gateway {
    /// Asks the content gate, if there is one, whether the words of a job may be used.
    pub(crate) async fn check_words(&self, job: &Job) -> Result<(), Problem> {
        let Some(gate) = self.ports.gate.as_ref().filter(|gate| gate.checks(GatePlace::Words)) else { return Ok(()) };
        let content = GateContent::Words {
            prompt: job.prompt.clone(),
            negative_prompt: job.negative_prompt.clone(),
            name: job.subject.name.clone(),
        };
        match gate.check(GateSubject { job: job.id.clone(), tenant: job.tenant.clone(), content }).await? {
            Verdict::Allowed => Ok(()),
            Verdict::Withheld { reason } => Err(Problem::new(Kind::Withheld, reason)),
        }
    }
}
