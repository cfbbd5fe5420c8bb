//! The in-memory twins keep the contracts that every adapter keeps.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{
    Broker, Browse, Cache, CallbackReply, CallbackSender, ContentGate, Fault, GatePlace, MemoryBroker, MemoryCache,
    MemoryCallbackSender, MemoryContentGate, MemoryObjectStore, MemoryQuota, ObjectStore, Quota, WhenUnreachable,
    memory::CallbackAnswer,
};
use echogen_protocol::JobEvent;
use echogen_testkit::contract::{
    CallbackServers, FORBIDDEN, Gates, REASON, broker_contract, browse_contract, cache_contract,
    callback_sender_contract, content_gate_contract, fencing_contract, object_store_contract, quota_contract,
};

#[tokio::test(start_paused = true)]
async fn the_memory_quota_keeps_the_contract() {
    let fresh = async || vec![Arc::new(MemoryQuota::new()) as Arc<dyn Quota>];
    quota_contract(fresh).await;
}

#[tokio::test(start_paused = true)]
async fn the_broker_keeps_the_contract() {
    broker_contract(|| async { Arc::new(MemoryBroker::new()) as Arc<dyn Broker> }).await;
}

#[tokio::test(start_paused = true)]
async fn its_queues_can_be_looked_through() {
    browse_contract(|| async { Arc::new(MemoryBroker::new()) as Arc<dyn Browse> }).await;
}

#[tokio::test(start_paused = true)]
async fn the_cache_keeps_the_contract() {
    cache_contract(|| async { Arc::new(MemoryCache::new(1 << 20)) as Arc<dyn Cache> }).await;
}

#[tokio::test(start_paused = true)]
async fn the_caches_tokens_grow_even_over_a_loss_of_everything() {
    let cache = MemoryCache::new(1 << 20);
    fencing_contract(&cache, async || cache.forget_everything()).await;
}

#[tokio::test]
async fn the_object_store_keeps_the_contract() {
    object_store_contract(|| async { Arc::new(MemoryObjectStore::new()) as Arc<dyn ObjectStore> }).await;
}

/// The sender with its servers.
#[derive(Debug, Default)]
struct Servers(MemoryCallbackSender);

#[async_trait]
impl CallbackSender for Servers {
    async fn send(&self, address: &str, tenant: Option<&str>, event: &JobEvent) -> Result<CallbackReply, Fault> {
        self.0.send(address, tenant, event).await
    }
}

impl CallbackServers for Servers {
    fn address(&self, answer: CallbackAnswer) -> String {
        let address = format!("https://example.org/{answer:?}");
        self.0.let_answer(&address, answer);
        address
    }

    fn nobody(&self) -> String {
        "https://example.org/nobody".to_owned()
    }

    fn heard(&self) -> Vec<JobEvent> {
        self.0.heard().into_iter().map(|(_, event)| event).collect()
    }
}

#[tokio::test]
async fn the_callback_sender_keeps_the_contract() {
    let servers = Servers::default();
    callback_sender_contract(&servers, &servers).await;
    assert_eq!(servers.0.calls(), 6);
}

/// Gates in memory.
struct MemoryGates;

impl Gates for MemoryGates {
    fn at(&self, places: &[GatePlace]) -> Arc<dyn ContentGate> {
        Arc::new(MemoryContentGate::at(places).withholding(FORBIDDEN.as_bytes(), REASON))
    }

    fn away(&self, when: WhenUnreachable) -> Arc<dyn ContentGate> {
        let gate = MemoryContentGate::at(&GatePlace::ALL);
        gate.let_away(Some(when));
        Arc::new(gate)
    }
}

#[tokio::test]
async fn the_content_gate_keeps_the_contract() {
    content_gate_contract(&MemoryGates).await;
}
