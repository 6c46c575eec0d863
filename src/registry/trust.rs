//! Whose certificates count for which registry.
//!
//! The platform's authorities always count. `certs.d/HOST[:PORT]/` adds to them what docker's
//! directory of that name does: `*.crt` are authorities, `NAME.cert` with `NAME.key` is the
//! certificate that we show. Neither counts for any other host, so a redirect takes neither along.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::config::RegistryConfig;

/// Why configured certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read the certificates in `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read the certificates in `{}`: {reason}", path.display())]
    Form { path: PathBuf, reason: String },
    #[error("the client certificate `{}` has no key beside it", path.display())]
    NoKey { path: PathBuf },
    #[error("the client key `{}` has no certificate beside it", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the configured certificates cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What counts for one host beside the platform's authorities.
#[derive(Default)]
pub(super) struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// The longest certificate file that is read.
const FILE_LIMIT: u64 = 4 << 20;

impl Trust {
    /// What the configuration and the directories named `HOST` for one of `hosts` below `certs_dirs`
    /// say. Directories that are missing say nothing.
    pub(super) fn read(
        hosts: &[&str],
        certs_dirs: &[PathBuf],
        configured: Option<&RegistryConfig>,
    ) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for dir in certs_dirs {
            for host in hosts.iter().filter(|host| is_directory_name(host)) {
                trust.read_dir(&dir.join(host))?;
            }
        }
        let Some(configured) = configured else { return Ok(trust) };
        for path in configured.authorities.iter().flatten() {
            trust.authorities.extend(certificates(path)?);
        }
        match (&configured.client_certificate, &configured.client_key) {
            (Some(certificate), Some(key)) => {
                trust.identity = Some((certificates(certificate)?, private_key(key)?));
            }
            (Some(path), None) => return Err(TrustError::NoKey { path: path.clone() }),
            (None, Some(path)) => return Err(TrustError::NoCertificate { path: path.clone() }),
            (None, None) => {}
        }
        Ok(trust)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.identity.is_none()
    }

    fn read_dir(&mut self, dir: &Path) -> Result<(), TrustError> {
        let fail = |source| TrustError::Read { path: dir.to_owned(), source };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            // A system's directory that is closed to ordinary users; without what is in it certificates
            // are checked by fewer authorities, never by more.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.is_file() {
                        return Err(TrustError::NoKey { path });
                    }
                    self.identity = Some((certificates(&path)?, private_key(&key)?));
                }
                Some("key") if !path.with_extension("cert").is_file() => {
                    return Err(TrustError::NoCertificate { path });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The TLS settings that follow. With `verify` false any certificate will do.
    pub(super) fn tls(&self, verify: bool) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let verifier: Option<Arc<dyn ServerCertVerifier>> = if verify {
            // Without any authority, as in an image from scratch, there is no verifier to be had;
            // plain HTTP must work there all the same, and HTTPS must not.
            match Verifier::new_with_extra_roots(self.authorities.iter().cloned(), Arc::clone(&provider)) {
                Ok(inner) => Some(Arc::new(Pinned { inner, pins: self.authorities.clone() })),
                Err(_) if self.authorities.is_empty() => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            Some(Arc::new(Unverified(provider)))
        };
        let builder = match verifier {
            Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        let mut config = match &self.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Whether a host can be the name of a directory. Hosts of redirects come from registries.
fn is_directory_name(host: &str) -> bool {
    host.bytes().any(|c| c != b'.')
        && host
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let form = |reason: String| TrustError::Form { path: path.to_owned(), reason };
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| form(error.to_string()))?;
    if found.is_empty() { Err(form("there is none in PEM form".to_owned())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TrustError::Form {
        path: path.to_owned(),
        reason: "there is no private key in PEM form".to_owned(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    use io::Read;
    let fail = |source| TrustError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The platform's verifier, which also takes a server's certificate that is itself one of those
/// configured. Self-signed certificates in `certs.d` are common with private registries; webpki takes
/// a certificate for an authority or for a server, never for both. Its name still has to fit; its
/// dates are not looked at, since whoever put it there meant just this certificate.
#[derive(Debug)]
struct Pinned {
    inner: Verifier,
    pins: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verified.is_err() && self.pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate: for registries that are configured `insecure`, and for loopback, where
/// plain HTTP would do as well.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
