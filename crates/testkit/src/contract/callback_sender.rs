//! The contract of [`CallbackSender`].

use echogen_protocol::{EventKind, JobEvent, JobId};
use jiff::Timestamp;
use serde_json::json;

use super::soon;
use echogen_ports::{CallbackSender, memory::CallbackAnswer};

/// Servers that a sender under test reaches.
pub trait CallbackServers {
    /// The address of one that answers so.
    fn address(&self, answer: CallbackAnswer) -> String;

    /// An address where no server listens.
    fn nobody(&self) -> String;

    /// The events that were heard at [`CallbackAnswer::Heard`], in order.
    fn heard(&self) -> Vec<JobEvent>;
}

/// Checks a sender.
pub async fn callback_sender_contract(sender: &dyn CallbackSender, servers: &dyn CallbackServers) {
    let event = |id: &str| {
        let data = json!({ "status": "completed", "words": "\"ö\" \u{1f600}\n" });
        JobEvent::new(EventKind::Completed, &JobId(id.to_owned()), Timestamp::UNIX_EPOCH, data)
    };
    let (one, two) = (event("one"), event("two"));
    let good = servers.address(CallbackAnswer::Heard);
    for event in [&one, &two, &one] {
        let reply = soon("the server hears", sender.send(&good, Some("acme"), event)).await.expect("it answers");
        reply.heard().expect("it answers that it knows");
    }
    assert_eq!(servers.heard(), [one.clone(), two, one.clone()], "each call is heard once, whole and in order");
    for (answer, is_final) in [(CallbackAnswer::Refused, true), (CallbackAnswer::Busy, false)] {
        let reply = soon("an answer", sender.send(&servers.address(answer), None, &one)).await;
        let refused = reply.expect("a refusal is an answer").heard().expect_err("the server refuses");
        assert_eq!(refused.is_permanent(), is_final, "whether asking again would help: {refused}");
    }
    let failed = soon("the failure", sender.send(&servers.nobody(), None, &one)).await.expect_err("nobody answers");
    assert!(!failed.is_permanent(), "another time somebody may be there: {failed}");
    let failed =
        soon("the failure", sender.send("http://example.org/", None, &one)).await.expect_err("nobody is called");
    assert!(failed.is_permanent(), "it may not be called another time either: {failed}");
    assert_eq!(servers.heard().len(), 3);
}
