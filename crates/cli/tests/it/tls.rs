//! A server behind a TLS proxy, with certificate authorities for the commands and the client.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use meshagent_client::{ConnectError, RoomBuilder, RoomClient};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::room::{Home, json as parsed, refused};
use crate::{Ran, run};

/// A TLS proxy that closes its connections when dropped.
struct Proxy {
    port: u16,
    /// The certificate, in PEM format.
    certificate: String,
    runtime: Runtime,
}

impl Proxy {
    /// Accepts connections to `localhost` and forwards their data to a server.
    fn before(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = Runtime::new().unwrap();
        let listener = runtime
            .block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate disconnects.
                    let Ok(mut client) = acceptor.accept(client).await else {
                        return;
                    };
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self {
            port,
            certificate: cert.pem(),
            runtime,
        }
    }

    fn command(&self, home: &Home, host: &str, arguments: &[&str]) -> Ran {
        let mut command = home.command(arguments);
        command
            .env("MESHAGENT_API_URL", format!("https://{host}:{}", self.port))
            .env("SSL_CERT_FILE", home.path().join("authorities.pem"));
        run(&mut command)
    }

    fn client(&self, home: &Home) -> RoomBuilder {
        let credentials = home.path().join(".local/share/meshagent/credentials.json");
        let credentials = parsed(&fs::read_to_string(credentials).unwrap());
        let key = credentials["api_key"].as_str().unwrap();
        RoomClient::builder()
            .room_url(format!("wss://localhost:{}/rooms/r", self.port))
            .key(key, "ann")
            .unwrap()
    }
}

#[test]
fn commands_trust_authorities_in_ssl_cert_file() {
    let home = Home::new();
    home.create("plan.doc");
    let proxy = Proxy::before(home.server().url());
    fs::write(home.path().join("authorities.pem"), &proxy.certificate).unwrap();

    let get = ["sync", "get", "plan.doc", "--compact"];
    let got = proxy.command(&home, "localhost", &get);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert_eq!(parsed(&got.stdout), parsed(&home.get("plan.doc")));

    // The certificate is for another name.
    let refusal = proxy.command(&home, "127.0.0.1", &get);
    refused(
        &refusal,
        5,
        &["no secure connection", "not valid for name", "\nhint: "],
    );
    // No authority is trusted.
    fs::write(home.path().join("authorities.pem"), "").unwrap();
    let refusal = proxy.command(&home, "localhost", &get);
    refused(&refusal, 5, &["no secure connection", "SSL_CERT_FILE"]);
}

#[test]
fn client_trusts_a_configured_certificate() {
    let home = Home::new();
    let proxy = Proxy::before(home.server().url());
    let stranger = Proxy::before(home.server().url());
    let trusting = |certificate: &str| {
        let builder = proxy.client(&home);
        builder.root_certificates(certificate.as_bytes()).unwrap()
    };
    proxy.runtime.block_on(async {
        let room = trusting(&proxy.certificate).connect().await.unwrap();
        let plan = json!({ "document": { "content": [] } });
        room.sync()
            .create("plan.document", Some(plan.clone()), None)
            .await
            .unwrap();
        assert_eq!(room.sync().describe("plan.document").await.unwrap(), plan);
        room.close().await;

        let refused = trusting(&stranger.certificate).connect().await;
        assert!(matches!(refused, Err(ConnectError::Tls(_))), "{refused:?}");
        // A server that does not speak TLS.
        let plain = home.server().url().replace("http:", "https:");
        let refused = proxy
            .client(&home)
            .room_url(format!("{plain}/rooms/r"))
            .root_certificates(proxy.certificate.as_bytes())
            .unwrap()
            .connect()
            .await;
        assert!(matches!(refused, Err(ConnectError::Tls(_))), "{refused:?}");
    });
}
