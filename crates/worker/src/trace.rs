//! Traces at the worker: every task is one span.

use echogen_protocol::TraceContext;

use crate::config::random_number;

/// The trace that a task came with, or a new one where its sender had none.
pub(crate) fn continued(incoming: Option<TraceContext>) -> TraceContext {
    incoming.unwrap_or_else(|| {
        let trace_id = u128::from(random_number()) << 64 | u128::from(random_number());
        TraceContext::new(trace_id, random_number())
    })
}

/// A new span under `parent`, for what is done and sent now.
pub(crate) fn span_under(parent: TraceContext) -> TraceContext {
    parent.child(random_number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_continued_and_a_missing_one_begun() {
        let given = TraceContext::new(7, 8);
        assert_eq!(continued(Some(given)), given);
        assert_ne!(continued(None).trace_id(), continued(None).trace_id());
        let span = span_under(given);
        assert_eq!(span.trace_id(), given.trace_id());
        assert_ne!(span.span_id(), given.span_id());
    }
}
