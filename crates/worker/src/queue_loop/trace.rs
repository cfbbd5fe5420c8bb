//! Traces at the worker: every task is one span.

use echogen_ports::random_number;
use echogen_protocol::{StageName, TraceContext};
use tracing::Span;

/// Places the new span of a task. Returns where a later try of it belongs, and where the task's own effects do: both
/// in the trace that it came with, or in a new one where its sender had none.
pub(crate) fn placed(span: &Span, stage: StageName, incoming: Option<TraceContext>) -> (TraceContext, TraceContext) {
    let parent = incoming.map(|parent| parent.to_string());
    let own = echogen_telemetry::place_span(span, stage.as_str(), parent.as_deref()).and_then(|own| own.parse().ok());
    match own {
        Some(own) => (incoming.unwrap_or(own), own),
        // Nobody collects spans here; those before and after this task may be collected all the same.
        None => {
            let trace = continued(incoming);
            (trace, span_under(trace))
        }
    }
}

/// The trace that a task came with, or a new one where its sender had none.
fn continued(incoming: Option<TraceContext>) -> TraceContext {
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
