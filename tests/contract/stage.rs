//! Brings a gateway into the state that each step of a group was recorded in.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::DropGuard;
use whatsapp_simulator::{Fault, FaultId, Kick};

use super::files;
use super::golden::Setting;
use super::wire::Answer;
use super::world::{Hook, World, number};

mod dashboard;

/// The group that the recorded requests name.
const GROUP: &str = "120363012345678901";
/// The hidden identity that they name.
const HIDDEN: &str = "123456@lid";

/// Recorded numbers that are too short for an account, and the ones that take their place.
const NUMBERS: [(&str, &str); 9] = [
    ("\"to\":\"628\"", "\"to\":\"62800\""),
    ("to=628&", "to=62800&"),
    ("\"628@s.", "\"62800@s."),
    ("\"6281@s.", "\"62810@s."),
    ("x628@s.", "x62800@s."),
    ("\"62777@s.", "\"6277700@s."),
    ("\"62888@s.", "\"6288800@s."),
    ("\"to\":\"62-81-2\"", "\"to\":\"62-81-200\""),
    ("\"62812@g.us", "\"6281200@g.us"),
];

/// How long the receiver may be without a call that it is owed.
const NOTICE: Duration = Duration::from_secs(8);

/// A world and what its group has put there.
pub(crate) struct Stage {
    pub(crate) world: World,
    script: String,
    group: Option<String>,
    /// The hidden identity of the account that takes the place of the recorded one.
    hidden: Option<String>,
    /// The address of a group that the session is not in.
    foreign: Option<String>,
    cookie: Option<String>,
    /// The login's, while a forged one is tried.
    genuine: Option<String>,
    /// The session that the create page made up a name for.
    random: Option<&'static str>,
    fault: Option<FaultId>,
    mark: usize,
    media_server: String,
    _files: DropGuard,
}

impl Stage {
    pub(crate) async fn set(script: &str, setting: Setting) -> Self {
        let (media_server, files) = files::serve().await;
        let world = World::start(setting).await;
        Self {
            world,
            script: script.to_owned(),
            group: None,
            hidden: None,
            foreign: None,
            cookie: None,
            genuine: None,
            random: None,
            fault: None,
            mark: 0,
            media_server,
            _files: files,
        }
    }

    pub(crate) async fn strike(self) {
        self.world.simulator.clear_faults();
        self.world.finish().await;
    }

