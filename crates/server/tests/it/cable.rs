//! A relay to the server that breaks connections when a test says so, or after a number of bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Relays connections to a server. Dropping it cuts all of them.
pub(crate) struct Cable {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    /// Whether the relay is cut.
    is_cut: watch::Sender<bool>,
    /// How often the present connections fell silent.
    silences: watch::Sender<u64>,
    _carrying: JoinSet<()>,
}

/// After how many bytes, of both directions together, the next connections break; later ones hold.
type Plan = Vec<usize>;

impl Cable {
    pub(crate) async fn new(server: &str, mut breaks_after: Vec<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        breaks_after.reverse();
        let plan = Arc::new(Mutex::new(breaks_after));
        let mut carrying = JoinSet::new();
        let (server, next) = (server.to_owned(), Arc::clone(&plan));
        let (is_cut, cut) = watch::channel(false);
        let (silences, silenced) = watch::channel(0);
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if *cut.borrow() {
                    continue;
                }
                let left = next.lock().unwrap().pop();
                // A server that is down looks like a connection that breaks immediately.
                let Ok(far) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (mut cut, mut silenced) = (cut.clone(), silenced.clone());
                let since = *silenced.borrow_and_update();
                connections.spawn(async move {
                    let (mut near, mut far) = (near, far);
                    let carrying = async {
                        let silenced = async {
                            let _ = silenced.wait_for(|silences| *silences > since).await;
                        };
                        tokio::select! {
                            () = carry(&mut near, &mut far, left) => return,
                            () = silenced => {}
                        }
                        // Both ends stay open, and nothing is read from either.
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = carrying => {}
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            plan,
            is_cut,
            silences,
            _carrying: carrying,
        }
    }

    pub(crate) fn room_url(&self) -> String {
        format!("ws://{}/rooms/room", self.address)
    }

    /// Breaks all connections, and admits none until `mend` is called.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Relays nothing more over the present connections, without closing them. Later ones hold.
    pub(crate) fn fall_silent(&self) {
        self.silences.send_modify(|silences| *silences += 1);
    }

    /// How many breaks are still planned.
    pub(crate) fn breaks_left(&self) -> usize {
        self.plan.lock().unwrap().len()
    }
}

async fn carry(near: &mut TcpStream, far: &mut TcpStream, mut left: Option<usize>) {
    let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let (taken, is_up) = tokio::select! {
            taken = near.read(&mut up) => (taken, true),
            taken = far.read(&mut down) => (taken, false),
        };
        let Ok(mut length @ 1..) = taken else { return };
        let is_last = left.is_some_and(|left| left <= length);
        if let Some(left) = &mut left {
            length = length.min(*left);
            *left -= length;
        }
        let written = if is_up {
            far.write_all(&up[..length]).await
        } else {
            near.write_all(&down[..length]).await
        };
        if is_last || written.is_err() {
            return;
        }
    }
}
