//! Readiness on private servers.

use std::net::TcpListener;

use echogen_testkit::{RabbitMq, Redis, S3Server};
use tokio_util::task::TaskTracker;

use super::*;

/// A process without stages, so that only its servers matter.
struct Process {
    health: Health,
    config: ServiceConfig,
}

impl Process {
    fn on(server: &S3Server, rabbitmq: &RabbitMq) -> Self {
        Self { health: Health::default(), config: settings(server, rabbitmq) }
    }

    fn readiness(&self, broker: &Arc<AmqpBroker>, backends: &Backends) -> Readiness {
        Readiness::new(&self.health, &[RoleName::Dispatcher], backends, broker, &self.config).unwrap()
    }

    async fn begin(&self) -> Readiness {
        let broker = Arc::new(crate::backends::broker(&self.config).unwrap());
        let backends = Backends::on_broker(&broker, &self.config, &TaskTracker::new()).await.unwrap();
        self.readiness(&broker, &backends)
    }

    /// `/readyz` names all of this on one line, and the process lives.
    fn says(&self, parts: &[&str]) {
        let why = self.health.ready().unwrap_err();
        for part in parts {
            assert!(why.contains(part), "{part} is missing in: {why}");
        }
        assert!(!why.contains('\n') && self.health.live().is_ok(), "{why}");
    }

    fn is_able(&self) {
        assert_eq!(self.health.ready().unwrap_err(), "nothing runs here yet", "only stages are missing");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_ready_while_its_stores_let_it_work() {
    let (mut server, rabbitmq) = (S3Server::start().unwrap(), RabbitMq::shared().await);
    let mut process = Process::on(&server, rabbitmq);
    let all = process.begin().await;
    process.says(&["the result store has not answered yet", "the broker has not answered yet"]);
    assert!(all.check().await.unwrap());
    process.is_able();
    server.refuse_reads(true);
    assert!(!all.check().await.unwrap());
    process.says(&["the result store: cannot read s3://echogen-test/here/results/echogen-probe/dispatcher.json"]);
    process.says(&["the work store: ", "AccessDenied (403): failed on purpose; allow s3:GetObject and s3:ListBucket"]);
    server.refuse_reads(false);
    server.go_away();
    assert!(!all.check().await.unwrap());
    process.says(&["the server cannot be reached"]);
    server.come_back().unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(60), all.until_able()).await;
    waited.expect("it tries again").unwrap();
    process.is_able();
    process.config.store.url = Some("s3://elsewhere".to_owned());
    assert!(!process.begin().await.check().await.unwrap());
    process.says(&["NoSuchBucket", "create the bucket elsewhere or correct store.url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_ready_while_its_user_has_the_rights() {
    let (server, rabbitmq) = (S3Server::start().unwrap(), RabbitMq::shared().await);
    let mut process = Process::on(&server, rabbitmq);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    process.config.broker.url = Some(rabbitmq.amqp_url_at(nobody).into());
    assert!(!process.begin().await.check().await.unwrap(), "it may come");
    process.says(&["the broker: RabbitMQ at 127.0.0.1:"]);
    process.config.broker.url = Some(rabbitmq.amqp_url().replace("guest:guest", "guest:wrong").into());
    let failure = process.begin().await.check().await.unwrap_err();
    assert!(failure.message.contains("check the user"), "{failure}");
    process.says(&["the broker: ", "check the user"]);

    let send = async |path: &str, body: &str| rabbitmq.management_send("PUT", path, body).await.unwrap();
    send("/api/users/lesser", r#"{"password": "lesser", "tags": ""}"#).await;
    let prefix = process.config.broker.prefix.replace('-', "[-]");
    let pattern = format!("^{prefix}[.]");
    let rights = |write: &str| format!(r#"{{"configure": "{pattern}", "write": "{write}", "read": "{pattern}"}}"#);
    send("/api/permissions/%2f/lesser", &rights(&pattern)).await;
    process.config.broker.url = Some(rabbitmq.amqp_url().replace("guest:guest", "lesser:lesser").into());
    let all = process.begin().await;
    assert!(!all.check().await.unwrap());
    process.says(&["the broker: ", "lacks rights: write on amq.default"]);
    send("/api/permissions/%2f/lesser", &rights(&format!("^({prefix}[.]|amq[.]default$)"))).await;
    assert!(all.check().await.unwrap());
    process.is_able();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_costs_readiness_only_if_a_person_must_act() {
    let (server, rabbitmq) = (S3Server::start().unwrap(), RabbitMq::shared().await);
    let mut process = Process::on(&server, rabbitmq);
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    process.config.cache.redis.url = Some(redis.url().into());
    let all = process.begin().await;
    assert!(all.check().await.unwrap(), "it can work");
    process.says(&["the cache: redis at 127.0.0.1:", "is a Redis Cluster; EchoGen needs one server"]);
    drop(redis);
    assert!(all.check().await.unwrap());
    process.is_able();
}
