//! Fetching against a server on this machine, and preparing files that the tests make.

use std::io::{Cursor, Read as _, Seek as _, SeekFrom};
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use futures::{Stream, StreamExt as _, stream};
use tokio_util::task::TaskTracker;

use super::*;
use crate::message::Upload;

mod pictures;
mod property;

/// A fetcher and the folder that goes with it.
struct Bench {
    fetcher: Fetcher,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(max_bytes: u64, timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes, timeout, private_addresses: true, folder: folder.path().into() };
        Self { fetcher: Fetcher::new(limits).unwrap(), folder }
    }

    fn roomy() -> Self {
        Self::new(100 * 1024 * 1024, Duration::from_mins(1))
    }

    async fn fetch(&self, source: MediaSource) -> Result<Spool, MediaError> {
        self.fetcher.fetch(&source, Instant::now() + Duration::from_mins(1)).await
    }

    async fn fetch_url(&self, url: &str) -> Result<Spool, MediaError> {
        self.fetch(MediaSource::Url(url.to_owned().into())).await
    }

    async fn prepare(&self, bytes: Vec<u8>, kind: Kind, name: Option<&str>) -> Result<Prepared, MediaError> {
        self.prepare_declared(bytes, None, kind, name).await
    }

    async fn prepare_declared(
        &self,
        bytes: Vec<u8>,
        mime: Option<&str>,
        kind: Kind,
        name: Option<&str>,
    ) -> Result<Prepared, MediaError> {
        let spool = Spool::from_bytes(bytes, self.folder.path()).unwrap().described(mime, None);
        self.fetcher.prepare(spool, kind, name).await
    }

    /// What lies in the folder; a spool's file has no name.
    fn litter(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

/// Serves until the test's runtime ends.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A body of so many pieces of 64 KiB, each filled with its number, without a length.
fn pieces(count: u32) -> Body {
    Body::from_stream(stream::iter(
        (0..count).map(|piece| Ok::<_, std::io::Error>(Bytes::from(vec![piece.to_le_bytes()[0]; 64 * 1024]))),
    ))
}

/// Three bytes, then nothing, and no end.
fn one_and_no_more() -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from_static(b"one"))]).chain(stream::pending())
}

#[tokio::test]
async fn only_http_and_data_urls_name_a_file() {
    let bench = Bench::roomy();
    for url in [
        "",
        "/etc/passwd",
        "./a.png",
        "a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://host/a",
        "C:\\a.png",
        "\\\\host\\share",
        "javascript:1",
        "http://",
        "http:///",
        "https://:80/",
    ] {
        let result = bench.fetch_url(url).await;
        assert!(matches!(result, Err(MediaError::Source("is no http, https or data URL"))), "{url:?}: {result:?}");
    }
    let spool = bench.fetch_url(" DATA:,hello ").await.unwrap();
    assert_eq!(spool.read_to_vec().unwrap(), b"hello");
    for empty in [MediaSource::Base64(String::new().into()), MediaSource::Url("data:,".to_owned().into())] {
        let result = bench.fetch(empty).await;
        assert!(matches!(result, Err(MediaError::Source("holds no bytes"))), "{result:?}");
    }
}

#[tokio::test]
async fn a_file_is_fetched_with_what_its_server_says_about_it() {
    let router = Router::new()
        .route("/files/a.png", get(|| async { ([(header::CONTENT_TYPE, "image/jpeg")], "bytes") }))
        .route("/gone", get(|| async { StatusCode::GONE }));
    let base = serve(router).await;
    let bench = Bench::roomy();
    let spool = bench.fetch_url(&format!("{}/files/a.png?x=1", base.replace("http", "HTTP"))).await.unwrap();
    assert_eq!(spool.read_to_vec().unwrap(), b"bytes");
    assert_eq!((spool.declared_mime(), spool.declared_name()), (Some("image/jpeg"), Some("a.png")));
    let url = format!("{base}/gone");
    let error = bench.fetch_url(&url).await.unwrap_err();
    assert_eq!(error.to_string(), "the media host answered with status 410");
    assert!(matches!(error, MediaError::Status { url: given, code: 410 } if given == url));
    let error = bench.fetch_url("http://127.0.0.1:1/").await.unwrap_err();
    assert_eq!(error.to_string(), "fetch failed");
    let error = bench.fetch_url("http://169.254.169.254/latest/meta-data/").await.unwrap_err();
    assert!(matches!(error, MediaError::Address), "{error:?}");
}

