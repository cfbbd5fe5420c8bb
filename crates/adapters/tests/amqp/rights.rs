//! Users with few rights: what works, and what is said.

use std::time::Duration;

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Event, FaultKind, QueueName, Recipient};
use echogen_protocol::{Lane, Partitions, StageName};
use echogen_testkit::RabbitMq;
use serde_json::json;
use tokio::time::timeout;

use crate::client::{message, receive};

/// A user of the shared server with rights of its own, and a fresh prefix.
struct User {
    config: AmqpConfig,
}

impl User {
    /// Patterns to configure, write and read, in which `P` stands for the prefix.
    async fn with(configure: &str, write: &str, read: &str) -> Self {
        let server = RabbitMq::shared().await;
        let prefix = RabbitMq::fresh_prefix();
        let body = json!({ "password": prefix, "tags": "" }).to_string();
        server.management_send("PUT", &format!("/api/users/{prefix}"), &body).await.expect("a user is made");
        let url = format!("amqp://{prefix}:{prefix}@127.0.0.1:{}/%2f", server.amqp_port());
        let user = Self { config: AmqpConfig { prefix, partitions: 2, ..AmqpConfig::at(url) } };
        user.grant(configure, write, read).await;
        user
    }

    async fn grant(&self, configure: &str, write: &str, read: &str) {
        let prefix = &self.config.prefix;
        let pattern = |text: &str| text.replace('P', &prefix.replace('-', "[-]"));
        let rights =
            json!({ "configure": pattern(configure), "write": pattern(write), "read": pattern(read) }).to_string();
        let path = format!("/api/permissions/%2f/{prefix}");
        RabbitMq::shared().await.management_send("PUT", &path, &rights).await.expect("rights are set");
    }

    /// A broker of somebody who may do everything, under the same prefix, with everything declared.
    async fn operator(&self) -> AmqpBroker {
        let url = Some(RabbitMq::shared().await.amqp_url().into());
        AmqpBroker::connect(AmqpConfig { url, ..self.config.clone() }).await.expect("it may all")
    }

    fn role(&self) -> AmqpBroker {
        AmqpBroker::new(self.config.clone()).expect("the settings are good")
    }

    /// The names of rights, in which `P` stands for the prefix.
    fn named(&self, rights: &[&str]) -> Vec<String> {
        rights.iter().map(|right| right.replace('P', &self.config.prefix)).collect()
    }
}

/// A client's rights, as the page on the protocol grants them.
async fn client() -> User {
    User::with(r"^(shop\..*|amq\.gen.*)$", r"^(P\.jobs|shop\..*|amq\.gen.*)$", r"^(P\.events|shop\..*|amq\.gen.*)$")
        .await
}

#[tokio::test]
async fn a_client_with_the_documented_rights_submits_and_waits() {
    let user = client().await;
    let operator = user.operator().await;
    let client = AmqpBroker::connect_client(user.config.clone()).await.unwrap();
    let mut events = client.subscribe("job").await.unwrap();
    for queue in StageName::Dispatcher.queues(user.config.partitions()) {
        client.publish(&queue, message(queue.to_string())).await.unwrap();
        let mut consumer = operator.consume(&queue, 1).await.unwrap();
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.message.body, queue.as_str());
        delivery.ack().await.unwrap();
    }
    let missing =
        QueueName::in_partition(StageName::Dispatcher, Lane::Bulk, Partitions::default().all().nth(2).unwrap());
    let fault = client.publish(&missing, message("{}")).await.unwrap_err();
    assert!(fault.kind() == FaultKind::NotFound && fault.to_string().contains("bulk.2"), "a return says so: {fault}");
    let event = Event { topic: "job.completed.1".into(), body: "{}".into(), recipient: Recipient::Subscribers };
    operator.publish_event(event).await.unwrap();
    let heard = timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap();
    assert_eq!(heard.topic, "job.completed.1");
    client.close().await;
    operator.close().await;
}

#[tokio::test]
async fn a_client_of_what_is_not_declared_says_who_declares_it() {
    let client = AmqpBroker::connect_client(client().await.config).await.unwrap();
    let queue = QueueName::of(StageName::Dispatcher, Lane::Standard);
    let fault = client.publish(&queue, message("{}")).await.unwrap_err();
    assert!(fault.is_permanent() && fault.to_string().contains("echogen topology --declare"), "{fault}");
}

