//! The one TLS stack: rustls with ring, and the authorities that are trusted.
//!
//! A configured authority is added to those of the system and never replaces them, whether a setting `certificates` names
//! it or the variables `SSL_CERT_FILE` and `SSL_CERT_DIR`, which replace the system's in other programs.

use std::{
    env, fs,
    sync::{Arc, LazyLock},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Why a setting `certificates` is refused. To be appended to the setting's name.
pub(crate) type Refusal = String;

/// The authorities of the system and of the environment; read once.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    // An authority that cannot be read is skipped.
    let mut all = rustls_native_certs::load_native_certs().certs;
    if ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| env::var_os(name).is_some()) {
        for folder in openssl_probe::candidate_cert_dirs() {
            all.extend(rustls_native_certs::load_certs_from_paths(None, Some(folder)).certs);
        }
    }
    all.sort_by(|one, other| one[..].cmp(&other[..]));
    all.dedup();
    all.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    all
});

/// The certificate authorities of the system and of the environment.
pub fn system_authorities() -> &'static [CertificateDer<'static>] {
    &SYSTEM
}

/// The authorities that one adapter trusts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// In addition to the system's.
    own: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// The system's authorities, and those that a setting names: PEM text, or the path of a file with PEM text.
    pub(crate) fn with(certificates: Option<&str>) -> Result<Self, Refusal> {
        let Some(setting) = certificates.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let text = match setting.contains("-----BEGIN") {
            true => setting.to_owned(),
            false => fs::read_to_string(setting).map_err(|error| {
                format!("names the file {setting:?}, which cannot be read ({error}); write PEM text, or the path of a PEM file")
            })?,
        };
        let (mut own, mut store) = (Vec::new(), RootCertStore::empty());
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("is not valid PEM text: {error:?}"))?;
            store
                .add(certificate.clone())
                .map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
            own.push(certificate);
        }
        if own.is_empty() { Err("has no certificate; write PEM text".to_owned()) } else { Ok(Self { own }) }
    }

    /// A client configuration that trusts these authorities.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.all().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// All authorities as PEM text, for libraries that accept nothing else.
    pub(crate) fn pem(&self) -> String {
        let one = |certificate: &CertificateDer<'_>| {
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(certificate))
        };
        self.all().map(one).collect()
    }

    fn all(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        SYSTEM.iter().chain(&self.own)
    }
}

/// Makes ring the default crypto provider of the process, unless one is installed already.
pub(crate) fn install_ring() {
    // An error means that one is installed already; it is then used.
    rustls::crypto::ring::default_provider().install_default().ok();
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn own() -> String {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn own_authorities_are_text_or_a_file_and_are_added() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.pem");
        fs::write(&file, format!("{}{}", own(), own())).unwrap();
        let system = Trust::with(None).unwrap().all().count();
        for (setting, count) in [("", 0), (" \n", 0), (own().as_str(), 1), (file.to_str().unwrap(), 2)] {
            let trust = Trust::with(Some(setting)).unwrap();
            assert_eq!(trust.all().count(), system + count, "{setting}");
            assert_eq!(trust.pem().matches("BEGIN CERTIFICATE").count(), system + count);
            assert!(trust.client_config().is_ok());
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let empty = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (setting, why) in [
            ("/nowhere/own.pem", "the file \"/nowhere/own.pem\", which cannot be read"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
            ("-----BEGIN CERTIFICATE-----\n", "is not valid PEM text"),
            (empty, "has no certificate"),
        ] {
            let refusal = Trust::with(Some(setting)).unwrap_err();
            assert!(refusal.contains(why), "{setting}: {refusal}");
        }
    }

    /// Run by [`the_environment_adds_authorities`] too, in a process with other variables.
    #[test]
    fn says_how_many_are_trusted() {
        println!("trusted: {}", SYSTEM.len());
    }

    #[test]
    fn the_environment_adds_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.pem");
        fs::write(&file, own()).unwrap();
        let count = |name: &str, value: &std::path::Path| -> usize {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", "tls::tests::says_how_many_are_trusted", "--nocapture"]);
            let output =
                command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").env(name, value).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let line = text.lines().find_map(|line| line.split_once("trusted: ")).expect("it says");
            line.1.split_whitespace().next().unwrap().parse().unwrap()
        };
        let system = count("UNUSED", &file);
        assert_eq!(count("SSL_CERT_FILE", &file), system + 1);
        assert_eq!(count("SSL_CERT_DIR", folder.path()), system + 1);
        assert_eq!(count("SSL_CERT_FILE", std::path::Path::new("")), system, "an empty variable is none");
    }
}
