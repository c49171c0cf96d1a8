//! The table of routes as the library tells it, for what `/openapi.json` leaves out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wa_gateway::backup::Backup;
use wa_gateway::health::Health;
use wa_gateway::http::{AppState, Auth, Dashboard, Endpoint, Media, Uploads, UrlRule, endpoints};
use wa_gateway::keys::Logins;
use wa_gateway::ledger;
use wa_gateway::media::{self, Fetcher, Folder};
use wa_gateway::metrics::Metrics;
use wa_gateway::outbox::{Bounds, Common, Kinds};
use wa_gateway::session::{self, SessionManager};
use wa_gateway::store::Kv;
use wa_gateway::store::sled::SledStore;
use wa_gateway::whatsapp::{self, WhatsApp};

/// Every endpoint of a gateway with the settings that hold when nobody sets any. The folder keeps a store that stays empty.
pub(super) async fn served(folder: &Path) -> Vec<Endpoint> {
    let kv: Arc<dyn Kv> = Arc::new(SledStore::open(&folder.join("store")).unwrap());
    let fetcher = Fetcher::new(media::Limits {
        max_bytes: 1,
        timeout: Duration::from_secs(1),
        private_addresses: true,
        folder: folder.into(),
    });
    let settings = session::Settings {
        check_numbers: true,
        start_timeout: Duration::from_secs(1),
        send_timeout: Duration::from_secs(1),
        qr_idle: Duration::from_secs(1),
        sent: ledger::Limits { messages: 1, age: Duration::from_secs(1), keys: 1 },
        media_owners: false,
        restore_concurrency: 1,
        watchdog: Duration::from_secs(1),
    };
    let (tracker, token, metrics) = (TaskTracker::new(), CancellationToken::new(), Metrics::default());
    let sessions = SessionManager::new(
        settings,
        Arc::clone(&kv),
        WhatsApp::new(whatsapp::Settings::default()).unwrap(),
        fetcher.unwrap(),
        (mpsc::channel(1).0, Arc::new(Common::new(Bounds::default(), Kinds::default(), false))),
        metrics.clone(),
        session::Tasks { tracker: tracker.clone(), ..session::Tasks::default() },
    );
    let state = AppState {
        health: Health::new(Arc::clone(&kv), sessions.clone(), metrics, token),
        backup: Backup::new(Arc::clone(&kv), tracker),
        metrics_public: false,
        sessions: sessions.into(),
        auth: Auth::new(None, Logins::open(kv, None).await.unwrap(), Vec::new(), 0),
        uploads: Uploads::new(1, folder.into()),
        webhook_urls: UrlRule::new(|_url| true),
        dashboard: Dashboard::default(),
        development: false,
        media: Media { folder: Folder::new(folder), require_key: false }.into(),
    };
    endpoints(&state)
}
