//! Downloads by link: what a request reads before its response, and whose turn it is.

use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper::{Method, Request, StatusCode};
use hyper_util::service::TowerToHyperService;
use meshagent_ledger::Kind;
use meshagent_protocol::{ApiKey, TokenVerifier};

use super::*;
use crate::fair::FairTurns;
use crate::http::{App, FILE_PARTS, FIRST_PARTS, router};

const LARGE: usize = 48 << 20;
const SMALL: usize = 1_000;
/// The bytes of a first part.
const FIRST: usize = 64 << 10;

struct Links {
    store: Arc<Held>,
    server: Server,
    app: Arc<App>,
}

impl Links {
    fn start() -> Self {
        let (word, go_on) = mpsc::channel();
        drop(word);
        let store = Arc::new(Held::new(go_on));
        let put = |path: &str, bytes: usize| Write::PutFile {
            room: RoomId::new("project", "room"),
            path: path.to_owned(),
            data: vec![b'x'; bytes].into(),
            mime_type: "text/plain".to_owned(),
            overwrite: true,
            at: now(),
        };
        store
            .inner
            .commit(&[
                put("groß", LARGE),
                put("mittel", FIRST),
                put("klein", SMALL),
            ])
            .unwrap();
        let server = Server::start_on(Arc::<Held>::clone(&store));
        let key = ApiKey {
            id: "123e4567-e89b-12d3-a456-426614174000".to_owned(),
            project_id: "project".to_owned(),
            secret: "secret".to_owned(),
        };
        let rooms = &server.rooms;
        let shared = crate::connection::Shared {
            rooms: Arc::clone(rooms),
            config: Arc::clone(&rooms.config),
            metrics: Arc::clone(&rooms.metrics),
            clock: Arc::new(crate::wall_clock::WallClock::new(now)),
            total_rate: Arc::new(crate::budget::Rate::new(u64::MAX, Duration::from_secs(2))),
            stopping: server.stopping.clone(),
            killed: server.killed.clone(),
        };
        let app = App {
            shared,
            committer: rooms.committer.clone(),
            verifier: TokenVerifier::new("project", [key.clone()]),
            key,
            signer: rooms.signer.clone(),
            connections: TaskTracker::new(),
            sockets: Arc::new(tokio::sync::Semaphore::new(1)),
            parts: Arc::new(FairTurns::new(FILE_PARTS)),
            first_parts: Arc::new(FairTurns::new(FIRST_PARTS)),
        };
        Self {
            store,
            server,
            app: Arc::new(app),
        }
    }

    fn request(&self, method: Method, path: &str) -> impl Future<Output = Response> + use<> {
        let expires = Timestamp(now().0 + 600_000);
        let room = RoomId::new("project", "room");
        let target = self.app.signer.url("", &room, path, expires, false);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        let service = TowerToHyperService::new(router(Arc::clone(&self.app)));
        async move { service.call(request).await.unwrap() }
    }

    fn parts(&self) -> Vec<(String, usize)> {
        self.store.parts.lock().unwrap().clone()
    }

    async fn end(self) {
        drop((self.app, self.store));
        self.server.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_reads_one_short_part_before_its_response() {
    let links = Links::start();
    let head = links.request(Method::HEAD, "groß").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], LARGE.to_string());
    drop(head);
    assert_eq!(links.parts(), [], "nobody asked for content");
    let response = links.request(Method::GET, "groß").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(links.parts(), [("groß".to_owned(), 64 << 10)]);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.len() == LARGE && body.iter().all(|byte| *byte == b'x'));
    assert_eq!(links.parts().len(), 1 + LARGE.div_ceil(512 << 10));
    links.end().await;
}

/// A short file is served after a few openings, however many requests for a large one came first
/// and whether or not their peers take what they requested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_file_does_not_wait_for_the_requests_for_another() {
    const CROWD: usize = 300;
    // While its thread waits for a processor, some others are served.
    const FEW: usize = CROWD / 4;
    let links = Links::start();
    let shut = links.store.files.write().await;
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let request = links.request(Method::GET, "groß");
        crowd.spawn(async move {
            let mut body = request.await.into_body();
            // The first part, then a second one that stays in memory.
            body.frame().await.unwrap().unwrap();
            (body.frame().await.unwrap().unwrap(), body)
        });
    }
    let waiting = || links.server.rooms.reads.links_waiting();
    while waiting() < CROWD - 4 {
        tokio::task::yield_now().await;
    }
    let small = tokio::spawn(links.request(Method::GET, "klein"));
    while waiting() < CROWD - 4 + 1 {
        tokio::task::yield_now().await;
    }
    drop(shut);
    let response = small.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), SMALL);
    let opened = links.store.opened.lock().unwrap().clone();
    let place = opened.iter().position(|path| path == "klein").unwrap();
    assert!(place <= FEW, "opened after {place} others");
    let parts = links.parts();
    let place = parts.iter().position(|(path, _)| path == "klein").unwrap();
    assert!(place <= FEW, "read after {place} parts of another");
    // The parts that may be in memory are taken by peers that read no more. That delays other
    // large files, but no short one.
    let mut idle = Vec::new();
    while idle.len() < FILE_PARTS {
        idle.push(crowd.join_next().await.unwrap().unwrap());
    }
    let response = links.request(Method::GET, "klein").await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), SMALL);
    drop(idle);
    crowd.shutdown().await;
    links.end().await;
}

/// Before, a crowd that read nothing of a short file could take all memory of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_parts_have_a_bound_and_other_files_have_their_turn() {
    const MORE: usize = 20;
    let links = Links::start();
    let usage = links.server.rooms.usage();
    let mut crowd = JoinSet::new();
    for _ in 0..FIRST_PARTS + MORE {
        crowd.spawn(links.request(Method::GET, "mittel"));
    }
    let mut idle = Vec::new();
    while idle.len() < FIRST_PARTS {
        idle.push(crowd.join_next().await.unwrap().unwrap());
    }
    while links.app.first_parts.waiting() < MORE {
        assert!(crowd.try_join_next().is_none(), "more than the bound");
        tokio::task::yield_now().await;
    }
    let held = usage.ledger().held_of(Kind::Download);
    assert_eq!(held, FIRST_PARTS * FIRST);
    // Who takes too little is dropped now. Then another file waits for two peers at most.
    assert!(usage.ledger().is_part_wanted());
    let small = tokio::spawn(links.request(Method::GET, "klein"));
    while links.app.first_parts.waiting() < MORE + 1 {
        tokio::task::yield_now().await;
    }
    drop(idle.drain(..2));
    let body = small.await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), SMALL);
    drop(idle);
    crowd.shutdown().await;
    assert!(!usage.ledger().is_part_wanted());
    links.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_receives_a_damaged_file_as_a_whole() {
    let links = Links::start();
    links.store.is_damaged.store(true, Ordering::SeqCst);
    let response = links.request(Method::GET, "klein").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let response = links.request(Method::GET, "groß").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut received = 0;
    while let Ok(frame) = body.frame().await.expect("it ends with an error") {
        received += frame.data_ref().unwrap().len();
    }
    assert!(
        (LARGE - (512 << 10)..LARGE).contains(&received),
        "{received}"
    );
    links.store.is_damaged.store(false, Ordering::SeqCst);
    let response = links.request(Method::GET, "klein").await;
    assert_eq!(response.status(), StatusCode::OK);
    drop((response, body));
    links.end().await;
}
