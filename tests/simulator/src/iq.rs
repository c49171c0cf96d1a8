//! Every query that the clients make, by xmlns. An unknown one gets an empty result, which keeps every client going.

pub(crate) mod app_state;
pub(crate) mod directory;
pub(crate) mod group;
pub(crate) mod keys;
pub(crate) mod profile;
pub(crate) mod settings;

use whatsapp_rust::NodeBuilder;
use whatsapp_rust::wacore_binary::Node;

use crate::dispatch::{After, Handled};
use crate::stanza::{self, attr, attr_is, attr_jid, first_child, with_attr};
use crate::state::{Sender, State};

pub(crate) fn answer(state: &mut State, sender: &Sender, id: &str, xmlns: &str, iq: &Node) -> Handled {
    let set = attr_is(iq, "type", "set");
    match xmlns {
        "encrypt" => keys::answer(state, sender, id, iq),
        "usync" => Handled::reply(directory::answer(state, sender, id, iq)),
        "w:sync:app:state" => Handled::reply(app_state::answer(state, sender, id, iq)),
        "w:g2" => Handled::reply(group::answer(state, sender, id, iq)),
        "w:p" | "urn:xmpp:ping" => {
            state.counters.pings += 1;
            state.note("ping", sender.client);
            Handled::reply(with_attr(stanza::result(id, []), "t", stanza::now()))
        }
        "passive" => {
            state.note("passive", sender.client);
            let handled = Handled::reply(stanza::result(id, []));
            if iq.get_optional_child("active").is_some() { handled.then(After::Drain) } else { handled }
        }
        "md" => companion(state, sender, id, iq),
        "w:m" => Handled::reply(settings::media_conn(state, sender, id)),
        "status" => Handled::reply(profile::about(state, sender, id, iq, set)),
        "w:profile:picture" => Handled::reply(profile::picture(state, sender, id, iq, set)),
        "privacy" | "abt" | "w" | "blocklist" | "urn:xmpp:whatsapp:dirty" => {
            Handled::reply(settings::answer(state, sender, id, xmlns, iq, set))
        }
        "w:biz" | "bot" | "disappearing_mode" | "w:mex" => {
            // An empty container of the asked name is tolerated by both clients.
            let container = first_child(iq).map(|child| NodeBuilder::new_dynamic(child.tag.to_string()).build());
            Handled::reply(stanza::result(id, container))
        }
        other => {
            tracing::debug!(xmlns = other, "an unknown query");
            Handled::reply(stanza::result(id, []))
        }
    }
}

fn companion(state: &mut State, sender: &Sender, id: &str, iq: &Node) -> Handled {
    let Some(removed) = iq.get_optional_child("remove-companion-device") else {
        return Handled::reply(stanza::error(id, 400, "bad-request"));
    };
    let own = attr_jid(removed, "jid").is_none_or(|jid| {
        jid.device == sender.address.device && state.number_of(&jid).as_deref() == Some(sender.address.number.as_str())
    });
    if !own || sender.address.device == 0 {
        state.counters.violation("a companion removes another device");
        return Handled::reply(stanza::error(id, 403, "forbidden"));
    }
    state.counters.unlinks += 1;
    state.note("logout", sender.client);
    if attr(removed, "reason").is_none() {
        state.counters.violation("remove-companion-device without a reason");
    }
    state.remove_device(&sender.address.number, sender.address.device);
    let mut handled = Handled::reply(stanza::result(id, []));
    handled.replies.push(stanza::conflict(Some(401), "device_removed"));
    handled.then(After::Close)
}