#[tokio::test]
async fn a_packed_file_is_unpacked_within_the_limit() {
    use flate2::Compression;
    use flate2::read::GzEncoder;

    let packed = |file: &[u8]| {
        let mut packed = Vec::new();
        GzEncoder::new(file, Compression::fast()).read_to_end(&mut packed).unwrap();
        packed
    };
    let (small, bomb) = (packed(b"%PDF-1.7 small"), packed(&vec![0; 50_000_000]));
    let mut unpacker = Unpacker::of("gzip").unwrap();
    let steps = bomb.chunks(unpacker.step()).map(|piece| unpacker.unpack(piece).unwrap().len());
    assert!(steps.max().unwrap() < 4 << 20, "a piece of a bomb is small");
    let answer = |encoding: &'static str, body: Vec<u8>| {
        get(move |headers: HeaderMap| async move {
            assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
            ([(header::CONTENT_ENCODING, encoding)], body)
        })
    };
    let router = Router::new()
        .route("/small", answer("gzip", small.clone()))
        .route("/bomb", answer("gzip", bomb))
        .route("/broken", answer("gzip", small[..9].to_vec()))
        .route("/unknown", answer("br", small));
    let base = serve(router).await;
    let bench = Bench::new(1_000_000, Duration::from_mins(1));
    assert_eq!(bench.fetch_url(&format!("{base}/small")).await.unwrap().read_to_vec().unwrap(), b"%PDF-1.7 small");
    let error = bench.fetch_url(&format!("{base}/bomb")).await.unwrap_err();
    assert!(matches!(error, MediaError::TooLarge { limit_bytes: 1_000_000 }), "{error:?}");
    for path in ["broken", "unknown"] {
        let error = bench.fetch_url(&format!("{base}/{path}")).await.unwrap_err();
        assert_eq!(error.to_string(), "fetch failed", "{path}");
    }
}

#[tokio::test]
async fn a_large_file_goes_through_a_small_buffer_to_disk() {
    const PIECES: u32 = 1024;
    let base = serve(Router::new().route("/", get(|| async { pieces(PIECES) }))).await;
    let bench = Bench::roomy();
    let spool = bench.fetch_url(&base).await.unwrap();
    assert_eq!(spool.len(), u64::from(PIECES) * 64 * 1024);
    assert!(format!("{spool:?}").contains("on_disk: true"), "{spool:?}");
    assert_eq!(bench.litter(), 0, "the file has no name");

    let (mut first, mut second) = (spool.open().unwrap(), spool.clone().open().unwrap());
    drop(spool);
    let mut piece = vec![0; 64 * 1024];
    for number in 0..PIECES {
        first.read_exact(&mut piece).unwrap();
        assert!(piece == vec![number.to_le_bytes()[0]; 64 * 1024], "piece {number}");
    }
    assert_eq!(first.read(&mut piece).unwrap(), 0);
    assert_eq!(second.seek(SeekFrom::End(-64 * 1024)).unwrap(), u64::from(PIECES - 1) * 64 * 1024);
    second.read_exact(&mut piece).unwrap();
    assert!(piece.iter().all(|byte| *byte == 0xff), "each reader has its own place");
    second.seek(SeekFrom::Current(-i64::MAX)).unwrap_err();
}

