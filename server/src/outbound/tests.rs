use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::header::HeaderValue;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntaken";

/// A server that gives every request its present answer.
pub(crate) struct Receiver {
    port: u16,
    connections: Arc<AtomicUsize>,
    answer: Arc<Mutex<String>>,
    pub requests: mpsc::UnboundedReceiver<String>,
}

impl Receiver {
    async fn start(answer: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let (sender, requests) = mpsc::unbounded_channel();
        let (counted, answer) = (Arc::clone(&connections), Arc::new(Mutex::new(answer)));
        let given = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (sender, answer, tls) = (sender.clone(), Arc::clone(&given), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, sender, answer).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => serve(socket, sender, answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { port, connections, answer, requests }
    }

    pub async fn plain(answer: &str) -> Self {
        Self::start(answer.to_owned(), None).await
    }

    /// Answers without a body from now on.
    pub fn answers(&self, status: &str) {
        *self.answer.lock() = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    }

    pub fn url(&self, reach: Reach) -> ReceiverUrl {
        let host = if reach == Reach::Private { "127.0.0.1" } else { "localhost" };
        ReceiverUrl::parse(&format!("http://{host}:{}/take?this=1", self.port), reach).unwrap()
    }
}

/// Ends with the connection.
async fn serve(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    sender: mpsc::UnboundedSender<String>,
    answer: Arc<Mutex<String>>,
) -> Option<()> {
    let mut received = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = received.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            let mut piece = [0; 1024];
            let length = socket.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            received.extend_from_slice(&piece[..length]);
        };
        let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        while received.len() < head + length {
            let mut piece = [0; 1024];
            let length = socket.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            received.extend_from_slice(&piece[..length]);
        }
        let request: Vec<u8> = received.drain(..head + length).collect();
        sender.send(String::from_utf8_lossy(&request).into_owned()).ok()?;
        let answer = answer.lock().clone();
        socket.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn post(sender: &Sender, url: &ReceiverUrl) -> Result<PostAnswer, SendError> {
    let headers = HeaderMap::from_iter([(reqwest::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
    sender.post(url, headers, Bytes::from_static(b"an event")).await
}

#[tokio::test]
async fn posts_share_a_connection() {
    let (sender, mut receiver) = (Sender::default(), Receiver::plain(OK).await);
    let url = receiver.url(Reach::Private);
    for _ in 0..3 {
        let answer = post(&sender, &url).await.unwrap();
        assert_eq!(answer, PostAnswer { status: 200, retry_after: None, excerpt: "taken".to_owned() });
        assert!(answer.is_success());
        let request = receiver.requests.recv().await.unwrap().to_lowercase();
        assert!(
            request.starts_with("post /take?this=1 http/1.1\r\n") && request.ends_with("\r\n\r\nan event"),
            "{request}"
        );
        assert!(request.contains("content-type: text/plain") && request.contains(USER_AGENT), "{request}");
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_for_this_machine_is_out_of_reach() {
    let (sender, receiver) = (Sender::default(), Receiver::plain(OK).await);
    let error = post(&sender, &receiver.url(Reach::Public)).await.unwrap_err();
    assert_eq!(error, SendError::OutOfReach("localhost".to_owned()));
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
    let private = format!("http://localhost:{}/", receiver.port);
    assert!(post(&sender, &ReceiverUrl::parse(&private, Reach::Private).unwrap()).await.unwrap().is_success());
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let (sender, elsewhere) = (Sender::default(), Receiver::plain(OK).await);
    for status in ["301 Moved", "307 Temporary Redirect"] {
        let answer =
            format!("HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n", elsewhere.port);
        let receiver = Receiver::plain(&answer).await;
        let answer = post(&sender, &receiver.url(Reach::Private)).await.unwrap();
        assert!(!answer.is_success() && !answer.is_temporary(), "{answer:?}");
    }
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_receiver_says_when_to_come_back() {
    let answer = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 8\r\n\r\nso\r\n\u{7}bus";
    let (sender, receiver) = (Sender::default(), Receiver::plain(answer).await);
    let answer = post(&sender, &receiver.url(Reach::Private)).await.unwrap();
    assert_eq!((answer.retry_after, answer.is_temporary()), (Some(Duration::from_secs(7)), true));
    assert_eq!(answer.to_string(), "status 503 (Service Unavailable): so   bus");
}

#[tokio::test]
async fn a_long_answer_is_not_read_to_its_end() {
    let beginning = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n{}", "x".repeat(64 << 10));
    let (sender, receiver) = (Sender::default(), Receiver::plain(&beginning).await);
    let answer = post(&sender, &receiver.url(Reach::Private)).await.unwrap();
    assert_eq!((answer.status, answer.excerpt.len()), (200, EXCERPT_BYTES_MAX));
    let endless = format!("HTTP/1.1 200 OK\r\n{}", format!("a: {}\r\n", "x".repeat(1000)).repeat(10_000));
    let receiver = Receiver::plain(&endless).await;
    let error = post(&sender, &receiver.url(Reach::Private)).await.unwrap_err();
    assert!(matches!(error, SendError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_receiver_that_has_taken_it_may_break_off_its_answer() {
    let clients = Clients { timeout: Some(Duration::from_millis(200)), ..Clients::default() };
    let sender = Sender { shared: Arc::new(clients) };
    for (status, is_taken) in [("200 OK", true), ("202 Accepted", true), ("500 Broken", false)] {
        let receiver = Receiver::plain(&format!("HTTP/1.1 {status}\r\ncontent-length: 100\r\n\r\nwell")).await;
        let answer = post(&sender, &receiver.url(Reach::Private)).await;
        assert_eq!(answer.is_ok_and(|answer| answer.is_success() && answer.excerpt == "well"), is_taken, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_repeats_the_request_shows_no_secret() {
    let body = "Cannot POST /hook/T0K3N?key=s3cret&b=%2Fx: bearer abcdef, abcdef; /hook/T0K3N, key=s3cret&amp;b";
    let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let receiver = Receiver::plain(&answer).await;
    let url = format!("http://127.0.0.1:{}/hook/T0K3N?key=s3cret&b=%2Fx", receiver.port);
    let (name, value) = parse_header("Authorization: Bearer abcdef").unwrap();
    let url = ReceiverUrl::parse(&url, Reach::Private).unwrap();
    let answer =
        Sender::default().post(&url, HeaderMap::from_iter([(name, value)]), Bytes::from_static(b"x")).await.unwrap();
    for secret in ["T0K3N", "s3cret", "abcdef"] {
        assert!(!answer.to_string().contains(secret), "{answer}");
    }
    assert!(answer.excerpt.starts_with("Cannot POST ***?***: bearer ***, ***; ***, key="), "{answer}");
    assert_eq!(answer.status_text(), "status 404 (Not Found)");
}

/// Names whose servers do not answer until the test ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_lookups_of_one_tenant_do_not_hold_up_those_of_another() {
    static ARE_HELD: AtomicBool = AtomicBool::new(true);
    let lookup = |name: &str| {
        while name.ends_with(".slow") && ARE_HELD.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(vec!["127.0.0.1:0".parse().unwrap()])
    };
    let clients = Clients { lookup: Some(lookup), ..Clients::default() };
    let sender = Sender { shared: Arc::new(clients) };
    let receiver = Receiver::plain(OK).await;
    let at = |host: &str| format!("http://{host}:{}/", receiver.port);
    let (slow, other) = (LookupShare::default(), LookupShare::default());
    let posts: Vec<_> = (0..200)
        .map(|number| {
            let (sender, share, url) = (sender.clone(), slow.clone(), at(&format!("name{number}.slow")));
            let url = ReceiverUrl::parse(&url, Reach::Private).unwrap();
            tokio::spawn(async move { share.scope(post(&sender, &url)).await })
        })
        .collect();
    while slow.is_free() {
        tokio::task::yield_now().await;
    }
    let url = ReceiverUrl::parse(&at("quick"), Reach::Private).unwrap();
    let posted = other.scope(post(&sender, &url)).await;
    ARE_HELD.store(false, Ordering::SeqCst);
    assert!(posted.unwrap().is_success());
    posts.iter().for_each(|post| post.abort());
}

#[tokio::test]
async fn a_silent_receiver_and_a_missing_one_end_a_post() {
    let clients = Clients { timeout: Some(Duration::from_millis(50)), ..Clients::default() };
    let (sender, receiver) = (Sender { shared: Arc::new(clients) }, Receiver::plain("").await);
    let url = receiver.url(Reach::Private);
    assert_eq!(post(&sender, &url).await.unwrap_err(), SendError::TimedOut(url.to_string()));
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let missing = ReceiverUrl::parse(&format!("http://127.0.0.1:{port}/secret"), Reach::Private).unwrap();
    let error = post(&Sender::default(), &missing).await.unwrap_err();
    assert!(matches!(error, SendError::Connect { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("Connection refused") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn only_trusted_receivers_get_anything() {
    let parameters =
        |names: &[&str]| CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    let mut authority = parameters(&[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(&["localhost"]).signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let mut receiver = Receiver::start(OK.to_owned(), Some(TlsAcceptor::from(Arc::new(config)))).await;
    let at = |host: &str| ReceiverUrl::parse(&format!("https://{host}:{}/", receiver.port), Reach::Private).unwrap();
    let (by_name, by_address) = (at("localhost"), at("127.0.0.1"));
    let error = post(&Sender::default(), &by_name).await.unwrap_err();
    assert!(matches!(error, SendError::Connect { .. }) && error.to_string().contains("certificate"), "{error}");
    let trusting = Sender::trusting(authority.pem().as_bytes()).unwrap();
    assert!(post(&trusting, &by_address).await.is_err(), "the certificate is for another name");
    assert!(receiver.requests.try_recv().is_err());
    assert!(post(&trusting, &by_name).await.unwrap().is_success());
}
