use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Request as Asked;
use axum::response::IntoResponse as _;
use tower::ServiceExt as _;

use super::*;
use crate::http::tests::ask;

/// What the real router answers to this body; no session exists, so what was read well ends there.
async fn answer(uri: &str, kind: &str, body: impl Into<Body>) -> (u16, String) {
    let asked = Asked::builder().method("POST").uri(uri).header("content-type", kind);
    let answer = ask(None, asked.body(body.into()).unwrap()).await;
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    (answer.status, body["message"].as_str().unwrap().to_owned())
}

async fn multipart(parts: &[(&str, &str)]) -> (u16, String) {
    let part =
        |(head, content): &(&str, &str)| format!("--x\r\ncontent-disposition: form-data; {head}\r\n\r\n{content}\r\n");
    let body = parts.iter().map(part).chain(["--x--\r\n".to_owned()]).collect::<String>();
    answer("/message/send-image", "multipart/form-data; boundary=x", body).await
}

fn no_session() -> (u16, String) {
    (400, "Session does not exist".to_owned())
}

#[tokio::test]
async fn files_in_json_have_room_where_files_are_taken_only() {
    let with =
        |bytes: usize| format!(r#"{{"session":"s","to":"628","text":"","image_base64":"{}"}}"#, "A".repeat(bytes));
    let (json, too_large) = ("application/json", (413, "Request body too large".to_owned()));
    assert_eq!(answer("/message/send-image", json, with(22 * 1024 * 1024)).await, no_session());
    assert_eq!(answer("/message/send-image", json, with(25 * 1024 * 1024)).await, too_large);
    assert_eq!(answer("/message/send-text", json, with(2 * 1024 * 1024)).await, too_large);
    assert_eq!(answer("/message/send-poll", json, with(2 * 1024 * 1024)).await, too_large);
}

#[tokio::test]
async fn a_multipart_body_is_read_as_a_form_is() {
    let (session, to, text) = (("name=\"session\"", "s"), ("name=\"to\"", "628"), ("name=\"text\"", "hi"));
    let file = ("name=\"image\"; filename=\"a.png\"", "png");
    assert_eq!(multipart(&[session, to, text, file]).await, no_session());
    assert_eq!(multipart(&[file, text, to, session]).await, no_session());
    assert_eq!(multipart(&[session, to, text, ("name=\"image_url\"", "https://x/y")]).await, no_session());
    for (parts, told) in [
        (vec![to, text, file], "Required field 'session' on json"),
        (vec![session, to, text], "Required field 'image_url' on json"),
        (vec![session, to, text, ("name=\"image\"; filename=\"\"", "")], "Required field 'image_url' on json"),
        (vec![session, to, text, ("name=\"video\"; filename=\"a\"", "x")], "Required field 'image_url' on json"),
        (vec![session, to, text, file, file], "Only one file can be sent with a message"),
        (
            vec![session, to, text, file, ("name=\"image_url\"", "https://x/y")],
            "image_url must be the only source of the file field 'image_url' on json",
        ),
        (vec![session, session, to, text, file], "Expected string, received array field 'session' on json"),
    ] {
        assert_eq!(multipart(&parts).await, (400, told.to_owned()), "{parts:?}");
    }
    let large = "x".repeat(1_000_001);
    let large = ("name=\"image\"; filename=\"a.png\"", large.as_str());
    assert_eq!(multipart(&[large]).await, (413, "The file is larger than 1000000 bytes".to_owned()));
    let whole = "x".repeat(1_000_000);
    let whole = ("name=\"image\"; filename=\"a.png\"", whole.as_str());
    assert_eq!(multipart(&[session, whole, to, text]).await, no_session());
    let long = "x".repeat(LARGE.bytes - 100);
    let encoded = ("name=\"image_base64\"", long.as_str());
    assert_eq!(multipart(&[session, encoded, to, text]).await, no_session());
    let too_large = (413, "Request body too large".to_owned());
    assert_eq!(multipart(&[session, encoded, ("name=\"text\"", &long[..200])]).await, too_large);
    let name = format!("name=\"{}\"", &long[..200]);
    assert_eq!(multipart(&[(name.as_str(), long.as_str())]).await, too_large, "names are text");
    for (kind, body) in [("multipart/form-data", "x"), ("multipart/form-data; boundary=x", "--x\r\nbroken")] {
        let refused = (400, "Malformed multipart request body".to_owned());
        assert_eq!(answer("/message/send-image", kind, body).await, refused, "{kind}");
    }
}

#[tokio::test]
async fn what_stands_around_the_values_of_a_multipart_body_is_limited() {
    let malformed = (400, "Malformed multipart request body".to_owned());
    let head = "--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\nx: ";
    let first = "--x\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\nhi\r\n--x\r\nx: ";
    for start in ["", head, first] {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let megabyte = Bytes::from(vec![b'y'; 1024 * 1024]);
        let chunks = std::iter::once(Bytes::from(start)).chain(std::iter::repeat_n(megabyte, 200));
        let chunks = chunks.inspect(move |chunk| {
            count.fetch_add(chunk.len(), Ordering::Relaxed);
        });
        let body = Body::from_stream(stream::iter(chunks.map(Ok::<_, std::convert::Infallible>)));
        let answered = answer("/message/send-image", "multipart/form-data; boundary=x", body).await;
        assert_eq!(answered, malformed, "{start}");
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < 70 * 1024 * 1024, "{taken} bytes were taken after {start:?}");
    }
    let many = (400, format!("More than {MAX_PARTS} parts in multipart request body"));
    for head in ["name=\"a\"", "name=\"image\"; filename=\"\""] {
        assert_eq!(multipart(&[(head, ""); MAX_PARTS + 1]).await, many, "{head}");
        let taken = multipart(&[(head, ""); MAX_PARTS]).await;
        assert_eq!(taken, (400, "Required field 'session' on json".to_owned()), "{head}");
    }
}

