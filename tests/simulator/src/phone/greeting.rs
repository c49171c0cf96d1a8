//! What a phone tells a new companion: the app-state key, a history without conversations, and the push name.
//!
//! Only builds messages and patches; `outgoing` encrypts and sends them.

use std::io::Write;

use anyhow::Context;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use rand::RngExt;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::appstate::hash::{HashState, generate_patch_mac};
use whatsapp_rust::wacore::appstate::{encode_record, expand_app_state_keys};
use whatsapp_rust::wacore::download::MediaType;
use whatsapp_rust::wacore::upload::encrypt_media;
use whatsapp_rust::waproto::codec;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;
use whatsapp_rust::waproto::whatsapp::message::{
    AppStateSyncKey, AppStateSyncKeyData, AppStateSyncKeyFingerprint, AppStateSyncKeyId, AppStateSyncKeyShare,
    HistorySyncNotification, HistorySyncType, ProtocolMessage,
};

use super::account::unix_seconds;
use crate::network::Network;

/// The collection that holds the push name.
const COLLECTION: &str = "critical_block";
/// The schema version that clients stamp on `setting_pushName` (baileys, chat-utils.js).
const PUSH_NAME_VERSION: i32 = 1;

/// The account's app-state key.
pub(super) struct SyncKey {
    id: [u8; 6],
    data: [u8; 32],
}

impl SyncKey {
    pub(super) fn new() -> Self {
        let mut rng = rand::rng();
        // whatsmeow: two bytes of device, four of epoch; clients only compare it.
        let mut id = [0; 6];
        id[2..].copy_from_slice(&rng.random::<[u8; 4]>());
        Self { id, data: rng.random() }
    }

    /// The message that gives the key to a companion.
    pub(super) fn share(&self, raw_id: u32) -> wa::Message {
        let key = AppStateSyncKey {
            key_id: MessageField::some(AppStateSyncKeyId { key_id: Some(self.id.to_vec()) }),
            key_data: MessageField::some(AppStateSyncKeyData {
                key_data: Some(self.data.to_vec()),
                fingerprint: MessageField::some(AppStateSyncKeyFingerprint {
                    raw_id: Some(raw_id),
                    current_index: Some(0),
                    device_indexes: vec![0],
                }),
                timestamp: Some(unix_seconds().cast_signed()),
            }),
        };
        protocol(ProtocolMessage {
            r#type: Some(Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(AppStateSyncKeyShare { keys: vec![key] }),
            ..ProtocolMessage::default()
        })
    }

    /// The first patch of the collection that holds the push name.
    pub(super) fn push_name_patch(&self, name: &str) -> (&'static str, Vec<u8>) {
        let keys = expand_app_state_keys(&self.data);
        let value = wa::SyncActionValue {
            timestamp: Some(unix_seconds().cast_signed() * 1000),
            push_name_setting: MessageField::some(wa::sync_action_value::PushNameSetting {
                name: Some(name.to_owned()),
            }),
            ..wa::SyncActionValue::default()
        };
        let (mutation, _) = encode_record(
            wa::syncd_mutation::SyncdOperation::SET,
            br#"["setting_pushName"]"#,
            &value,
            &keys,
            &self.id,
            &rand::random(),
            PUSH_NAME_VERSION,
        );
        let mutations = vec![mutation];
        let mut state = HashState { version: 1, ..HashState::default() };
        let (_, updated) = state.update_hash(&mutations, |_, _| Ok(None));
        updated.expect("a new collection has nothing to replace");
        let mut patch = wa::SyncdPatch {
            version: MessageField::some(wa::SyncdVersion { version: Some(1) }),
            mutations,
            snapshot_mac: Some(state.generate_snapshot_mac(COLLECTION, &keys.snapshot_mac)),
            key_id: MessageField::some(wa::KeyId { id: Some(self.id.to_vec()) }),
            ..wa::SyncdPatch::default()
        };
        patch.patch_mac = Some(generate_patch_mac(&patch, COLLECTION, &keys.patch_mac, 1));
        (COLLECTION, codec::syncd_patch_to_vec(&patch))
    }
}

/// The history notifications in the order in which a phone sends them; their blobs go to the media host. Each also
/// carries its blob inline, which newer clients prefer.
pub(super) fn history(network: &dyn Network, own_jid: &str, name: &str) -> anyhow::Result<Vec<wa::Message>> {
    let steps = [
        (HistorySyncType::INITIAL_BOOTSTRAP, wa::history_sync::HistorySyncType::INITIAL_BOOTSTRAP, None),
        (HistorySyncType::PUSH_NAME, wa::history_sync::HistorySyncType::PUSH_NAME, None),
        (HistorySyncType::RECENT, wa::history_sync::HistorySyncType::RECENT, Some(100)),
    ];
    steps
        .into_iter()
        .enumerate()
        .map(|(order, (kind, inner, progress))| {
            let order = u32::try_from(order)? + 1;
            let pushname = wa::Pushname { id: Some(own_jid.to_owned()), pushname: Some(name.to_owned()) };
            let named = inner == wa::history_sync::HistorySyncType::PUSH_NAME;
            let blob = codec::history_sync_to_vec(&wa::HistorySync {
                sync_type: inner,
                chunk_order: Some(order),
                progress,
                pushnames: if named { vec![pushname] } else { Vec::new() },
                ..wa::HistorySync::default()
            });
            let mut deflated = ZlibEncoder::new(Vec::new(), Compression::default());
            deflated.write_all(&blob)?;
            notification(network, kind, order, progress, deflated.finish()?)
        })
        .collect()
}

fn notification(
    network: &dyn Network,
    kind: HistorySyncType,
    order: u32,
    progress: Option<u32>,
    deflated: Vec<u8>,
) -> anyhow::Result<wa::Message> {
    let media = encrypt_media(&deflated, MediaType::History).context("encrypting the history")?;
    let path = network.put_media(MediaType::History.mms_type(), &media.data_to_upload)?;
    Ok(protocol(ProtocolMessage {
        r#type: Some(Type::HISTORY_SYNC_NOTIFICATION),
        history_sync_notification: MessageField::some(HistorySyncNotification {
            file_sha256: Some(media.file_sha256.to_vec()),
            file_length: Some(deflated.len() as u64),
            media_key: Some(media.media_key.to_vec()),
            file_enc_sha256: Some(media.file_enc_sha256.to_vec()),
            direct_path: Some(path),
            sync_type: Some(kind),
            chunk_order: Some(order),
            progress,
            initial_hist_bootstrap_inline_payload: Some(deflated),
            ..HistorySyncNotification::default()
        }),
        ..ProtocolMessage::default()
    }))
}

fn protocol(message: ProtocolMessage) -> wa::Message {
    wa::Message { protocol_message: MessageField::some(message), ..wa::Message::default() }
}
