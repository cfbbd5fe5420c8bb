//! A certificate for test servers, and a TLS proxy for a server without TLS.

use std::{net::Ipv4Addr, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// For a server at `localhost`, with the certificate that a client has to trust, as PEM text.
pub(crate) fn localhost() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), certificate)
}

/// A TLS proxy at `localhost` for a plain server; it ends when this value is dropped.
pub(crate) struct TlsFront {
    pub(crate) port: u16,
    /// The certificate that a client has to trust, as PEM text.
    pub(crate) certificate: String,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    /// A proxy for the server at this port of the local machine.
    pub(crate) async fn before(target: u16) -> Self {
        let (acceptor, certificate) = localhost();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, mut tasks) = (listener.local_addr().unwrap().port(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // A client that does not trust the certificate closes the connection.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.unwrap();
                    copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        });
        Self { port, certificate, _tasks: tasks }
    }
}
