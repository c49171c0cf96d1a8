//! The control port: everything a test can do with a simulator, as JSON over HTTP. It also serves encrypted media.
//!
//! | Request | Body or query | Answer |
//! |---|---|---|
//! | `POST /scan` | `{"qr","phone"}` | `{"jid"}`; 400 `{"message"}` when the code is refused |
//! | `POST /link` | `{"code","phone"}`: types the code that a companion shows | `{"jid"}`; 400 `{"message"}` when refused |
//! | `GET /devices` | `?phone=` | list of [`DeviceInfo`] |
//! | `GET /counters` | | [`Counters`](crate::Counters) |
//! | `GET /features` | | `{feature: [kinds of clients]}` |
//! | `GET /connections` | | `{"open"}` |
//! | `POST /fault` | [`Injection`](crate::Injection), as `{"fault":"nack_messages","code":479,"phone":…,"device":…,"count":…}` | `{"id"}` |
//! | `DELETE /fault` | `?id=` | `{}` |
//! | `DELETE /faults` | | `{}` |
//! | `POST /kick` | `{"phone","device","how":"close"\|"silence"\|"stream_error"\|"replaced"\|"failure","code"}` | `{}` |
//! | `POST /unlink` | `{"phone","device"}` | `{}` |
//! | `POST /group` | `{"subject","members":[numbers],"lid"}` | `{"jid"}` |
//! | `POST /account` | `{"phone","lid_migrated","push_name"}` | `{"number","lid","push_name"}` |
//! | `POST /say` | `{"phone","to","text"}` | `{"id"}` |
//! | `POST /typing` | `{"phone","to","composing"}` | `{}` |
//! | `POST /read` | `{"phone","chat","participant","ids"}` | `{}` |
//! | `POST /say-all` | `{"lines":[{"phone","to","text"}],"per_second"?,"at_once"?}` | `{"said":[{"id","at_us"} or {"error"}]}`, in order; `at_us`: when it began to be said, in Unix microseconds |
//! | `POST /heard` | `{"phones":[numbers]}` | `{"phones":[{"texts":[[id, text]],"repeated_ids","repeated_keys","unproven"}]}`: what others wrote to them |
//! | `GET /queued` | | `{"queued"}`: stanzas that companions have not acknowledged |
//! | `GET /inbox` | `?phone=` | messages that the phone decrypted, with `media` and, as base64, the whole `message` |
//! | `GET /download` | `?phone=&id=` | the attachment of such a message in clear |
//! | `POST /send` | `{"phone","to","message"}`, an encoded message as base64 | `{"id"}` |
//! | `POST /send-media` | `{"phone","to","kind","mimetype","base64","caption","file_name","seconds"}` | `{"id"}` |
//! | `POST /forget-media` | `{"direct_path"}` | `{"forgotten"}` |
//! | `POST /picture` | `{"phone","group","base64"}` (none removes), or `{"phone","hidden"}` | `{"id"}` |
//! | `POST /about` | `{"phone","text","t","hidden"}` | `{}` |
//! | `GET /receipts` | `?phone=` | receipts that the phone got |
//! | `GET /root.pem` | | the TLS test root, 404 without TLS |
//! | `GET /noise-root` | | `{"hex"}`: public key of the Noise certificates' root |
//!
//! Everything else is media: `POST /mms/<kind>/<token>` stores, `GET <direct_path>` fetches, also in ranges, and
//! pictures are under `/pictures/`.

mod api;
mod bulk;
mod contact;
mod media;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::fault::Kick;
use crate::server::Core;
use crate::stanza;
use crate::state::State;
use crate::state::account::{DeviceInfo, Phase};

/// Serves the control port until the simulator ends.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let token = core.token.clone();
    let served = axum::serve(listener, router(core)).with_graceful_shutdown(token.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the control port broke");
    }
}

/// Control and media together.
pub(crate) fn router(core: Arc<Core>) -> axum::Router {
    api::router().merge(bulk::router()).merge(contact::router()).merge(media::router()).with_state(core)
}

/// Removes a companion as its phone does.
pub(crate) fn unlink(state: &mut State, number: &str, device: u16) {
    let link = state.device(number, device).and_then(|device| device.link);
    if state.remove_device(number, device).is_none() {
        return;
    }
    state.counters.removals += 1;
    if let Some(link) = link.and_then(|link| state.links.get(&link)) {
        link.send(stanza::conflict(Some(401), "device_removed"));
        link.close();
    }
}

/// Ends or silences a companion's connection.
pub(crate) fn kick(state: &mut State, number: &str, device: u16, how: Kick) {
    if let Kick::Failure { code } = how {
        state.failures.insert((number.to_owned(), device), code);
    }
    let Some(link) = state.link_of(number, device) else { return };
    match how {
        Kick::Close | Kick::Failure { .. } => link.token.cancel(),
        Kick::Silence => link.silent.store(true, std::sync::atomic::Ordering::Relaxed),
        Kick::StreamError { code } => {
            link.send(stanza::stream_error(code));
            link.close();
        }
        Kick::StreamErrorOpen { code } => {
            link.send(stanza::stream_error(code));
            link.silent.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        Kick::Replaced => {
            link.send(stanza::conflict(None, "replaced"));
            link.close();
        }
    }
}

/// The companions of a number.
pub(crate) fn devices(state: &State, number: &str) -> Vec<DeviceInfo> {
    let Some(account) = state.accounts.get(number) else { return Vec::new() };
    let info = |(number, device): (&u16, &crate::state::account::Device)| {
        let address = account.address(*number);
        DeviceInfo {
            jid: address.pn_jid().to_string(),
            lid: address.lid_jid().to_string(),
            device: *number,
            key_index: device.key_index,
            online: device.link.is_some(),
            live: device.phase == Phase::Live,
            queued: device.queue.len(),
            platform: device.name.clone(),
            client: device.client.name().to_owned(),
            push_name: device.push_name.clone(),
            prekeys: device.pool.len(),
            available: device.available,
        }
    };
    account.devices.iter().map(info).collect()
}
