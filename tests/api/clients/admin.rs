//! An admin page that shows the start page inside its own.

use super::super::support::{KEY, TestGateway};
use super::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blade_admin_page() {
    let gateway = TestGateway::start().await;
    // A browser's request for an iframe: no header of ours can be set, so the key stands in the address.
    let browser = Program::new(
        &gateway,
        &[
            ("Accept", "text/html,application/xhtml+xml"),
            ("Sec-Fetch-Dest", "iframe"),
            ("Sec-Fetch-Site", "cross-site"),
        ],
    );
    let page = browser.get(&format!("/session/start?session=admin&key={KEY}")).await;
    assert_eq!(page.status(), 200);
    let headers = page.headers().clone();
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(headers.get("x-frame-options").is_none());
    let policy = headers.get("content-security-policy").map_or("", |value| value.to_str().unwrap());
    assert!(!policy.contains("frame-ancestors") && !policy.contains("sandbox"), "{policy}");
    let html = page.text().await.unwrap();
    assert!(html.contains("id=\"qrcode\"") && html.contains("src=\"data:image/png;base64,"));
    gateway.finish().await;
}
