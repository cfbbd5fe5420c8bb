//! The contract of [`CallbackSender`].

use echogen_protocol::{EventKind, JobEvent, JobId};
use jiff::Timestamp;
use serde_json::json;

use super::soon;
use crate::{CallbackSender, memory::CallbackAnswer};

/// Servers that a sender under test reaches.
pub trait CallbackServers {
    /// The address of one that answers so.
    fn address(&self, answer: CallbackAnswer) -> String;

    /// An address where nobody is.
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
        soon("the server hears", sender.send(&good, event)).await.expect("it answers that it knows");
    }
    assert_eq!(servers.heard(), [one.clone(), two, one.clone()], "each call is heard once, whole and in order");
    let refused = soon("an answer", sender.send(&servers.address(CallbackAnswer::Refused), &one)).await;
    assert!(refused.expect_err("the server refuses").is_permanent(), "asking again would not help");
    for address in [servers.address(CallbackAnswer::Busy), servers.nobody()] {
        let failed = soon("an answer", sender.send(&address, &one)).await;
        assert!(!failed.expect_err("nobody heard").is_permanent(), "another time it may work");
    }
    assert_eq!(servers.heard().len(), 3);
}
