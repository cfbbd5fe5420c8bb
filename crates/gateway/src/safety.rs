//! The check of words, before a job is recorded.

use echogen_protocol::Job;

use crate::{Gateway, authentication::Caller, problem::Problem};

impl Gateway {
    /// Asks the content gate, if there is one, whether the words of a job are allowed.
    pub(crate) async fn check_words(&self, _caller: &Caller, _job: &Job) -> Result<(), Problem> {
        Ok(())
    }
}