#[tokio::test]
async fn a_writer_holds_no_more_than_its_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(folder.path());
    let piece = vec![7; 100_000];
    for _ in 0..50 {
        writer.write(&piece).await.unwrap();
        assert!(writer.held() <= spool::MEMORY_BYTES, "{} bytes held", writer.held());
    }
    writer.write(&vec![8; 1_000_000]).await.unwrap();
    assert!(writer.held() <= spool::MEMORY_BYTES);
    let bytes = writer.finish().await.unwrap().read_to_vec().unwrap();
    assert_eq!(bytes.len(), 6_000_000);
    assert!(bytes[..5_000_000].iter().all(|byte| *byte == 7) && bytes[5_000_000..].iter().all(|byte| *byte == 8));
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_announcement_and_by_its_bytes() {
    let router = Router::new()
        .route(
            "/announced",
            get(|| async { ([(header::CONTENT_LENGTH, "1000001")], Body::from_stream(one_and_no_more())) }),
        )
        .route("/endless", get(|| async { pieces(u32::MAX) }))
        .route("/fits", get(|| async { vec![1; 1_000_000] }));
    let base = serve(router).await;
    let bench = Bench::new(1_000_000, Duration::from_mins(1));
    for path in ["announced", "endless"] {
        let result = bench.fetch_url(&format!("{base}/{path}")).await;
        assert!(matches!(result, Err(MediaError::TooLarge { limit_bytes: 1_000_000 })), "{path}: {result:?}");
    }
    assert_eq!(bench.fetch_url(&format!("{base}/fits")).await.unwrap().len(), 1_000_000);
    let result = bench.fetch(MediaSource::Base64("AAAA".repeat(333_334).into())).await;
    assert!(matches!(result, Err(MediaError::TooLarge { limit_bytes: 1_000_000 })), "{result:?}");
    let roomy = Bench::roomy();
    let limit = 16 * 1024 * 1024;
    let result = roomy.fetch(MediaSource::Base64("AAAA".repeat(limit / 3 + 1).into())).await;
    assert!(matches!(result, Err(MediaError::TooLarge { limit_bytes: 16_777_216 })), "{result:?}");
    assert_eq!(roomy.fetch(MediaSource::Base64("AAAA".repeat(limit / 3).into())).await.unwrap().len(), 16_777_215);
}

#[tokio::test]
async fn slow_and_broken_servers_end_in_time() {
    let router = Router::new()
        .route("/silent", get(|| async { std::future::pending::<()>().await }))
        .route("/stalls", get(|| async { Body::from_stream(one_and_no_more()) }))
        .route(
            "/breaks",
            get(|| async {
                let parts = [Ok(Bytes::from_static(b"one")), Err(std::io::Error::other("broken"))];
                Body::from_stream(stream::iter(parts))
            }),
        );
    let base = serve(router).await;
    let bench = Bench::new(1000, Duration::from_millis(300));
    for path in ["silent", "stalls"] {
        let result = bench.fetch_url(&format!("{base}/{path}")).await;
        assert!(matches!(result, Err(MediaError::TimedOut)), "{path}: {result:?}");
    }
    let bench = Bench::roomy();
    let result = bench.fetch_url(&format!("{base}/breaks")).await;
    assert!(matches!(result, Err(MediaError::Unreachable(Some(_)))), "{result:?}");
    let source = MediaSource::Url(format!("{base}/silent").into());
    let result = bench.fetcher.fetch(&source, Instant::now() + Duration::from_millis(100)).await;
    assert!(matches!(result, Err(MediaError::TimedOut)), "the caller's deadline counts: {result:?}");
}

#[tokio::test]
async fn an_upload_is_read_where_it_lies() {
    let bench = Bench::new(1000, Duration::from_mins(1));
    let mut file = tempfile::NamedTempFile::new_in(bench.folder.path()).unwrap();
    std::io::Write::write_all(&mut file, b"an upload").unwrap();
    let upload = Upload {
        file: Arc::new(file.into_temp_path()),
        bytes: 9,
        name: Some("letter.pdf".to_owned()),
        mime: Some("application/pdf".to_owned()),
    };
    let spool = bench.fetch(MediaSource::Upload(upload.clone())).await.unwrap();
    assert_eq!(bench.litter(), 1);
    let large = Upload { bytes: 1001, ..upload };
    let result = bench.fetch(MediaSource::Upload(large)).await;
    assert!(matches!(result, Err(MediaError::TooLarge { limit_bytes: 1000 })), "{result:?}");
    assert_eq!(bench.litter(), 0, "it is removed with its last owner");
    assert_eq!(spool.read_to_vec().unwrap(), b"an upload");
    assert_eq!((spool.declared_mime(), spool.declared_name()), (Some("application/pdf"), Some("letter.pdf")));
}

