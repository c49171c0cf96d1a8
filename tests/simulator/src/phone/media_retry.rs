//! A companion could not fetch an attachment: its phone, which has the file, uploads it anew and tells the new place.
//!
//! WhatsApp Web: `WAWebCryptoMediaRetry`; the library has the companion's half.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Context, anyhow, ensure};
use hkdf::Hkdf;
use sha2::Sha256;
use whatsapp_rust::NodeBuilder;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::media_retry_notification::ResultType;

use super::Inner;
use super::directory::{attr, attr_jid, content};
use super::media::Attachment;

const INFO: &[u8] = b"WhatsApp Media Retry Notification";

impl Inner {
    /// Answers a receipt of the type `server-error`.
    pub(super) async fn upload_again(&self, receipt: &Node) -> anyhow::Result<()> {
        let id = attr(receipt, "id").context("a request for media without id")?;
        let companion = attr_jid(receipt, "from").context("a request for media without from")?;
        let asked = receipt.get_optional_child("rmr").context("a request for media without rmr")?;
        let received = self.record.find(&id);
        let message = received.map(|received| received.message.as_ref().clone());
        let message =
            message.or_else(|| self.sent(&id).map(|sent| sent.message)).context("media of an unknown message")?;
        let attachment = Attachment::find(&message).context("media of a message that has none")?;
        let key = attachment.downloadable().media_key().context("an attachment without key")?;
        let cipher = Cipher::new(key);
        let part = |tag| receipt.get_optional_child_by_tag(&["encrypt", tag]).and_then(content);
        let opened = cipher.open(&id, part("enc_iv").context("no nonce")?, part("enc_p").context("no ciphertext")?)?;
        let opened = wa::ServerErrorReceipt::decode_from_slice(&opened)?;
        ensure!(opened.stanza_id.as_deref() == Some(&id), "a request for media that is about another message");

        let path = attachment.downloadable().direct_path().and_then(|path| self.network.restore_media(path));
        let result = if path.is_some() { ResultType::SUCCESS } else { ResultType::NOT_FOUND };
        let answer = wa::MediaRetryNotification {
            stanza_id: Some(id.clone()),
            direct_path: path,
            result: Some(result),
            ..wa::MediaRetryNotification::default()
        };
        let nonce: [u8; 12] = rand::random();
        let sealed = cipher.seal(&id, &nonce, &answer.encode_to_vec())?;
        let children =
            [NodeBuilder::new("enc_p").bytes(sealed).build(), NodeBuilder::new("enc_iv").bytes(nonce.to_vec()).build()];
        let notification = NodeBuilder::new("notification")
            .attr("to", companion)
            .attr("type", "mediaretry")
            .attr("id", id)
            .children([NodeBuilder::new("encrypt").children(children).build(), asked.clone()]);
        self.submit(notification.build()).await?;
        Ok(())
    }
}

struct Cipher(Aes256Gcm);

impl Cipher {
    fn new(media_key: &[u8]) -> Self {
        let mut key = [0; 32];
        let expanded = Hkdf::<Sha256>::new(None, media_key).expand(INFO, &mut key);
        expanded.expect("32 bytes are no more than HKDF gives");
        Self(Aes256Gcm::new(&key.into()))
    }

    fn open(&self, id: &str, nonce: &[u8], sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        ensure!(nonce.len() == 12, "a nonce of {} bytes", nonce.len());
        let opened = self.0.decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: id.as_bytes() });
        opened.map_err(|_| anyhow!("a request for media under another key"))
    }

    fn seal(&self, id: &str, nonce: &[u8; 12], clear: &[u8]) -> anyhow::Result<Vec<u8>> {
        let sealed = self.0.encrypt(Nonce::from_slice(nonce), Payload { msg: clear, aad: id.as_bytes() });
        sealed.map_err(|_| anyhow!("sealing"))
    }
}
