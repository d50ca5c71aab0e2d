//! The server's connections, from accepting to closing them.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use vqa_data::features::Extractor;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::serve::app::App;
use crate::serve::gallery::Gallery;
use crate::serve::guard::{Guard, problem_of_token};
use crate::serve::options::{Limits, ServeOptions};
use crate::serve::problem::Problem;
use crate::serve::routes::routes;

/// A server that is listening, and answers once it [runs](Server::run).
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address, and starts the threads of the model and the extractor. Without an `extractor`, only images of
    /// the `gallery` can be asked about.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, no token is set although other computers can reach the address, or the file
    /// for verdicts cannot be opened.
    pub fn bind(
        checkpoint: Checkpoint,
        extractor: Option<Box<dyn Extractor>>,
        gallery: Option<Gallery>,
        options: &ServeOptions,
    ) -> Result<Server> {
        let wanted = SocketAddr::new(options.host, options.port);
        let refused = |problem: String| Error::Address { address: wanted, problem };
        if !options.host.is_loopback() && options.token.is_none() {
            let problem = "other computers can reach this address: set a token that requests must carry";
            return Err(refused(problem.to_owned()));
        }
        if let Some(problem) = options.token.as_deref().and_then(problem_of_token) {
            return Err(refused(problem.to_owned()));
        }
        let listener = TcpListener::bind(wanted).map_err(|error| {
            refused(match error.kind() {
                ErrorKind::AddrInUse => "another program listens there: choose another port".to_owned(),
                ErrorKind::AddrNotAvailable => "this computer has no such address".to_owned(),
                ErrorKind::PermissionDenied => "not permitted: choose a port from 1024 on".to_owned(),
                _ => error.to_string(),
            })
        })?;
        let of_system = |error: std::io::Error| refused(error.to_string());
        listener.set_nonblocking(true).map_err(of_system)?;
        let address = listener.local_addr().map_err(of_system)?;
        let guard = Guard::new(options.host, address.port(), options.token.as_deref());
        let app = Arc::new(App::start(checkpoint, extractor, gallery, guard, options)?);
        Ok(Server { app, listener, address })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` is set. Then no more connections are accepted, and open requests have
    /// [`Limits::end_time`] to finish. Returns whether all of them did.
    ///
    /// # Errors
    ///
    /// When the system refuses threads or sockets.
    pub fn run(self, stop: &AtomicBool) -> Result<bool> {
        let Server { app, listener, address } = self;
        let refused = |error: std::io::Error| Error::Address { address, problem: error.to_string() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // For files and thumbnails. Few, since each thread that allocates retains memory of its own.
            .max_blocking_threads(8)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(refused)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
            Ok(serve(app, listener, stop).await)
        })
    }
}

/// Serves until `stop` is set, and returns whether every request that was open by then was answered.
async fn serve(app: Arc<App>, listener: tokio::net::TcpListener, stop: &AtomicBool) -> bool {
    /// How many connections above the limit get an answer that says so.
    const REFUSED: usize = 64;
    let limits = app.limits;
    let router = routes(Arc::clone(&app));
    let refusal = Router::new().fallback(async || Problem::busy().into_response());
    let (places, refused) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(Semaphore::new(REFUSED)));
    let open = GracefulShutdown::new();
    let mut stopped = pin!(is_set(stop));
    loop {
        // When even these are used up, further connections wait until one has closed.
        let next = async {
            let (place, router) = match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => (place, &router),
                Err(_) => (Arc::clone(&refused).acquire_owned().await.ok()?, &refusal),
            };
            Some((listener.accept().await, place, router))
        };
        let (accepted, place, router) = tokio::select! {
            () = &mut stopped => break,
            Some(next) = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                app.telemetry.connections.inc();
                let connection = open.watch(connection(stream, router.clone(), limits));
                tokio::spawn(finish(connection, place, Arc::clone(&app)));
            }
            // A temporary condition, such as too many open files.
            Err(error) => {
                tracing::warn!("a connection cannot be accepted: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
    app.stop();
    drop(listener);
    timeout(limits.end_time, open.shutdown()).await.is_ok()
}

/// An HTTP connection to a client.
type Connection = http1::Connection<TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>, TowerToHyperService<Router>>;

fn connection(stream: TcpStream, router: Router, limits: Limits) -> Connection {
    // Answers are small and should be sent at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    // A client that waits for its answer sends nothing, so the read timeout covers that time too.
    stream.set_read_timeout(Some(limits.request_time + limits.head_time));
    stream.set_write_timeout(Some(limits.write_time));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
}

/// Waits for a connection to end, and ignores how: clients may break off at any time.
async fn finish(connection: impl Future<Output = hyper::Result<()>>, place: OwnedSemaphorePermit, app: Arc<App>) {
    let _ = connection.await;
    app.telemetry.connections.dec();
    drop(place);
}

/// Polls a flag until it is set. Signal handlers set it, and can do little else.
async fn is_set(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(50)).await;
    }
}
