//! Fetching against a server on this machine, and preparing files that the tests make.

use super::*;

fn fetcher(folder: &Path, max_bytes: u64, timeout: Duration) -> Fetcher {
    Fetcher::new(Limits { max_bytes, timeout, private_addresses: true, folder: folder.into() }).unwrap()
}

#[tokio::test]
async fn only_http_and_data_urls_name_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let fetcher = fetcher(folder.path(), 1000, Duration::from_secs(10));
    let deadline = Instant::now() + Duration::from_secs(10);
    for url in [
        "",
        "/etc/passwd",
        "./a.png",
        "file:///etc/passwd",
        "ftp://host/a",
        "C:\\a.png",
        "javascript:1",
        "a.png",
        "http://",
    ] {
        let result = fetcher.fetch(&MediaSource::Url(url.to_owned()), deadline).await;
        assert!(matches!(result, Err(MediaError::Source("is no http, https or data URL"))), "{url:?}: {result:?}");
    }
    let spool = fetcher.fetch(&MediaSource::Url(" DATA:,hello ".to_owned()), deadline).await.unwrap();
    assert_eq!(spool.read_to_vec().unwrap(), b"hello");
    let empty = fetcher.fetch(&MediaSource::Base64(String::new()), deadline).await;
    assert!(matches!(empty, Err(MediaError::Source("holds no bytes"))), "{empty:?}");
}
