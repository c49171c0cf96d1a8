//! The guarded client against a server on this machine.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use tokio_util::task::TaskTracker;

use super::*;

const OPEN: Policy = Policy { private: true };
const CLOSED: Policy = Policy { private: false };

/// Serves until the test's runtime ends.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn routes() -> Router {
    Router::new()
        .route("/ok", get(|| async { "fine" }))
        .route("/missing", get(|| async { StatusCode::NOT_FOUND }))
        .route("/nowhere", get(|| async { StatusCode::FOUND }))
        .route(
            "/hops/{left}",
            get(|Path(left): Path<u32>| async move {
                let target = if left == 0 { "/ok".to_owned() } else { format!("/hops/{}", left - 1) };
                (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, target)])
            }),
        )
        .route(
            "/to",
            get(|query: axum::extract::RawQuery| async move {
                (StatusCode::FOUND, [(LOCATION, query.0.unwrap_or_default())]).into_response()
            }),
        )
        .route("/silent", get(|| async { std::future::pending::<()>().await }))
}

async fn ask(policy: Policy, url: &str) -> Result<String, FetchError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let response = Guarded::new(policy).unwrap().get(&url.parse().unwrap(), deadline).await?;
    Ok(response.text().await.unwrap())
}

#[tokio::test]
async fn redirects_are_followed_a_few_times() {
    let base = serve(routes()).await;
    assert_eq!(ask(OPEN, &format!("{base}/ok")).await.unwrap(), "fine");
    assert_eq!(ask(OPEN, &format!("{base}/hops/4")).await.unwrap(), "fine");
    assert!(matches!(ask(OPEN, &format!("{base}/hops/5")).await, Err(FetchError::Redirects)));
    assert!(matches!(ask(OPEN, &format!("{base}/nowhere")).await, Err(FetchError::Redirects)));
    assert!(matches!(ask(OPEN, &format!("{base}/missing")).await, Err(FetchError::Status(404))));
}

#[tokio::test]
async fn each_target_of_a_redirect_is_judged() {
    let base = serve(routes()).await;
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://2852039166/",
        "//0xa9.0xfe.0xa9.0xfe/",
    ] {
        let result = ask(OPEN, &format!("{base}/to?{target}")).await;
        assert!(matches!(result, Err(FetchError::Address)), "{target}: {result:?}");
    }
    for target in ["file:///etc/passwd", "ftp://example.com/", "data:text/plain,hi"] {
        let result = ask(OPEN, &format!("{base}/to?{target}")).await;
        assert!(matches!(result, Err(FetchError::Scheme)), "{target}: {result:?}");
    }
}

#[tokio::test]
async fn private_addresses_are_refused_when_denied_by_name_and_by_number() {
    let base = serve(routes()).await;
    let named = base.replace("127.0.0.1", "localhost");
    assert_eq!(ask(OPEN, &format!("{named}/ok")).await.unwrap(), "fine");
    for url in [format!("{named}/ok"), format!("{base}/ok"), base.replace("127.0.0.1", "127.1")] {
        let result = ask(CLOSED, &url).await;
        assert!(matches!(result, Err(FetchError::Address)), "{url}: {result:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_says_nothing_is_told_apart() {
    let base = serve(routes()).await;
    let result = ask(OPEN, "http://127.0.0.1:1/").await;
    assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
    let result = ask(OPEN, "http://no-such-host.invalid/").await;
    assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
    let client = Guarded::new(OPEN).unwrap();
    let url = format!("{base}/silent").parse().unwrap();
    let result = client.get(&url, Instant::now() + Duration::from_millis(100)).await;
    assert!(matches!(result, Err(FetchError::TimedOut)), "{result:?}");
}
