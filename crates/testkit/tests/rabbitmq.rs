//! The private RabbitMQ servers themselves.

use echogen_testkit::{RabbitMq, RabbitMqCluster};

#[tokio::test]
async fn a_server_starts_is_killed_and_comes_back() {
    let server = RabbitMq::start().await.unwrap();
    assert!(server.management_get("/api/overview").await.unwrap().contains("rabbitmq_version"));
    server.kill_9();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", server.amqp_port())).await.is_err(), "nobody listens");
    server.restart().await.unwrap();
    assert!(server.management_get("/api/queues").await.is_ok());
    server.stop().await;
    assert!(server.management_get("/api/queues").await.is_err(), "it is stopped");
    let log = std::fs::read_to_string(server.log_folder().join("n1@localhost.log")).unwrap();
    assert!(log.contains("msg_store_transient' is stopped"), "it was not stopped to the end: {log}");
}

#[tokio::test]
async fn three_nodes_find_each_other_and_one_may_die() {
    let cluster = RabbitMqCluster::start().await.unwrap();
    cluster.kill_9(2);
    assert!(cluster.management_get(0, "/api/nodes").await.unwrap().contains("n3@localhost"));
    cluster.restart(2).await.unwrap();
    assert_eq!(cluster.amqp_urls().len(), 3);
}
