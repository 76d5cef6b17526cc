//! TLS: the trusted certificate authorities, and the handshake.

use std::io;
use std::sync::{Arc, LazyLock};

use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::connect::ConnectError;

/// The trusted certificate authorities: those of this machine, and added ones.
///
/// Clones share the TLS configuration, which is read once, at the first use.
#[derive(Clone, Default, Debug)]
pub(crate) struct Trust {
    more: Vec<CertificateDer<'static>>,
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Trust {
    /// The authorities of this machine, or those in the file named by `SSL_CERT_FILE`.
    pub(crate) fn of_this_machine() -> &'static Self {
        static MACHINE: LazyLock<Trust> = LazyLock::new(Trust::default);
        &MACHINE
    }

    /// Adds the authorities in a PEM file.
    pub(crate) fn and(mut self, pem: &[u8]) -> Result<Self, ConnectError> {
        let setting = |what: &str| ConnectError::Setting(what.to_owned());
        let before = self.more.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|_cause| setting("the root certificates are no PEM"))?;
            self.more.push(certificate);
        }
        if self.more.len() == before {
            return Err(setting(
                "there is no certificate among the root certificates",
            ));
        }
        self.config = Arc::default();
        Ok(self)
    }

    /// Encrypts a stream, and verifies that its other end is `host`.
    pub(crate) async fn secure(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_cause| ConnectError::InvalidUrl)?;
        let config = self
            .config
            .get_or_try_init(|| self.read())
            .await
            .map_err(ConnectError::Tls)?;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        connecting.await.map_err(|error| {
            // Other errors are those of the connection.
            match error.kind() {
                io::ErrorKind::InvalidData => ConnectError::Tls(error),
                _ => ConnectError::Io(error),
            }
        })
    }

    async fn read(&self) -> io::Result<Arc<ClientConfig>> {
        // On some machines these are hundreds of files.
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
            .await
            .map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        // Old certificates that can't be parsed must not prevent trust in the others.
        roots.add_parsable_certificates(found.certs);
        for certificate in &self.more {
            roots.add(certificate.clone()).map_err(io::Error::other)?;
        }
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(
                || "this machine trusts no certificate authority".to_owned(),
                |error| format!("the machine's certificate authorities can't be read: {error}"),
            );
            return Err(io::Error::other(why));
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
