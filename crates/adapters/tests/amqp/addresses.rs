//! Which server is connected to.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_testkit::RabbitMq;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::client::config;

/// A way to the shared server by another address; it ends with this value.
struct Front {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Front {
    async fn at(address: impl Into<SocketAddr>, tls: Option<TlsAcceptor>) -> Self {
        let port = RabbitMq::shared().await.amqp_port();
        let listener = TcpListener::bind(address.into()).await.expect("a port is free");
        let (address, mut tasks) = (listener.local_addr().expect("it listens"), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let tls = tls.clone();
                connections.spawn(async move {
                    match tls {
                        None => pass(client, port).await,
                        // A client that does not trust the certificate closes the connection.
                        Some(tls) => {
                            if let Ok(client) = tls.accept(client).await {
                                pass(client, port).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn pass(mut client: impl AsyncRead + AsyncWrite + Unpin, port: u16) {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("RabbitMQ runs");
    copy_bidirectional(&mut client, &mut server).await.ok();
}

async fn connect(url: String) -> Result<AmqpBroker, echogen_ports::Fault> {
    AmqpBroker::connect(AmqpConfig { connect_timeout_seconds: 20.0, ..config(url) }).await
}

/// A port at which no program listens.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    listener.local_addr().expect("it listens").port()
}

#[tokio::test]
async fn an_ipv6_address_is_connected_to_and_not_this_machine() {
    let front = Front::at((Ipv6Addr::LOCALHOST, 0), None).await;
    connect(format!("amqp://guest:guest@{}/%2f", front.address)).await.unwrap().close().await;
    // The address is of a documentation's network, which is nowhere; at the same port of this machine is a server.
    let port = RabbitMq::shared().await.amqp_port();
    let elsewhere = config(format!("amqp://guest:guest@[2001:db8::1]:{port}/%2f"));
    let elsewhere = AmqpConfig { connect_timeout_seconds: 1.0, ..elsewhere };
    let error = AmqpBroker::connect(elsewhere).await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains(&format!("[2001:db8::1]:{port}")), "{error}");
}

#[tokio::test]
async fn the_hosts_of_a_cluster_are_tried_in_turn() {
    let (nobody, live) = (free_port().await, RabbitMq::shared().await.amqp_port());
    connect(format!("amqp://guest:guest@127.0.0.1:{nobody},127.0.0.1:{live}/%2f")).await.unwrap().close().await;
    // It takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let url = format!("amqp://guest:guest@127.0.0.1:{silent_port},[::1]:{nobody},127.0.0.1:{live}");
    let config = AmqpConfig { connect_timeout_seconds: 6.0, ..config(url) };
    let began = Instant::now();
    let broker = AmqpBroker::connect(config).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "the silent one is asked once: {:?}", began.elapsed());
    broker.close().await;
    let error = connect(format!("amqp://guest:guest@127.0.0.1:{nobody},[::1]:{nobody}")).await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains(&format!("[::1]:{nobody}")), "{error}");
}

#[tokio::test]
async fn an_empty_path_is_the_default_virtual_host_and_a_raw_password_is_itself() {
    let server = RabbitMq::shared().await;
    let body = r#"{"password": "p@ss/w:o#r?d%", "tags": ""}"#;
    server.management_send("PUT", "/api/users/raw", body).await.unwrap();
    let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
    server.management_send("PUT", "/api/permissions/%2f/raw", all).await.unwrap();
    for path in ["", "/", "/%2f"] {
        let url = format!("amqp://raw:p@ss/w:o#r?d%@127.0.0.1:{}{path}", server.amqp_port());
        connect(url).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn an_own_authority_is_trusted_besides_the_systems() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let front = Front::at((Ipv4Addr::LOCALHOST, 0), Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let distrustful = config(format!("amqps://guest:guest@localhost:{}", front.address.port()));
    let trusting = AmqpConfig { certificates: Some(made.cert.pem()), ..distrustful.clone() };
    AmqpBroker::connect(trusting).await.unwrap().close().await;
    let error = AmqpBroker::connect(distrustful).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
