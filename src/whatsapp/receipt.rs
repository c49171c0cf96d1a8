//! What receipts say of sent messages.

use whatsapp_rust::types::presence::ReceiptType;
use whatsapp_rust::wacore::types::events::Receipt;
use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::{Client, Jid};

use crate::message::{Progress, Step, Teller};

/// How far the messages of a receipt got; nothing for receipts of other kinds. `phone`: whose it is, when that was looked up.
pub(super) fn progress<'a>(
    client: &Client,
    receipt: &'a Receipt,
    phone: Option<String>,
) -> impl Iterator<Item = Progress> + use<'a> {
    let teller = step(&receipt.r#type).map(|step| (step, teller(client, receipt, phone)));
    let at = receipt.timestamp.timestamp();
    teller.into_iter().flat_map(move |(step, teller)| {
        let of = move |id: &String| Progress { id: id.clone(), step, at, code: None, teller: Some(teller.clone()) };
        receipt.message_ids.iter().map(of)
    })
}

/// Our own devices say `…-self` of what they saw; a device in the background says `inactive` of what it has.
fn step(kind: &ReceiptType) -> Option<Step> {
    match kind {
        ReceiptType::Delivered | ReceiptType::Inactive => Some(Step::Delivered),
        ReceiptType::Read | ReceiptType::ReadSelf => Some(Step::Read),
        ReceiptType::Played | ReceiptType::PlayedSelf => Some(Step::Played),
        _ => None,
    }
}

/// Whose number has to be looked up: who writes from a LID is known to the store by the phone's number as well, and is one
/// member of a group, not two.
pub(super) fn hidden(receipt: &Receipt) -> Option<&Jid> {
    let source = &receipt.source;
    let is_hidden = source.sender.is_lid() && !source.sender_alt.as_ref().is_some_and(Jid::is_pn);
    (source.chat.is_group() && is_hidden && step(&receipt.r#type).is_some()).then_some(&source.sender)
}

fn teller(client: &Client, receipt: &Receipt, looked_up: Option<String>) -> Teller {
    let source = &receipt.source;
    let own = [client.pn(), client.lid()];
    let is_self = own.iter().flatten().any(|own| own.user == source.sender.user && own.server == source.sender.server);
    let phone = source.sender_alt.as_ref().filter(|jid| jid.is_pn());
    let address = looked_up.unwrap_or_else(|| Jid::to_non_ad_string(phone.unwrap_or(&source.sender)));
    Teller { address, in_group: source.chat.is_group(), is_self }
}