#[tokio::test]
async fn videos_and_audio_are_typed_by_content_then_name_then_declaration() {
    let mp4 = b"\0\0\0\x18ftypisom\0\0\x02\0isommp41".to_vec();
    let opus = [b"OggS\0\x02".as_slice(), &[0; 21], &[19], b"OpusHead\x01\x01", &[0; 11]].concat();
    let vorbis = [b"OggS\0\x02".as_slice(), &[0; 21], &[30], b"\x01vorbis", &[0; 23]].concat();
    let m4a = b"\0\0\0\x18ftypM4A \0\0\x02\0isommp41".to_vec();
    let bench = Bench::roomy();
    for (bytes, declared, kind, name, wanted) in [
        (&mp4, Some("text/plain"), Kind::Video, None, "video/mp4"),
        (&mp4, None, Kind::Audio, None, "audio/mp4"),
        (&m4a, None, Kind::Audio, None, "audio/mp4"),
        (&opus, Some("audio/ogg"), Kind::Audio, None, "audio/ogg; codecs=opus"),
        (&vorbis, None, Kind::Audio, None, "audio/ogg"),
        (&b"ID3\x04\0\0\0\0\0\0".to_vec(), None, Kind::Audio, None, "audio/mpeg"),
        (&b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), None, Kind::Audio, None, "audio/wav"),
        (&vec![1, 2, 3], Some("audio/amr"), Kind::Audio, Some("a.mp3"), "audio/mpeg"),
        (&vec![1, 2, 3], Some("VIDEO/3gpp; x=y"), Kind::Video, None, "video/3gpp"),
        (
            &vec![1, 2, 3],
            None,
            Kind::Document,
            Some("a.XLSX"),
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ),
        (&b"%PDF-1.7".to_vec(), None, Kind::Document, Some("letter"), "application/pdf"),
        (&vec![1, 2, 3], Some("application/x-thing"), Kind::Document, None, "application/x-thing"),
        (&vec![1, 2, 3], None, Kind::Document, None, "application/octet-stream"),
    ] {
        let prepared = bench.prepare_declared(bytes.clone(), declared, kind, name).await.unwrap();
        assert_eq!(prepared.mime, wanted, "{kind:?} {declared:?} {name:?}");
        assert_eq!(prepared.spool.read_to_vec().unwrap(), *bytes, "sent as it is");
        assert_eq!(prepared.seconds, None);
    }
    for (bytes, declared, kind, message) in [
        (
            b"<!DOCTYPE html><p>".to_vec(),
            Some("video/mp4"),
            Kind::Video,
            "is no video that can be sent: it holds text/html",
        ),
        (b"%PDF-1.7".to_vec(), None, Kind::Audio, "is no audio that can be sent: it holds application/pdf"),
        (
            vec![1, 2, 3],
            Some("text/css"),
            Kind::Video,
            "is no video that can be sent: it holds something else, declared as text/css",
        ),
        (vec![1, 2, 3], None, Kind::Audio, "is no audio that can be sent: it holds something else"),
    ] {
        let error = bench.prepare_declared(bytes, declared, kind, None).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test]
async fn only_so_many_files_are_fetched_at_once() {
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&running), Arc::clone(&peak));
    let router = Router::new().route(
        "/",
        get(move || {
            let (running, peak) = (Arc::clone(&counted), Arc::clone(&highest));
            async move {
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Answers are held back until the others had time to come: all at once if nothing bounds them.
                tokio::time::sleep(Duration::from_millis(200)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                "fine"
            }
        }),
    );
    let base = serve(router).await;
    let bench = Bench::roomy();
    let all = futures::future::join_all((0..2 * MAX_FETCHES).map(|_| bench.fetch_url(&base))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let peak = peak.load(Ordering::SeqCst);
    assert!((2..=MAX_FETCHES).contains(&peak), "{peak} at once");
}
