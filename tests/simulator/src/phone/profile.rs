//! What others see of an account: its picture and its about text, set by the phone as by any device of it.

use anyhow::Context;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};

use super::Phone;
use super::directory::{attr, server};

impl Phone {
    /// Sets the account's picture and returns its id, or takes the picture away.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn set_picture(&self, image: Option<&[u8]>) -> anyhow::Result<Option<String>> {
        self.picture(None, image).await
    }

    /// Sets a group's picture and returns its id, or takes the picture away.
    ///
    /// # Errors
    /// The server refused it: unknown group, not a member, not an admin of a locked group.
    pub async fn set_group_picture(&self, group: &str, image: Option<&[u8]>) -> anyhow::Result<Option<String>> {
        let group: Jid = group.parse().with_context(|| format!("{group} is no JID"))?;
        self.picture(Some(&group), image).await
    }

    /// Sets the about text, as if at that time (seconds since 1970).
    ///
    /// # Errors
    /// The server refused it.
    pub async fn set_about(&self, text: &str, time: u64) -> anyhow::Result<()> {
        let status = NodeBuilder::new("status").attr("t", time).bytes(text.as_bytes()).build();
        self.set("status", None, Some(status)).await?;
        Ok(())
    }

    /// Hides the picture from everybody else, or shows it.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn hide_picture(&self, hide: bool) -> anyhow::Result<()> {
        self.set_privacy("profile", hide).await
    }

    /// Hides the about text from everybody else, or shows it.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn hide_about(&self, hide: bool) -> anyhow::Result<()> {
        self.set_privacy("status", hide).await
    }

    async fn set_privacy(&self, name: &str, hide: bool) -> anyhow::Result<()> {
        let value = if hide { "none" } else { "all" };
        let category = NodeBuilder::new("category").attr("name", name).attr("value", value).build();
        self.set("privacy", None, Some(NodeBuilder::new("privacy").children([category]).build())).await?;
        Ok(())
    }

    async fn picture(&self, group: Option<&Jid>, image: Option<&[u8]>) -> anyhow::Result<Option<String>> {
        let picture = image.map(|image| NodeBuilder::new("picture").attr("type", "image").bytes(image).build());
        let answer = self.set("w:profile:picture", group, picture).await?;
        Ok(answer.get_optional_child("picture").and_then(|picture| attr(picture, "id")))
    }

    async fn set(&self, xmlns: &'static str, target: Option<&Jid>, child: Option<Node>) -> anyhow::Result<Node> {
        let id = self.0.query_id();
        let mut iq =
            NodeBuilder::new("iq").attr("id", &id).attr("type", "set").attr("xmlns", xmlns).attr("to", server());
        if let Some(target) = target {
            iq = iq.attr("target", target);
        }
        if let Some(child) = child {
            iq = iq.children([child]);
        }
        self.0.query(&id, iq.build()).await
    }
}
