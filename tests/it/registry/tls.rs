//! Certificates: private authorities and client certificates from `certs.d`, and what happens
//! without them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use stave::registry::{Client, Failure, Options};

use super::server::Server;
use super::*;

/// A certificate authority of a test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A certificate and its key, both in PEM form.
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        server_with(&certificate, &key, None)
    }

    /// A server that wants to see a certificate of this authority.
    fn server_for_clients(&self, name: &str) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        server_with(&certificate, &key, Some(self))
    }
}

fn server_with(certificate: &str, key: &str, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// A `certs.d` with these files for a host.
pub fn certs_dir(host: &str, files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(host)).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(host).join(name), text).unwrap();
    }
    dir
}

fn with_certs(dir: &tempfile::TempDir) -> Client {
    Client::new(Options { certs_dirs: vec![dir.path().to_owned()], ..quick() }).unwrap()
}

fn tls_server(config: Arc<ServerConfig>) -> Server {
    Server::start_on([127, 0, 0, 1], Some(config), |seen| blob_reply(seen, b"blob"))
}

#[tokio::test]
async fn a_private_authority_counts_for_its_host_only() {
    let authority = Authority::new();
    let server = tls_server(authority.server("127.0.0.1"));
    let certs = certs_dir(&server.host(), &[("ca.crt", authority.pem())]);
    assert_eq!(fetch(&with_certs(&certs), &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    // Another authority's certificate, and another name than the host's.
    let stranger = tls_server(Authority::new().server("127.0.0.1"));
    let misnamed = tls_server(authority.server("r.example"));
    for server in [stranger, misnamed] {
        let certs = certs_dir(&server.host(), &[("ca.crt", authority.pem())]);
        let error = with_certs(&certs)
            .resolve(&reference(&server.host(), "a"))
            .await
            .expect_err("the certificate does not count");
        assert!(matches!(*error.failure, Failure::Tls { .. }), "{error}");
        assert!(error.hint().unwrap().contains(&format!("certs.d/{}/ca.crt", server.host())));
        assert!(server.seen().is_empty());
    }
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_authority() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let server = tls_server(server_with(&pem, &key.serialize_pem(), None));
    let certs = certs_dir(&server.host(), &[("ca.crt", pem)]);
    assert_eq!(fetch(&with_certs(&certs), &server, &blob_of(b"blob")).await.unwrap(), b"blob");
}

#[tokio::test]
async fn authorities_may_be_configured_by_path() {
    let authority = Authority::new();
    let server = tls_server(authority.server("127.0.0.1"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let text = format!("[registry.\"{}\"]\nca = \"{}\"", server.host(), path.display());
    let client = Client::new(configured(&text)).unwrap();
    assert_eq!(fetch(&client, &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    std::fs::write(&path, "no certificate").unwrap();
    let error =
        fetch(&Client::new(configured(&text)).unwrap(), &server, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.contains("none in PEM form") && error.contains("ca.pem"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let authority = Authority::new();
    let server = tls_server(authority.server_for_clients("127.0.0.1"));
    let (certificate, key) = authority.issue("me");
    let files = [("ca.crt", authority.pem()), ("client.cert", certificate), ("client.key", key)];
    let certs = certs_dir(&server.host(), &files);
    assert_eq!(fetch(&with_certs(&certs), &server, &blob_of(b"blob")).await.unwrap(), b"blob");
    let certs = certs_dir(&server.host(), &files[..1]);
    fetch(&with_certs(&certs), &server, &blob_of(b"blob")).await.unwrap_err();
    for (left_out, words) in [(2, "no key beside it"), (1, "no certificate beside it")] {
        let mut files = files.to_vec();
        files.remove(left_out);
        let certs = certs_dir(&server.host(), &files);
        let error = fetch(&with_certs(&certs), &server, &blob_of(b"blob")).await.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn https_never_falls_back_to_http_unasked() {
    // A registry on loopback that is configured to be secure stands for one that is elsewhere.
    let plain = blob_server(b"blob".to_vec());
    let secure = configured(&format!("[registry.\"{}\"]\ninsecure = false", plain.host()));
    let error = fetch(&Client::new(secure).unwrap(), &plain, &blob_of(b"blob")).await.unwrap_err();
    assert!(error.to_lowercase().contains("tls"), "{error}");
    assert!(plain.seen().is_empty());
    let authority = Authority::new();
    let certs = certs_dir(&plain.host(), &[("ca.crt", authority.pem())]);
    fetch(&with_certs(&certs), &plain, &blob_of(b"blob")).await.unwrap_err();
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn insecure_and_loopback_take_what_there_is() {
    let (plain, tls) = (blob_server(b"blob".to_vec()), tls_server(Authority::new().server("r.example")));
    for server in [&plain, &tls] {
        let insecure = configured(&format!("[registry.\"{}\"]\ninsecure = true", server.host()));
        for options in [quick(), insecure] {
            let client = Client::new(options).unwrap();
            assert_eq!(fetch(&client, server, &blob_of(b"blob")).await.unwrap(), b"blob");
        }
        let secure = configured(&format!("[registry.\"{}\"]\ninsecure = false", server.host()));
        fetch(&Client::new(secure).unwrap(), server, &blob_of(b"blob")).await.unwrap_err();
    }
}