    /// What placeholders of requests stand for.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut text = text
            .replace("<key>", self.world.setting.key)
            .replace("<media-server-host>", &self.media_server)
            .replace("<media-server>", &format!("http://{}", self.media_server));
        if let Some(group) = &self.group {
            text = text.replace(GROUP, group);
        }
        if let Some(foreign) = &self.foreign {
            text = text.replace("403120363@g.us", foreign);
        }
        if let Some(device) = self.world.simulator.devices(&number("ok1")).last() {
            text = text.replace("6281234500001:7@", &format!("6281234500001:{}@", device.device));
        }
        if ["send", "profile", "dashboard"].contains(&self.script.as_str()) {
            text = NUMBERS.iter().fold(text, |text, (recorded, ours)| text.replace(recorded, ours));
        }
        if let Some(hidden) = &self.hidden {
            text = text.replace(HIDDEN, hidden);
        }
        if let Some(random) = self.random {
            text = text.replace("<uuid>", random);
        }
        if let Some(cookie) = &self.cookie {
            let whole = ["key=secret.<signature>", "key=secret.<signature, not percent-encoded>"];
            text = whole.iter().fold(text, |text, recorded| text.replace(recorded, cookie));
        }
        text
    }

    /// The answer with what [`Self::fill`] has put in taken out again, so that the table need not know it.
    pub(crate) fn generalize(&self, mut answer: Answer) -> Answer {
        if ["send", "profile", "dashboard"].contains(&self.script.as_str()) {
            answer.body = NUMBERS.iter().fold(answer.body, |text, (recorded, ours)| text.replace(ours, recorded));
        }
        if let Some(hidden) = &self.hidden {
            answer.body = answer.body.replace(hidden, HIDDEN);
        }
        answer.body = answer.body.replace(&format!("http://{}", self.media_server), "<media-server>");
        answer.body = answer.body.replace(&self.media_server, "<media-server-host>");
        if let Some(group) = &self.group {
            answer.body = answer.body.replace(group.as_str(), GROUP);
        }
        answer
    }

    /// The group that takes the place of the recorded one, if there is one.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// How many status events there were before those that the next entries are about.
    pub(crate) fn mark(&self) -> usize {
        self.mark
    }

    /// What the receiver was told of a session since the mark, once that ends in this word.
    pub(crate) async fn told(&self, session: &str, last: &str) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + NOTICE;
        loop {
            let told = self.world.told(session, self.mark);
            if told.last().map(String::as_str) == Some(last) || tokio::time::Instant::now() > deadline {
                return told;
            }
            // A bounded poll: the receiver is told last.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first such call to a path after these; `None`: it does not come.
    pub(crate) async fn hook(&self, path: &str, after: usize, is_it: impl Fn(&Hook) -> bool) -> Option<Hook> {
        let deadline = tokio::time::Instant::now() + NOTICE;
        loop {
            let hook = self.world.hooks(path).into_iter().skip(after).find(&is_it);
            if hook.is_some() || tokio::time::Instant::now() > deadline {
                return hook;
            }
            // As above.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does what happened before this step.
    pub(crate) async fn prepare(&mut self, step: u32) {
        match (self.script.as_str(), step) {
            ("session", 2) | ("documented", 1) => drop(self.world.connected("ok1").await),
            ("session", 3) => self.others().await,
            ("session", 10) => {
                for id in ["ok 2", "ok+3"] {
                    self.world.connected(id).await;
                }
                for id in ["caf\u{e9}", "a/b", &"x".repeat(200)] {
                    self.world.waits(id).await;
                }
            }
            ("start", 1) => {
                self.world.connected("ok1").await;
                self.others().await;
            }
            ("profile", 1) => self.profiles().await,
            ("profile", 10) => self.fault = Some(self.world.simulator.inject(Fault::RefuseUsync)),
            ("send", 1) => self.contacts().await,
            ("offline", 1) => self.world.look_at(Some("ws://nowhere.invalid/ws/chat")).await,
            ("offline", 2) => {
                assert_eq!(self.world.simulator.connections(), 0, "a name that is nobody's was found");
                self.world.look_at(None).await;
                self.fault = Some(self.world.simulator.inject(Fault::SilentAccept));
            }
            ("offline", 3) => self.mark = self.connecting("off1").await,
            ("offline", 4) => {
                self.silent("off1").await;
                self.mark = self.connecting("off1").await;
            }
            // A server that says nothing, while an unscanned session is started.
            ("start", 3) => self.fault = Some(self.world.simulator.inject(Fault::SilentAccept)),
            ("start", 5) | ("profile", 12) => self.clear(),
            ("start-flow", 1) => drop(self.world.waits("qr1").await),
            ("start-flow", 2) => {
                let qr = self.world.waits("qr1").await;
                self.world.simulator.account(&number("qr1"), "Fake qr1").unwrap();
                self.world.simulator.scan(&qr, &number("qr1")).await.unwrap();
                self.world.wait_status("qr1", "connected").await;
            }
            ("start-flow", 4) => self.world.unlink("qr1").await,
            ("start-flow", 9) => {
                self.world.connected("late1").await;
                self.lose("late1").await;
            }
            ("start-flow", 10) => {
                self.clear();
                self.world.wait_status("late1", "connected").await;
            }
            ("start-flow", 11) => {
                self.world.unlinked("dead9").await;
                self.world.connected("ok7").await;
            }
            ("logout", 1) => {
                for id in ["ok1", "ok2", "ok3", "ok4", "ok5", "ok6"] {
                    self.world.connected(id).await;
                }
                self.others().await;
            }
            ("logout", 52) => {
                self.world.connected("ok8").await;
                self.world.connected("ok9").await;
            }
            ("delete", 1) => {
                self.world.connected("ok1").await;
                self.world.connected("ok2").await;
                self.others().await;
                self.world.waits("a/b").await;
                self.world.connected("ok 3").await;
                self.world.waits("caf\u{e9}").await;
                self.mark = self.events().await;
            }
            ("delete", 29) => drop(self.world.connected("slowlogout-ok1").await),
            ("delete", 32) => {
                self.mark = self.events().await;
                self.world.connected("stuck7").await;
                self.lose("stuck7").await;
            }
            ("restart", 1) => {
                self.world.connected("ok1").await;
                self.world.connected("stuck1").await;
                self.world.waits("qr1").await;
                let fault = Fault::RefuseLogin { code: 503 }.on(&number("stuck1"));
                self.fault = Some(self.world.simulator.inject(fault));
                self.mark = self.events().await;
                self.world.restart().await;
                self.world.wait_status("ok1", "connected").await;
            }
            ("webhook", 1) => {
                self.world.connected("ok1").await;
                self.world.simulator.account("6281111111111", "Sari").unwrap();
                self.group = Some(self.found(&["6281111111111"]));
            }
            ("dashboard", step) => self.prepare_dashboard(step).await,
            ("static", 1) | ("auth-key", 89) => self.lay_out_files(),
            _ => {}
        }
    }

    /// The sessions that most setups have beside the connected one.
    async fn others(&self) {
        self.world.waits("qr1").await;
        self.silent("stuck1").await;
        self.world.unlinked("dead1").await;
    }

    /// A session that the server leaves without a word.
    async fn silent(&self, id: &str) {
        let fault = self.world.simulator.inject(Fault::SilentAccept);
        self.world.ask("POST", "/session/start", Some(json!({ "session": id }))).await;
        self.world.simulator.clear(fault);
    }

    /// How many status events there were, once the last connection has been told.
    async fn events(&self) -> usize {
        self.told("ok1", "connected").await;
        self.world.hooks("/webhook/session").len()
    }

    /// How many status events there were, once the receiver knows that a session is on its way.
    async fn connecting(&self, id: &str) -> usize {
        assert_eq!(self.told(id, "connecting").await.last().map(String::as_str), Some("connecting"));
        self.world.hooks("/webhook/session").len()
    }

    fn clear(&mut self) {
        if let Some(fault) = self.fault.take() {
            self.world.simulator.clear(fault);
        }
    }

    /// A connected session loses its connection and can't come back.
    async fn lose(&mut self, id: &str) {
        let number = number(id);
        self.fault = Some(self.world.simulator.inject(Fault::RefuseLogin { code: 503 }.on(&number)));
        let device = self.world.simulator.devices(&number).last().unwrap().device;
        self.world.simulator.kick(&number, device, Kick::Close).await;
        self.world.wait_status(id, "connecting").await;
    }

    /// The people and the group that the recorded sends write to.
    async fn contacts(&mut self) {
        self.world.connected("ok1").await;
        self.others().await;
        for contact in ["6281234567890", "62812", "62800", "62812345", "123456"] {
            self.world.simulator.phone(contact);
        }
        self.group = Some(self.found(&["6281234567890"]));
        // Groups that the recorded requests name by ids of their own: old ones, and numbers taken for ids.
        let own = number("ok1");
        for id in ["6281234567890-1600000000", "6281200", "62800", "6281234567890"] {
            self.world.simulator.create_group_as(id, "Old friends", &[own.as_str(), "6281234567890"]);
        }
        self.hidden = Some(format!("{}@lid", self.world.simulator.phone("123456").address().lid));
    }

    /// A group of the connected account and these numbers: its id.
    fn found(&self, members: &[&str]) -> String {
        let own = number("ok1");
        let group = self.world.simulator.create_group("Friends", &[&[own.as_str()], members].concat(), false);
        group.trim_end_matches("@g.us").to_owned()
    }

    /// The people and the group whose profiles were looked up: one shows all, one nothing, one has no picture.
    async fn profiles(&mut self) {
        self.world.connected("ok1").await;
        self.others().await;
        let simulator = &self.world.simulator;
        let set = 1_700_000_000;
        for shown in ["62810", "62800"] {
            let phone = simulator.phone(shown);
            phone.set_picture(Some(b"a picture")).await.unwrap();
            phone.set_about("Available", set).await.unwrap();
        }
        let private = simulator.phone("6277700");
        private.hide_picture(true).await.unwrap();
        private.hide_about(true).await.unwrap();
        simulator.phone("6288800").set_about("Available", set).await.unwrap();
        let group = self.found(&["62810"]);
        let own = simulator.phone(&number("ok1"));
        own.set_group_picture(&format!("{group}@g.us"), Some(b"a picture")).await.unwrap();
        self.group = Some(group);
        self.foreign = Some(simulator.create_group("Others", &["62810", "62800"], false));
    }

    fn lay_out_files(&self) {
        let media = self.world.media();
        std::fs::create_dir_all(media.join("sub")).unwrap();
        for (name, text) in [
            ("a.jpg", "JPGDATA"),
            ("b.pdf", "PDFDATA"),
            ("noext", "NOEXT"),
            ("c.mp3", "MP3DATA-0123456789"),
            ("v.mp4", "MP4DATA"),
            ("sp ace.txt", "space"),
            ("x.html", "<script>1</script>"),
            ("x.svg", "<svg/>"),
            ("sub/d.txt", "deep"),
            ("id.undefined", "undef"),
            ("u\u{e9}.txt", "unicode"),
            (".hidden", "hid"),
        ] {
            std::fs::write(media.join(name), text).unwrap();
        }
        std::fs::write(media.parent().unwrap().join("secret.txt"), "outside").unwrap();
    }
}
