//! The library itself over the simulator, for what the gateway does not offer: linking by code, uploads asked for again,
//! pictures and about texts.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use whatsapp_rust::features::MediaReuploadRequest;
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse, UreqHttpClient};
use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::transport::TokioWebSocketTransportFactory;
use whatsapp_rust::upload::UploadOptions;
use whatsapp_rust::wacore::download::MediaType;
use whatsapp_rust::wacore::media_retry::MediaRetryResult;
use whatsapp_rust::wacore::store::in_memory::InMemoryBackend;
use whatsapp_rust::waproto::whatsapp::message::ImageMessage;
use whatsapp_rust::{Client, Jid, TokioRuntime};
use whatsapp_simulator::phone::{Media, MediaKind};
use whatsapp_simulator::{Fault, Options, Simulator};

use crate::support::{STEP, eventually};

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

/// Every host is the simulator's.
struct StandIn {
    base: String,
    inner: UreqHttpClient,
}

#[async_trait]
impl HttpClient for StandIn {
    async fn execute(&self, mut request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let path = request.url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
        request.url = format!("{}/{path}", self.base);
        self.inner.execute(request).await
    }
}

/// A client of the library that was linked by a typed code and has logged in.
async fn linked(simulator: &Simulator, tracker: &TaskTracker) -> Arc<Client> {
    let store = PersistenceManager::new(Arc::new(InMemoryBackend::new())).await.unwrap();
    let client = Client::builder()
        .with_runtime_arc(Arc::new(TokioRuntime))
        .with_persistence_manager(Arc::new(store))
        .with_transport_factory(TokioWebSocketTransportFactory::new().with_url(simulator.ws_url()))
        .with_http_client(StandIn { base: simulator.media_url(), inner: UreqHttpClient::new() })
        .with_version_override((2, 3000, 1_000_000_000))
        .with_skip_history_sync(true)
        .with_wanted_pre_key_count(30)
        .build()
        .await
        .unwrap()
        .into_client();
    let running = Arc::clone(&client);
    tracker.spawn(async move { running.run().await });
    eventually("a registration", async || (simulator.counters().registrations > 0).then_some(())).await;
    let options = PairCodeOptions { phone_number: NUMBER.to_owned(), ..PairCodeOptions::default() };
    let code = tokio::time::timeout(STEP, client.pair_with_code(options)).await.unwrap().unwrap();
    let jid = simulator.link(&code, NUMBER).await.unwrap();
    assert_eq!(jid, format!("{NUMBER}:1@s.whatsapp.net"));
    eventually("a login", async || simulator.devices(NUMBER).first().is_some_and(|device| device.live).then_some(()))
        .await;
    client
}

#[tokio::test]
async fn the_library_links_by_code_and_uses_media_and_profiles() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let tracker = TaskTracker::new();
    let client = linked(&simulator, &tracker).await;
    let (friend, phone) = (simulator.phone(FRIEND), simulator.phone(NUMBER));
    assert!(simulator.features()["code-pairing"].contains("whatsapp-rust"));

    // Large enough for the library to ask first what is there; the first host fails once.
    simulator.inject(Fault::RefuseUploads { code: 500 }.times(2));
    let file: Vec<u8> = (0..6_000_000_u32).map(|place| place.to_le_bytes()[1]).collect();
    let upload = client.upload(file.clone(), MediaType::Image, UploadOptions::default()).await.unwrap();
    let image = ImageMessage {
        direct_path: Some(upload.direct_path),
        media_key: Some(upload.media_key.to_vec()),
        file_enc_sha256: Some(upload.file_enc_sha256.to_vec()),
        file_sha256: Some(upload.file_sha256.to_vec()),
        file_length: Some(upload.file_length),
        ..ImageMessage::default()
    };
    assert!(client.download(&image).await.unwrap() == file, "the file came back otherwise");
    simulator.inject(Fault::RefuseDownloads { code: 410, path: String::new() }.times(1));
    assert!(client.download(&image).await.unwrap() == file, "the file came back otherwise");

    let sent = Media::new(MediaKind::Image, *b"a picture", "image/png");
    let id = friend.sends_media(NUMBER, &sent).await.unwrap();
    let got = phone.next_message(STEP).await.unwrap();
    let mut image = got.message.image_message.as_option().unwrap().clone();
    assert!(simulator.forget_media(image.direct_path.as_deref().unwrap()));
    assert!(client.download(&image).await.is_err());
    let request = MediaReuploadRequest {
        msg_id: &id,
        chat_jid: &Jid::pn(FRIEND),
        media_key: image.media_key.as_deref().unwrap(),
        is_from_me: false,
        participant: None,
    };
    let answer = client.media_reupload().request(&request).await.unwrap();
    let MediaRetryResult::Success { direct_path } = answer else { panic!("{answer:?}") };
    image.direct_path = Some(direct_path);
    assert_eq!(client.download(&image).await.unwrap(), b"a picture");

    let who = Jid::pn(FRIEND);
    assert!(client.contacts().get_profile_picture(&who, false).await.ok().flatten().is_none());
    let picture = friend.set_picture(Some(b"jpeg")).await.unwrap().unwrap();
    let seen = client.contacts().get_profile_picture(&who, false).await.unwrap().unwrap();
    assert_eq!((seen.id, seen.url), (picture.clone(), format!("https://pps.whatsapp.net/pictures/{picture}.jpg")));
    friend.set_about("on holiday", 1_700_000_000).await.unwrap();
    let info = client.contacts().get_user_info(std::slice::from_ref(&who)).await.unwrap();
    assert_eq!(info[&who].status.as_deref(), Some("on holiday"));
    assert_eq!(info[&who].picture_id, Some(picture));
    client.profile().set_status_text("busy").await.unwrap();
    client.profile().set_profile_picture(b"own".to_vec()).await.unwrap();

    let counters = simulator.counters();
    assert_eq!((counters.media_uploads, counters.media_refused), (1, 3));
    assert_eq!(counters.violations, 0, "{:?}", counters.violations_seen);
    client.disconnect().await;
    tracker.close();
    tokio::time::timeout(STEP, tracker.wait()).await.expect("the client ends");
    simulator.shutdown().await;
}