#[tokio::test]
async fn only_a_few_large_bodies_are_in_memory_at_once() {
    let uploads = Uploads::new(1, std::env::temp_dir().into());
    let wait = Duration::from_millis(10);
    let mut held = Vec::new();
    for _ in 0..MAX_LARGE {
        held.push(large(&uploads.large, wait).await.unwrap());
    }
    assert_eq!(uploads.large.available_permits(), 0);
    assert!(large(&uploads.large, wait).await.is_err());
    held.pop();
    assert!(large(&uploads.large, wait).await.is_ok());
    assert!(
        is_larger(&Body::from(vec![0; 1024 * 1024 + 1]), SMALL_BYTES) && !is_larger(&Body::from("{}"), SMALL_BYTES)
    );
}

#[tokio::test]
async fn a_large_file_holds_its_place_until_it_is_sent_though_its_client_has_gone() {
    let state = Arc::new(crate::http::tests::state(None).await);
    let encoded = "A".repeat(SMALL_BYTES + 1);
    for member in ["image_base64", "image_url"] {
        let body = format!(r#"{{"session":"s","{member}":"data:,{encoded}"}}"#);
        let asked = Asked::builder().method("POST").uri("/").header("content-type", "application/json");
        let mut fields = FileFields::from_request(asked.body(body.into()).unwrap(), &state).await.unwrap();
        let source = fields.media(&["image_url"], &["image_base64"], &[]).unwrap();
        drop(fields);
        assert_eq!(state.uploads.large.available_permits(), MAX_LARGE - 1, "{member}");
        drop(source.media.clone());
        assert_eq!(state.uploads.large.available_permits(), MAX_LARGE - 1, "{member}");
        drop(source);
        assert_eq!(state.uploads.large.available_permits(), MAX_LARGE, "{member}");
    }
}

#[tokio::test]
async fn a_tiny_body_in_chunks_takes_no_place_and_a_larger_one_does() {
    let uploads = Uploads::new(1, std::env::temp_dir().into());
    let chunked = |chunks: Vec<&'static str>| {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::convert::Infallible>)))
    };
    let long: &'static str = "x".repeat(TINY_BYTES + 1).leak();
    for (method, body, whole, is_held) in [
        ("POST", chunked(vec![]), "", false),
        ("POST", chunked(vec!["{", "}"]), "{}", false),
        ("POST", chunked(vec![&long[1..]]), &long[1..], false),
        ("POST", chunked(vec![&long[1..], "x"]), long, true),
        ("POST", chunked(vec![long]), long, true),
        ("POST", Body::from(&long[1..]), &long[1..], false),
        ("POST", Body::from(long), long, true),
        ("GET", chunked(vec![long]), long, false),
    ] {
        let asked = Asked::builder().method(method).uri("/").header("content-type", "application/json");
        let (request, held) = uploads.memory_for(asked.body(body).unwrap()).await.unwrap();
        assert_eq!(uploads.bodies.available_permits(), MAX_BODIES - usize::from(is_held), "{method} {}", whole.len());
        drop(held);
        let read = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        assert!(read == whole, "{method} {}", whole.len());
    }
    let broken = stream::iter([Ok("{"), Err(std::io::Error::other("cut off"))]);
    let refused = begun(Body::from_stream(broken), IDLE_TIMEOUT).await.unwrap_err();
    assert_eq!(refused.into_response().status(), 400);
    // One that does not go on is of unknown length still.
    let silent = stream::iter([Ok::<_, std::convert::Infallible>("{")]).chain(stream::pending());
    let body = begun(Body::from_stream(silent), Duration::from_millis(10)).await.unwrap();
    assert!(is_larger(&body, TINY_BYTES));
    assert_eq!(body.into_data_stream().next().await.unwrap().unwrap(), "{");
}

#[tokio::test]
async fn tiny_requests_in_chunks_do_not_wait_for_large_ones() {
    let state = crate::http::tests::state(None).await;
    let _all = state.uploads.bodies.clone().acquire_many_owned(MAX_BODIES.try_into().unwrap()).await.unwrap();
    let body = stream::iter([r#"{"session":"s","#, r#""to":"628","text":"hi"}"#].map(Ok::<_, std::io::Error>));
    let asked = Asked::builder().method("POST").uri("/message/send-text").header("content-type", "application/json");
    let request = asked.body(Body::from_stream(body)).unwrap();
    let answer = crate::http::router(state).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 400, "no session exists");
}

#[test]
fn a_name_is_told_as_its_sender_has_it() {
    for (escaped, name) in [
        ("a%22b.pdf", "a\"b.pdf"),
        ("a%0D%0Ab.pdf", "a\r\nb.pdf"),
        ("100%.pdf", "100%.pdf"),
        ("a%20b", "a%20b"),
        ("", ""),
    ] {
        assert_eq!(unescaped(escaped), name);
    }
}