#[tokio::test]
async fn a_role_with_the_rights_to_its_prefix_works_and_only_replies_need_more() {
    let user = User::with(r"^P\.", r"^P\.", r"^P\.").await;
    let role = user.role();
    role.check_rights(false).await.unwrap();
    role.subscribe("job.cancelled").await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    role.publish_after(&queue, message("again"), Duration::from_millis(1)).await.unwrap();
    let mut consumer = role.consume(&queue, 1).await.unwrap();
    receive(&mut consumer).await.ack().await.unwrap();
    let fault = role.check_rights(true).await.unwrap_err();
    assert_eq!(role.missing_rights(), ["write on amq.default"], "{fault}");
    assert!(fault.is_permanent() && fault.to_string().contains("write on amq.default"), "{fault}");
    user.grant(r"^P\.", r"^(P\.|amq\.default$)", r"^P\.").await;
    role.check_rights(true).await.unwrap();
    assert_eq!(role.missing_rights(), Vec::<String>::new());
    role.close().await;
}

#[tokio::test]
async fn a_role_that_may_not_declare_uses_what_is_declared() {
    let user = User::with(r"^P\.events\.\d", r"^P\.", r"^P\.").await;
    let fault = user.role().check_rights(false).await.unwrap_err();
    let (right, advice) = (format!("configure on {}.jobs", user.config.prefix), "echogen topology --declare");
    assert!(fault.is_permanent(), "{fault}");
    for part in [&right, advice, "does not exist"] {
        assert!(fault.to_string().contains(part), "{part} is missing in: {fault}");
    }
    user.operator().await.close().await;
    let role = user.role();
    role.check_rights(false).await.unwrap();
    role.consume(&QueueName::of(StageName::Sampler, Lane::Standard), 1).await.unwrap();
    role.close().await;
}

#[tokio::test]
async fn every_missing_right_is_named() {
    for (configure, write, read, missing) in [
        (r"^P\.", r"^P\.(?!events\.relay$).*$", r"^P\.", &["write on P.events.relay"][..]),
        (r"^P\.", r"^P\.(?!(tasks|dead)$).*$", r"^P\.", &["write on P.dead", "write on P.tasks"]),
        (r"^P\.", r"^P\.(?!events$).*$", r"^P\.", &["write on P.events"]),
        (r"^P\.(?!events\.\d).*$", r"^P\.", r"^P\.", &["configure on P.events.*"]),
        (r"^P\.", r"^P\.", r"^P\.(?!events$).*$", &["read on P.events"]),
    ] {
        let user = User::with(configure, write, read).await;
        user.operator().await.close().await;
        let role = user.role();
        let fault = role.check_rights(false).await.unwrap_err();
        assert_eq!(role.missing_rights(), user.named(missing), "{fault}");
        role.close().await;
    }
}

#[tokio::test]
async fn a_right_that_is_missing_later_is_named_by_who_needs_it() {
    let user = User::with(r"^P\.", r"^P\.", r"^P\.").await;
    let role = user.role();
    role.check_rights(false).await.unwrap();
    user.grant(r"^P\.", r"^P\.(?!dead$).*$", r"^P\.(?!sample[.]standard$).*$").await;
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    let fault = role.dead_letter(&queue, message("{}"), "a test").await.unwrap_err();
    let dead = user.named(&["write on P.dead"]);
    assert!(fault.kind() == FaultKind::Refused && fault.to_string().contains(&dead[0]), "{fault}");
    assert_eq!(role.missing_rights(), dead);
    let Err(fault) = role.consume(&queue, 1).await else { panic!("it may not consume") };
    let read = user.named(&["read on P.sample.standard"]);
    assert!(fault.is_permanent() && fault.to_string().contains(&read[0]), "{fault}");
    assert_eq!(role.missing_rights(), [read, dead].concat());
    user.grant(r"^P\.", r"^P\.", r"^P\.").await;
    role.consume(&queue, 1).await.unwrap();
    role.check_rights(false).await.unwrap();
    assert_eq!(role.missing_rights(), Vec::<String>::new());
    role.close().await;
}
