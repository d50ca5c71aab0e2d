//! The routes of the service, and the layers that apply to all of them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::serve::api;
use crate::serve::app::App;
use crate::serve::problem::Problem;
use crate::serve::telemetry::RequestLabels;

/// Lets the page load only the server's own resources, and show pictures that the user has chosen.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of every response.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Builds the service.
pub(super) fn routes(app: Arc<App>) -> Router {
    // Bytes for the form's other fields and its boundaries.
    const BESIDE: usize = 1 << 18;
    let largest = app.limits.picture_bytes + BESIDE;
    let asset = |content_type: &'static str, text: &'static str| -> MethodRouter<Arc<App>> {
        get(move || async move { ([(header::CONTENT_TYPE, content_type)], text) })
    };
    let mut router = Router::new()
        .route("/", get(page))
        .route("/style.css", asset("text/css; charset=utf-8", include_str!("page/style.css")))
        .route("/page.js", asset("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/regions.js", asset("text/javascript; charset=utf-8", include_str!("../page/regions.js")))
        .route("/icon.svg", asset("image/svg+xml", include_str!("page/icon.svg")))
        .route("/api/ask", post(api::ask))
        .route("/api/ask/batch", post(api::ask_batch))
        .route("/api/collect", post(api::collect))
        .route("/api/images", get(api::images))
        .route("/api/images/{image_id}/picture", get(api::picture))
        .route("/api/images/{image_id}/thumbnail", get(api::thumbnail_of))
        .route("/api/model", get(api::model))
        .route("/openapi.json", get(api::openapi))
        .route("/metrics", get(api::metrics))
        .route("/healthz", get(api::health))
        .fallback(async |uri: Uri| Problem::not_found(format!("there is nothing at {}", uri.path())))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not allowed here: /openapi.json lists those that are",
            )
        })
        .layer(DefaultBodyLimit::max(largest))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal("a bug in vqa: the server's output says where").into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(&app), guarded));
    for (name, value) in HEADERS {
        router = router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)));
    }
    // Responses that may be cached set this header themselves.
    let no_store = HeaderValue::from_static("no-store");
    router.layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, no_store)).with_state(app)
}

/// The token in the page's address.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("page/index.html")).into_response()
}

/// Passes a request on if it may use the server, within the time limit, and records it in the metrics.
async fn guarded(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = match check(&app, &request, &route) {
        Err(response) => response,
        Ok(()) => match tokio::time::timeout(app.limits.request_time, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let seconds = app.limits.request_time.as_secs();
                Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the request took longer than {seconds} s"))
                    .into_response()
            }
        },
    };
    app.telemetry.requests.get_or_create(&RequestLabels { route, status: response.status().as_u16() }).inc();
    app.telemetry.request_seconds.observe(started.elapsed().as_secs_f64());
    response
}

/// Checks where a request comes from and its token. An `Err` is the response to send instead of handling the request.
#[allow(clippy::result_large_err)]
fn check(app: &App, request: &Request, route: &str) -> Result<(), Response> {
    let guard = &app.guard;
    guard.check_origin(request.method(), request.headers()).map_err(IntoResponse::into_response)?;
    // Health checks need no token: they reveal nothing.
    if route == "/healthz" {
        return Ok(());
    }
    // Moves the token from the address into a cookie.
    let query = Query::<Token>::try_from_uri(request.uri()).ok();
    let token = query.and_then(|Query(query)| query.token).filter(|token| route == "/" && guard.is_token(token));
    if let Some(cookie) = token.and_then(|token| guard.cookie(&token).parse::<HeaderValue>().ok()) {
        return Err(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response());
    }
    guard.check_token(request.headers()).map_err(IntoResponse::into_response)
}
