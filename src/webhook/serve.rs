//! Follows the sessions: a lane for each opened outbox, none after it is closed, farewells of those that are gone.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Farewell, Lane, Webhook};
use crate::outbox::Notice;

impl Webhook {
    /// Starts the task that takes notices until the sink's token ends; call once.
    ///
    /// `forget` is called with the key when a farewell's delivery is decided; `ended` is cancelled when one of the sink's tasks
    /// ends, whatever the reason.
    pub fn serve<F, Fut>(&self, mut notices: mpsc::Receiver<Notice>, forget: F, ended: &CancellationToken)
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let farewells = self.farewells(forget);
        let (webhook, ended) = (self.clone(), ended.clone().drop_guard());
        self.inner.tracker.spawn(async move {
            let _ended = ended;
            let mut lanes: HashMap<String, Lane> = HashMap::new();
            loop {
                let notice = tokio::select! {
                    () = webhook.inner.token.cancelled() => None,
                    () = farewells.ended() => None,
                    notice = notices.recv() => notice,
                };
                match notice {
                    None => break,
                    Some(Notice::Opened { uid, outbox }) => {
                        if let Some(older) = lanes.remove(&uid) {
                            older.detach().await;
                        }
                        lanes.insert(uid, webhook.attach(outbox));
                    }
                    Some(Notice::Closed { uid, done }) => {
                        let lane = lanes.remove(&uid);
                        // Not here: others wait for this task, and the lane may be writing to the store.
                        webhook.inner.tracker.spawn(async move {
                            if let Some(lane) = lane {
                                lane.detach().await;
                            }
                            let _nobody_waits = done.send(());
                        });
                    }
                    Some(Notice::Farewell { key, session, event, target, at }) => {
                        if !farewells.say(Farewell { key, session, event, target, at }) {
                            tracing::warn!("too many farewells wait; this one is sent after the next start");
                        }
                    }
                }
            }
            // Refuses further notices; the lanes end by themselves, each after its attempt under way.
            drop(notices);
            for lane in lanes.into_values() {
                lane.ended().await;
            }
        });
    }
}
