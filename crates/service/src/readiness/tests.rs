//! Readiness on private servers. Health belongs to the process, so all of it is one test.

use std::net::TcpListener;

use echogen_ports::MemoryCache;
use echogen_testkit::{RabbitMq, Redis, S3Server};
use tokio_util::task::TaskTracker;

use super::*;

/// What `/readyz` says, but for the stages, which do not run here.
fn unmet() -> String {
    health().ready().unwrap_err()
}

fn settings(server: &S3Server, rabbitmq: &RabbitMq) -> ServiceConfig {
    let mut config = ServiceConfig::default();
    config.store.url = Some(format!("s3://{}/here", server.bucket()));
    config.store.s3.endpoint = Some(server.endpoint());
    config.store.s3.access_key_id = Some(server.access_key().into());
    config.store.s3.secret_access_key = Some(server.secret_key().into());
    config.store.s3.max_attempts = 1;
    config.broker.url = Some(rabbitmq.amqp_url().into());
    config.broker.prefix = RabbitMq::fresh_prefix();
    config
}

async fn readiness(config: &ServiceConfig) -> Readiness {
    let broker = Arc::new(crate::backends::broker(config).unwrap());
    let backends = Backends::on_broker(&broker, config, &TaskTracker::new()).await.unwrap();
    Readiness::new(&[RoleName::Dispatcher], &backends, &broker, config).unwrap()
}

fn says(parts: &[&str]) {
    let why = unmet();
    for part in parts {
        assert!(why.contains(part), "{part} is missing in: {why}");
    }
    assert!(!why.contains('\n') && health().live().is_ok(), "{why}");
}

fn is_able() {
    assert!(!["store", "broker", "cache"].iter().any(|server| unmet().contains(server)), "{}", unmet());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_ready_while_its_servers_let_it_work() {
    let (mut server, rabbitmq) = (S3Server::start().unwrap(), RabbitMq::shared().await);
    let config = settings(&server, rabbitmq);
    health().starting("dispatcher");
    let all = readiness(&config).await;
    says(&["the result store has not answered yet", "the broker has not answered yet"]);
    assert!(all.check().await.unwrap());
    is_able();
    server.refuse_reads(true);
    assert!(!all.check().await.unwrap());
    says(&["the result store: cannot read s3://echogen-test/here/results/echogen-probe/dispatcher.json", "AccessDenied"]);
    says(&["the work store: ", "failed on purpose; allow s3:GetObject and s3:ListBucket in echogen-test"]);
    server.refuse_reads(false);
    server.go_away();
    assert!(!all.check().await.unwrap());
    says(&["the server cannot be reached"]);
    server.come_back().unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(60), all.until_able()).await;
    waited.expect("it tries again").unwrap();
    is_able();

    let mut elsewhere = config.clone();
    elsewhere.store.url = Some("s3://elsewhere".to_owned());
    assert!(!readiness(&elsewhere).await.check().await.unwrap());
    says(&["NoSuchBucket", "create the bucket elsewhere or correct store.url"]);

    a_broker(&config, rabbitmq).await;
    a_cache(&config).await;
}

async fn a_broker(config: &ServiceConfig, rabbitmq: &RabbitMq) {
    let (mut absent, mut wrong, mut lesser) = (config.clone(), config.clone(), config.clone());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    absent.broker.url = Some(rabbitmq.amqp_url_at(nobody).into());
    assert!(!readiness(&absent).await.check().await.unwrap(), "it may come");
    says(&["the broker: RabbitMQ at 127.0.0.1:"]);
    wrong.broker.url = Some(rabbitmq.amqp_url().replace("guest:guest", "guest:wrong").into());
    let failure = readiness(&wrong).await.check().await.unwrap_err();
    assert!(failure.message.contains("check the user"), "{failure}");

    let send = async |path: &str, body: &str| rabbitmq.management_send("PUT", path, body).await.unwrap();
    send("/api/users/lesser", r#"{"password": "lesser", "tags": ""}"#).await;
    let prefix = config.broker.prefix.replace('-', "[-]");
    let pattern = format!("^{prefix}[.]");
    let rights = |write: &str| format!(r#"{{"configure": "{pattern}", "write": "{write}", "read": "{pattern}"}}"#);
    send("/api/permissions/%2f/lesser", &rights(&pattern)).await;
    lesser.broker.url = Some(rabbitmq.amqp_url().replace("guest:guest", "lesser:lesser").into());
    let all = readiness(&lesser).await;
    assert!(!all.check().await.unwrap());
    says(&["the broker: ", "lacks rights: write on amq.default"]);
    send("/api/permissions/%2f/lesser", &rights(&format!("^({prefix}[.]|amq[.]default$)"))).await;
    assert!(all.check().await.unwrap());
    is_able();
}

async fn a_cache(config: &ServiceConfig) {
    let (mut cluster, mut absent) = (config.clone(), config.clone());
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    cluster.cache.redis.url = Some(redis.url().into());
    assert!(readiness(&cluster).await.check().await.unwrap(), "it can work");
    says(&["the cache: redis at 127.0.0.1:", "is a Redis Cluster; EchoGen needs one server"]);
    absent.cache.redis.url = Some(redis.url().into());
    drop(redis);
    assert!(readiness(&absent).await.check().await.unwrap());
    is_able();
    MemoryCache::new(1).check().await.unwrap();
}
