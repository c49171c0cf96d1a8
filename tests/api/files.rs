//! Received files over HTTP: types, ranges, and what must not be reachable.

use std::path::Path;

use super::support::{KEY, TestGateway};

/// What one request got.
struct Got {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(gateway: &TestGateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Got {
    let mut request = gateway.api.client.request(method.parse().unwrap(), format!("{}{path}", gateway.api.base));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Got { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

async fn with_files(files: &[(&str, &str)]) -> TestGateway {
    let gateway = TestGateway::start().await;
    let folder = gateway.folder().join("media");
    for (name, text) in files {
        write(&folder.join(name), text);
    }
    gateway
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_received_file_is_served_to_everybody_and_never_runs_here() {
    let gateway =
        with_files(&[("3EB0.jpg", "jpeg"), ("3EB0", "doc"), ("page.html", "<script>"), ("a.txt", "h\u{e9}")]).await;
    for (name, kind, shown) in [
        ("3EB0.jpg", "image/jpeg", true),
        ("3EB0", "application/octet-stream", false),
        ("page.html", "application/octet-stream", false),
        ("a.txt", "text/plain; charset=utf-8", true),
    ] {
        let path = format!("/media/{name}");
        let got = ask(&gateway, "GET", &path, &[]).await;
        assert_eq!((got.status, got.header("content-type")), (200, kind), "{name}");
        assert_eq!(got.header("content-disposition"), if shown { "" } else { "attachment" }, "{name}");
        assert_eq!(got.header("x-content-type-options"), "nosniff");
        assert_eq!(got.header("content-security-policy"), "sandbox; default-src 'none'");
        assert_eq!(got.header("content-length"), got.body.len().to_string());
        assert_eq!(got.header("access-control-allow-origin"), "*");
        let head = ask(&gateway, "HEAD", &path, &[]).await;
        assert_eq!((head.status, head.header("content-type"), head.body.len()), (200, kind, 0), "{name}");
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        let since = got.header("last-modified").to_owned();
        assert_eq!(ask(&gateway, "GET", &path, &[("if-modified-since", &since)]).await.status, 304);
    }
    assert_eq!(ask(&gateway, "GET", "/media/3EB0.jpg?key=wrong", &[("key", "wrong")]).await.body, b"jpeg");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_right() {
    let gateway = with_files(&[("a.bin", "0123456789"), ("empty.bin", "")]).await;
    for (range, status, told, body) in [
        ("bytes=0-0", 206, "bytes 0-0/10", "0"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=4-", 206, "bytes 4-9/10", "456789"),
        ("bytes=2-5", 206, "bytes 2-5/10", "2345"),
        ("bytes=8-99", 206, "bytes 8-9/10", "89"),
        ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
        ("bytes=10-", 416, "bytes */10", r#"{"message":"Requested range not satisfiable"}"#),
        ("bytes=-0", 416, "bytes */10", r#"{"message":"Requested range not satisfiable"}"#),
        ("bytes=5-2", 200, "", "0123456789"),
        ("bytes=0-1,4-5", 200, "", "0123456789"),
        ("lines=0-1", 200, "", "0123456789"),
        ("nonsense", 200, "", "0123456789"),
    ] {
        let got = ask(&gateway, "GET", "/media/a.bin", &[("range", range)]).await;
        let seen = (got.status, got.header("content-range"), std::str::from_utf8(&got.body).unwrap());
        assert_eq!(seen, (status, told, body), "{range}");
        assert_eq!(got.header("content-length"), got.body.len().to_string(), "{range}");
    }
    let got = ask(&gateway, "GET", "/media/empty.bin", &[("range", "bytes=0-0")]).await;
    assert_eq!((got.status, got.header("content-range")), (416, "bytes */0"));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_unfinished_or_missing_is_served() {
    let gateway =
        with_files(&[("a.jpg", "x"), (".part-1", "unfinished"), ("sub/b.jpg", "y"), (".of-1/c", "z"), (".d", "w")])
            .await;
    let folder = gateway.folder().join("media");
    write(&gateway.folder().join("secret.txt"), "secret");
    std::os::unix::fs::symlink("../secret.txt", folder.join("link.txt")).unwrap();
    std::os::unix::fs::symlink(".part-1", folder.join("shown.txt")).unwrap();
    for path in [
        "/media/none.jpg",
        "/media",
        "/media/",
        "/media/sub",
        "/media/sub/",
        "/media/a.jpg/",
        "/media//secret.txt",
        "/media//.part-1",
        "/media/.part-1",
        "/media/%2epart-1",
        "/media/.of-1/c",
        "/media/%2eof-1/c",
        "/media/link.txt",
        "/media/shown.txt",
        "/media/../secret.txt",
        "/media/%2e%2e/secret.txt",
        "/media/..%2fsecret.txt",
        "/media/..%5csecret.txt",
        "/media/%252e%252e/secret.txt",
        "/media/a.jpg%00",
        "/media/%ff",
        "/media/%2Fetc%2Fpasswd",
    ] {
        let got = gateway.api.raw(path).await;
        assert!(got.starts_with("HTTP/1.1 404 "), "{path}: {got}");
        assert!(got.ends_with(r#"{"message":"Route not found"}"#), "{path}: {got}");
    }
    assert_eq!(ask(&gateway, "GET", "/media/sub/b.jpg", &[]).await.body, b"y");
    // wa-gateway 4.7.1 serves names that begin with a dot, too.
    assert_eq!(ask(&gateway, "GET", "/media/.d", &[]).await.body, b"w");
    // wa-gateway 4.7.1 takes several slashes for one.
    assert!(gateway.api.raw("/media//a.jpg").await.starts_with("HTTP/1.1 200 "));
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let got = ask(&gateway, method, "/media/a.jpg", &[("key", KEY)]).await;
        assert_eq!((got.status, got.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    gateway.finish().await;
}
