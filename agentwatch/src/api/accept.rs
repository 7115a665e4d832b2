//! Takes connections and answers them. However many a client opens, however slowly it sends or reads, it
//! holds up no other for long, and root gets in, unless it is an agent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};

use super::model::ApiError;

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once, of all. Each `agentwatch run` has one from its start to its end.
    pub connections: usize,
    /// How many of them agents' processes may have.
    pub agents: usize,
    /// Further ones that only root has, and no agent.
    pub reserved: usize,
    /// How long a request's head may take, and the silence between two requests.
    pub head: Duration,
    /// How long an answer may take, the request's body included.
    pub answer: Duration,
    /// How long a client may read nothing of what is sent to it.
    pub stalled: Duration,
}

impl Limits {
    /// The usual.
    pub const DEFAULT: Self = Self {
        connections: 256,
        agents: 8,
        reserved: 64,
        head: Duration::from_secs(10),
        answer: Duration::from_secs(30),
        stalled: Duration::from_secs(120),
    };
}

/// The largest head of a request, bytes; of the body, see `routes.rs`.
const HEAD: usize = 32 * 1024;

/// Who wants to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// An agent's process, whoever its user is.
    Agent,
    /// Root, and no agent.
    Root,
    /// Anybody else.
    Other,
}

/// Room for connections.
pub struct Rooms {
    all: Arc<Semaphore>,
    agents: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    limits: Limits,
}

/// A place for a connection.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _as_agent: Option<OwnedSemaphorePermit>,
    limits: Limits,
}

impl Rooms {
    /// Room for so many.
    pub fn new(limits: Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            agents: Arc::new(Semaphore::new(limits.agents)),
            reserved: Arc::new(Semaphore::new(limits.reserved)),
            limits,
        }
    }

    /// A place, if there is one.
    pub fn place(&self, who: Who) -> Option<Place> {
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let as_agent = match who {
            Who::Agent => Some(take(&self.agents)?),
            Who::Root | Who::Other => None,
        };
        let permit = take(&self.all).or_else(|| {
            let reserved = (who == Who::Root).then_some(&self.reserved)?;
            take(reserved)
        });
        permit.map(|permit| Place {
            _permit: permit,
            _as_agent: as_agent,
            limits: self.limits,
        })
    }
}

/// What a client for whom there is no place is told.
pub const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    connection: close\r\ncontent-length: 51\r\n\r\n{\"error\":\"too many connections; try again later\"}\r\n";

/// Answers a connection until it ends. `prepare` may add to a request what is known of the client.
pub async fn answer<S>(
    stream: S,
    router: Router,
    place: Place,
    prepare: impl Fn(&mut Request<Body>) + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = place.limits;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        prepare(&mut request);
        let answered = TowerToHyperService::new(router.clone()).call(request);
        async move {
            match timeout(limits.answer, answered).await {
                Ok(answer) => answer,
                Err(_) => Ok(too_late()),
            }
        }
    });
    let stream = Patient {
        stream,
        stalled: limits.stalled,
        until: None,
    };
    // A client that breaks off is no mistake of anybody's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    drop(place);
}

fn too_late() -> Response {
    let error =
        "it took too long: the request did not come whole, or the history is slow".to_owned();
    let close = [(hyper::header::CONNECTION, "close")];
    let body = Json(ApiError { error });
    (StatusCode::REQUEST_TIMEOUT, close, body).into_response()
}

/// A stream to a client that must not stop reading for too long.
struct Patient<S> {
    stream: S,
    stalled: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.until = None;
            return written;
        }
        let stalled = self.stalled;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(stalled)));
        match until.as_mut().poll(context) {
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.within(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.within(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };

    use super::*;

    const SHORT: Limits = Limits {
        connections: 3,
        agents: 1,
        reserved: 1,
        head: Duration::from_millis(200),
        answer: Duration::from_millis(400),
        stalled: Duration::from_millis(200),
    };

    fn router() -> Router {
        Router::new()
            .route("/long", get(|| async { vec![b'x'; 16 << 20] }))
            .route("/echo", post(|body: String| async { body }))
    }

    /// What comes of what a client sends, when it sends nothing more.
    fn ask(sent: &'static [u8]) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let place = Rooms::new(SHORT).place(Who::Other).unwrap();
            let task = tokio::spawn(answer(server, router(), place, |_| {}));
            // What is too much is not read, and breaks off.
            let _ = client.write_all(sent).await;
            let mut said = Vec::new();
            let _ = client.read_to_end(&mut said).await;
            task.await.unwrap();
            String::from_utf8(said).unwrap()
        })
    }

    #[test]
    fn a_head_that_does_not_come_whole() {
        assert_eq!(ask(b"GET /long HTTP/1.1\r\nho"), "");
        // Nor one that never begins.
        assert_eq!(ask(b""), "");
    }

    #[test]
    fn silence_after_an_answer() {
        let said = ask(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi");
        assert!(
            said.starts_with("HTTP/1.1 200") && said.ends_with("hi"),
            "{said}"
        );
    }

    #[test]
    fn a_body_that_does_not_come_whole() {
        let said = ask(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhi");
        assert!(
            said.starts_with("HTTP/1.1 408") && said.contains("too long"),
            "{said}"
        );
    }

    #[test]
    fn a_head_without_end() {
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(2 * HEAD, b'a');
        let said = ask(head.leak());
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    }

    #[test]
    fn a_client_that_does_not_read() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let rooms = Rooms::new(SHORT);
            let place = rooms.place(Who::Other).unwrap();
            client
                .write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            answer(server, router(), place, |_| {}).await;
            assert_eq!(rooms.all.available_permits(), SHORT.connections);
        });
    }

    #[test]
    fn there_is_room_for_root() {
        let rooms = Rooms::new(SHORT);
        let agent = rooms.place(Who::Agent).unwrap();
        assert!(rooms.place(Who::Agent).is_none());
        let others = [
            rooms.place(Who::Other).unwrap(),
            rooms.place(Who::Other).unwrap(),
        ];
        assert!(rooms.place(Who::Other).is_none());
        let root = rooms.place(Who::Root).unwrap();
        assert!(rooms.place(Who::Root).is_none());
        drop(agent);
        assert!(rooms.place(Who::Agent).is_some());
        drop((others, root));
    }

    #[test]
    fn the_refusal_is_whole() {
        let text = std::str::from_utf8(NO_PLACE).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            text.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
    }
}
