//! The contract of [`ContentGate`].

use std::sync::Arc;

use bytes::Bytes;
use echogen_ports::{ContentGate, FaultKind, GateContent, GatePlace, GateSubject, Verdict, WhenUnreachable};
use echogen_protocol::JobId;

use super::soon;

/// Makes gates that withhold what contains [`FORBIDDEN`] for the reason [`REASON`].
pub trait Gates {
    /// One that checks at these places.
    fn at(&self, places: &[GatePlace]) -> Arc<dyn ContentGate>;

    /// One that checks everywhere and never gets a verdict.
    fn away(&self, when: WhenUnreachable) -> Arc<dyn ContentGate>;
}

/// What content is withheld for.
pub const FORBIDDEN: &str = "forbidden";

/// Why it is withheld.
pub const REASON: &str = "\"no\" \u{f6}";

fn words(prompt: &str, negative_prompt: Option<&str>, name: Option<&str>) -> GateContent {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    GateContent::Words { prompt: prompt.to_owned(), negative_prompt: owned(negative_prompt), name: owned(name) }
}

/// A picture of this size, which is no picture: a gate does not look into it.
fn picture(size: usize, end: &str) -> Bytes {
    let mut bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
    bytes.extend_from_slice(end.as_bytes());
    bytes.into()
}

fn contents(word: &str) -> [GateContent; 5] {
    [
        words(word, None, None),
        words("a dog", Some(word), None),
        words("a dog", None, Some(word)),
        GateContent::SubjectImage(picture(300_000, word)),
        GateContent::ResultImage { image: picture(10, word), index: 3, seed: u64::MAX },
    ]
}

async fn verdict(gate: &Arc<dyn ContentGate>, content: GateContent) -> Verdict {
    let subject = GateSubject { job: JobId("one".to_owned()), tenant: Some("acme".to_owned()), content };
    soon("a verdict", gate.check(subject)).await.expect("there is a verdict")
}

/// Checks gates.
pub async fn content_gate_contract(gates: &dyn Gates) {
    let withheld = Verdict::Withheld { reason: REASON.to_owned() };
    let gate = gates.at(&GatePlace::ALL);
    for (good, bad) in contents("fine").into_iter().zip(contents(FORBIDDEN)) {
        assert_eq!(verdict(&gate, good).await, Verdict::Allowed);
        assert_eq!(verdict(&gate, bad.clone()).await, withheld, "{:?}", bad.place());
        assert_eq!(verdict(&gate, bad).await, withheld, "it may be asked again");
    }
    for place in GatePlace::ALL {
        let gate = gates.at(&[place]);
        for bad in contents(FORBIDDEN) {
            let is_checked = bad.place() == place;
            assert_eq!(gate.checks(bad.place()), is_checked);
            let expected = if is_checked { withheld.clone() } else { Verdict::Allowed };
            assert_eq!(verdict(&gate, bad).await, expected, "elsewhere everything is allowed");
        }
    }
    let open = gates.away(WhenUnreachable::Open);
    let closed = gates.away(WhenUnreachable::Closed);
    for content in contents(FORBIDDEN) {
        assert_eq!(verdict(&open, content.clone()).await, Verdict::Allowed);
        let subject = GateSubject { job: JobId("one".to_owned()), tenant: None, content };
        let failed = soon("the failure", closed.check(subject)).await.expect_err("nobody gives a verdict");
        assert_eq!(failed.kind(), FaultKind::CircuitOpen, "waiting for a verdict is no attempt: {failed}");
    }
}
