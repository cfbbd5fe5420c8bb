//! The contract that the in-memory twin keeps too.

use std::sync::Arc;

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Browse};
use echogen_testkit::{RabbitMq, contract};

use crate::client::config;

#[tokio::test]
async fn it_keeps_the_contract() {
    let url = RabbitMq::shared().await.amqp_url();
    let fresh = || async {
        let broker = AmqpBroker::connect(config(url.clone())).await.expect("the broker takes connections");
        Arc::new(broker) as Arc<dyn Broker>
    };
    contract::broker_contract(fresh).await;
}

#[tokio::test]
async fn classic_queues_keep_it_too() {
    let url = RabbitMq::shared().await.amqp_url();
    let fresh = || async {
        let classic = AmqpConfig { quorum: false, ..config(url.clone()) };
        let broker = AmqpBroker::connect(classic).await.expect("the broker takes connections");
        Arc::new(broker) as Arc<dyn Broker>
    };
    contract::broker_contract(fresh).await;
}

#[tokio::test]
async fn its_queues_can_be_looked_through() {
    let url = RabbitMq::shared().await.amqp_url();
    for quorum in [true, false] {
        let fresh = || async {
            let config = AmqpConfig { quorum, ..config(url.clone()) };
            Arc::new(AmqpBroker::connect(config).await.expect("the broker takes connections")) as Arc<dyn Browse>
        };
        contract::browse_contract(fresh).await;
    }
}
