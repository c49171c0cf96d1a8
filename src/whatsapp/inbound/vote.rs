//! Votes in polls: what is needed to open one, and opening it once its poll is known.

use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore::poll::{PollVoteCiphertext, compute_option_hash, decrypt_poll_vote_with_secret};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Client, Jid};

use crate::message::KnownPoll;

/// A vote as it came, encrypted with its poll's secret.
#[derive(Clone)]
pub struct Vote {
    /// The id of the poll's message.
    pub poll: String,
    payload: Vec<u8>,
    iv: Vec<u8>,
    /// The addresses that its sender goes by: the vote is bound to one of them.
    voters: Vec<String>,
}

impl std::fmt::Debug for Vote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vote").field("poll", &self.poll).finish_non_exhaustive()
    }
}

impl Vote {
    /// The names of the options that are chosen, in the poll's order; none: the vote is taken back. `None`: it can't be
    /// opened with what is known of the poll.
    pub fn open(&self, poll: &KnownPoll) -> Option<Vec<String>> {
        let ciphertext = PollVoteCiphertext { enc_payload: &self.payload, enc_iv: &self.iv };
        // Author and voter are bound by their numbers or by their hidden identities, and old apps mix them.
        let pairs = poll.authors.iter().flat_map(|author| self.voters.iter().map(move |voter| (author, voter)));
        let hashes = pairs.into_iter().find_map(|(author, voter)| {
            decrypt_poll_vote_with_secret(ciphertext, &poll.secret, &self.poll, author, voter).ok()
        })?;
        let is_chosen = |option: &&String| hashes.iter().any(|hash| hash[..] == compute_option_hash(option));
        Some(poll.options.iter().filter(is_chosen).cloned().collect())
    }
}

/// The vote of an opened message.
pub(super) async fn vote(client: &Client, message: &wa::Message, info: &MessageInfo) -> Option<Vote> {
    let update = message.poll_update_message.as_option()?;
    let value = update.vote.as_option()?;
    Some(Vote {
        poll: update.poll_creation_message_key.as_option()?.id.clone()?,
        payload: value.enc_payload.clone()?,
        iv: value.enc_iv.clone()?,
        voters: sender(client, info).await,
    })
}

/// What is to be remembered of an opened message that is a poll.
pub(super) async fn known(
    client: &Client,
    outer: &wa::Message,
    message: &wa::Message,
    info: &MessageInfo,
) -> Option<KnownPoll> {
    let poll = super::content::created_poll(message)?;
    let secret = |message: &wa::Message| message.message_context_info.as_option()?.message_secret.clone();
    Some(KnownPoll {
        secret: secret(outer).or_else(|| secret(message)).filter(|secret| secret.len() == 32)?,
        authors: sender(client, info).await,
        question: poll.name.clone().unwrap_or_default(),
        options: super::content::options(poll),
    })
}

/// The addresses that the sender goes by, without a device.
async fn sender(client: &Client, info: &MessageInfo) -> Vec<String> {
    let source = &info.source;
    let mut addresses = vec![source.sender.to_non_ad_string()];
    addresses.extend(source.sender_alt.as_ref().map(Jid::to_non_ad_string));
    if let Ok(Some(known)) = client.get_lid_pn_entry(&source.sender).await {
        addresses.extend([Jid::pn(known.phone_number.as_ref()).to_string(), Jid::lid(known.lid.as_ref()).to_string()]);
    }
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    addresses
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::wacore::poll::encrypt_poll_vote_with_secret;

    use super::*;

    const AUTHOR: &str = "6281@s.whatsapp.net";
    const VOTER: &str = "77@lid";

    fn poll() -> KnownPoll {
        KnownPoll {
            secret: vec![7; 32],
            authors: vec![AUTHOR.to_owned(), "99@lid".to_owned()],
            question: "Lunch?".to_owned(),
            options: ["soto", "bakso", "rawon"].map(str::to_owned).to_vec(),
        }
    }

    fn cast(chosen: &[&str], author: &str, voter: &str) -> Vote {
        let hashes: Vec<Vec<u8>> = chosen.iter().map(|name| compute_option_hash(name).to_vec()).collect();
        let (payload, iv) = encrypt_poll_vote_with_secret(&hashes, &[7; 32], "P1", author, voter).unwrap();
        Vote {
            poll: "P1".to_owned(),
            payload,
            iv: iv.to_vec(),
            voters: vec!["6282@s.whatsapp.net".into(), VOTER.into()],
        }
    }

    #[test]
    fn a_vote_is_told_by_the_names_of_its_options_whatever_address_it_is_bound_to() {
        for (author, voter) in [(AUTHOR, "6282@s.whatsapp.net"), (AUTHOR, VOTER), ("99@lid", VOTER)] {
            assert_eq!(cast(&["rawon", "soto"], author, voter).open(&poll()).unwrap(), ["soto", "rawon"]);
        }
        assert_eq!(cast(&[], AUTHOR, VOTER).open(&poll()).unwrap(), Vec::<String>::new());
        assert_eq!(cast(&["pizza"], AUTHOR, VOTER).open(&poll()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_vote_of_somebody_else_or_for_another_poll_is_not_opened() {
        assert!(cast(&["soto"], AUTHOR, "88@lid").open(&poll()).is_none());
        assert!(cast(&["soto"], AUTHOR, VOTER).open(&KnownPoll { secret: vec![8; 32], ..poll() }).is_none());
        assert!(cast(&["soto"], AUTHOR, VOTER).open(&KnownPoll { secret: Vec::new(), ..poll() }).is_none());
        assert!(Vote { poll: "P2".to_owned(), ..cast(&["soto"], AUTHOR, VOTER) }.open(&poll()).is_none());
        assert!(Vote { iv: Vec::new(), ..cast(&["soto"], AUTHOR, VOTER) }.open(&poll()).is_none());
    }
}
