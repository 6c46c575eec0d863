//! Sockets: who may connect, for how long, and how it ends.
//!
//! HTTP/1.1, and HTTP/2 where TLS agrees on it. Everything that a client could leave us waiting for has
//! a limit: the handshake, the head of a request, the next bytes of a body, the next bytes that it takes
//! of an answer. So has the number of connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::answer::Registry;
use super::storage::Storage;
use super::{Entry, Options, Watched};

/// More wait until one ends. Each may have a file open besides its socket.
const CONNECTIONS: usize = 300;
/// How long a TLS handshake may take, and the head of a request, the wait for the next one included.
const HEAD: Duration = Duration::from_secs(20);
/// How long a client may take nothing of what is sent to it.
const STALLED: Duration = Duration::from_secs(60);
/// How many requests one HTTP/2 connection may have under way.
const STREAMS: u32 = 64;
/// How large the head of a request may be.
const HEAD_SIZE: usize = 64 << 10;
/// How often leftovers are looked for.
const TIDY: Duration = Duration::from_secs(3600);

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot use the certificate in `{path}`: {reason}")]
    Certificate { path: String, reason: String },
    #[error("cannot use the key in `{path}`: {reason}")]
    Key { path: String, reason: String },
}

/// A certificate and its key, which are read again when they change.
#[derive(Debug)]
pub struct Tls {
    files: Mutex<(Watched, Watched)>,
    config: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a certificate, with those that it was signed with, and its key, both in PEM form.
    ///
    /// # Errors
    /// [`ServeError`] if one of them is missing, is none, or does not belong to the other.
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, ServeError> {
        let config = configure(&certificate, &key)?;
        let (mut certificate, mut key) = (Watched::new(certificate), Watched::new(key));
        certificate.changed();
        key.changed();
        Ok(Self { files: Mutex::new((certificate, key)), config: Mutex::new(config) })
    }

    /// What new connections use. While the files are being changed, or are wrong, it is what it was.
    fn current(&self, log: &Arc<dyn Fn(Entry<'_>) + Send + Sync>) -> Arc<ServerConfig> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = [files.0.changed(), files.1.changed()];
        if changed.contains(&true) {
            match configure(files.0.path(), files.1.path()) {
                Ok(new) => *config = new,
                Err(error) => log(Entry::Failed { doing: "read the certificate", error: &error }),
            }
        }
        Arc::clone(&config)
    }
}

fn configure(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, ServeError> {
    let bad = |reason: String| ServeError::Certificate { path: certificate.display().to_string(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| bad(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad("there is none in PEM form".to_owned()));
    }
    let bad_key = |reason: String| ServeError::Key { path: key.display().to_string(), reason };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions need")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| bad_key(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    registry: Arc<Registry>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(
        address: SocketAddr,
        storage: Arc<dyn Storage>,
        options: Options,
    ) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address, registry: Arc::new(Registry::new(storage, options)) })
    }

    /// Where it listens: the port that was found, if none was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is over; then requests that are under way may end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tidy = tokio::spawn(tidy(Arc::clone(&self.registry)));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = async {
                    let place = Arc::clone(&places).acquire_owned().await;
                    (place, self.listener.accept().await)
                } => accepted,
            };
            let (stream, peer) = match accepted.1 {
                Ok(accepted) => accepted,
                Err(error) => {
                    // No descriptor is left, perhaps, or the client is gone already.
                    (self.registry.options.log)(Entry::Failed {
                        doing: "accept a connection",
                        error: &error,
                    });
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (registry, watcher) = (Arc::clone(&self.registry), graceful.watcher());
            tokio::spawn(async move {
                // What breaks a connection is the client's business.
                let _ = converse(registry, stream, peer, watcher).await;
                drop(accepted.0);
            });
        }
        drop(self.listener);
        tidy.abort();
        let _ = tokio::time::timeout(self.registry.options.patience, graceful.shutdown()).await;
    }
}

/// Takes away leftovers, at once and then from time to time.
async fn tidy(registry: Arc<Registry>) {
    let mut clock = tokio::time::interval(TIDY);
    loop {
        clock.tick().await;
        registry.desk.tidy();
        let (storage, log) = (Arc::clone(&registry.storage), Arc::clone(&registry.options.log));
        let work = tokio::task::spawn_blocking(move || {
            if let Err(error) = storage.tidy() {
                log(Entry::Failed { doing: "tidy up", error: &error });
            }
        });
        let _ = work.await;
    }
}

async fn converse(
    registry: Arc<Registry>,
    stream: TcpStream,
    peer: SocketAddr,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Answers are written whole; to wait for more only delays them.
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream);
    let tls = registry.options.tls.as_ref().map(|tls| tls.current(&registry.options.log));
    let service = service_fn(move |request| {
        let registry = Arc::clone(&registry);
        async move { Ok::<_, std::convert::Infallible>(registry.answer(peer, request).await) }
    });
    let mut http1 = hyper::server::conn::http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    let Some(tls) = tls else {
        return Ok(watcher.watch(http1.serve_connection(TokioIo::new(stream), service)).await?);
    };
    let stream = tokio::time::timeout(HEAD, TlsAcceptor::from(tls).accept(stream)).await??;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Ok(watcher.watch(http1.serve_connection(TokioIo::new(stream), service)).await?);
    }
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(HEAD))
        .keep_alive_timeout(HEAD)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_SIZE as u32)
        // Large bodies go both ways; the default windows of 64 KiB wait for each other.
        .adaptive_window(true);
    Ok(watcher.watch(http2.serve_connection(TokioIo::new(stream), service)).await?)
}

/// A connection that breaks when its other end takes nothing for too long.
struct Patient<S> {
    inner: S,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Patient<S> {
    fn new(inner: S) -> Self {
        Self { inner, deadline: Box::pin(tokio::time::sleep(STALLED)), waiting: false }
    }

    /// Counts the time for which nothing could be written.
    fn count<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = false;
            return outcome;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + STALLED);
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.count(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.count(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.count(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, buffers);
        self.count(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
