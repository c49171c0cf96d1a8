//! Pictures and about texts, and what hides them.

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::{Jid, NodeBuilder};
use whatsapp_simulator::{Options, Simulator};

use crate::companion::{Companion, attr, content};
use crate::http::exchange;

const NUMBER: &str = "6281111111111";
const FRIEND: &str = "6282222222222";

/// The answer to a query for a picture's URL.
async fn ask_picture(companion: &mut Companion, target: &str, kind: &'static str) -> Node {
    let asked = NodeBuilder::new("picture").attr("type", kind).attr("query", "url").build();
    let iq = NodeBuilder::new("iq")
        .attr("id", format!("p{}", rand::random::<u32>()))
        .attr("type", "get")
        .attr("xmlns", "w:profile:picture")
        .attr("to", "s.whatsapp.net")
        .attr("target", target.parse::<Jid>().unwrap())
        .children([asked]);
    companion.send(iq.build()).await;
    companion.next("iq").await
}

/// The status that a query for a picture is refused by.
async fn refused(companion: &mut Companion, target: &str) -> String {
    let answer = ask_picture(companion, target, "image").await;
    assert_eq!(attr(&answer, "type"), "error");
    attr(answer.get_optional_child("error").unwrap(), "code")
}

#[tokio::test]
async fn pictures_are_found_by_url_unless_hidden() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let friend = simulator.phone(FRIEND);
    let target = format!("{FRIEND}@s.whatsapp.net");
    assert_eq!(refused(&mut companion, &target).await, "404");
    assert_eq!(refused(&mut companion, "6289999999999@s.whatsapp.net").await, "404");

    let id = friend.set_picture(Some(b"jpeg")).await.unwrap().unwrap();
    for kind in ["image", "preview"] {
        let answer = ask_picture(&mut companion, &target, kind).await;
        let picture = answer.get_optional_child("picture").unwrap();
        assert_eq!((attr(picture, "id"), attr(picture, "type")), (id.clone(), kind.to_owned()));
        let path = attr(picture, "direct_path");
        assert_eq!(attr(picture, "url"), format!("https://pps.whatsapp.net{path}"));
        assert_eq!(exchange(&simulator.media_url(), "GET", &path, "", &[]).await, (200, b"jpeg".to_vec()));
    }
    friend.hide_picture(true).await.unwrap();
    assert_eq!(refused(&mut companion, &target).await, "401");
    friend.hide_picture(false).await.unwrap();
    friend.set_picture(None).await.unwrap();
    assert_eq!(refused(&mut companion, &target).await, "404");
    assert_eq!(simulator.counters().violations, 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn group_pictures_are_for_members() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let own = simulator.create_group("ours", &[FRIEND, NUMBER], false);
    let foreign = simulator.create_group("theirs", &[FRIEND, "6283333333333"], false);
    let friend = simulator.phone(FRIEND);
    assert_eq!(refused(&mut companion, &own).await, "404");
    for group in [&own, &foreign] {
        friend.set_group_picture(group, Some(b"group")).await.unwrap();
    }
    let answer = ask_picture(&mut companion, &own, "image").await;
    let path = attr(answer.get_optional_child("picture").unwrap(), "direct_path");
    assert_eq!(exchange(&simulator.media_url(), "GET", &path, "", &[]).await, (200, b"group".to_vec()));
    assert_eq!(refused(&mut companion, &foreign).await, "403");
    assert_eq!(refused(&mut companion, "120363000000000000@g.us").await, "404");
    assert!(simulator.phone("6284444444444").set_group_picture(&own, Some(b"x")).await.is_err());
    simulator.shutdown().await;
}

#[tokio::test]
async fn about_texts_have_a_time_and_may_be_hidden() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let mut companion = Companion::linked(&simulator, NUMBER).await;
    let friend = simulator.phone(FRIEND);
    friend.set_about("on holiday", 1_700_000_000).await.unwrap();
    let user = || NodeBuilder::new("user").attr("jid", Jid::pn(FRIEND)).build();
    let usync = || {
        let query = NodeBuilder::new("query").children([NodeBuilder::new("status").build()]).build();
        let list = NodeBuilder::new("list").children([user()]).build();
        NodeBuilder::new("usync").attr("sid", "1").attr("mode", "query").children([query, list]).build()
    };
    let path = ["usync", "list", "user", "status"];
    let answer = companion.ask("get", "usync", "s.whatsapp.net", [usync()]).await;
    let status = answer.get_optional_child_by_tag(&path).unwrap();
    assert_eq!((attr(status, "t"), content(status)), ("1700000000".to_owned(), b"on holiday".to_vec()));
    let legacy = NodeBuilder::new("status").children([user()]).build();
    let answer = companion.ask("get", "status", "s.whatsapp.net", [legacy]).await;
    let status = answer.get_optional_child_by_tag(&["status", "user"]).unwrap();
    assert_eq!((attr(status, "t"), content(status)), ("1700000000".to_owned(), b"on holiday".to_vec()));

    friend.hide_about(true).await.unwrap();
    let answer = companion.ask("get", "usync", "s.whatsapp.net", [usync()]).await;
    let status = answer.get_optional_child_by_tag(&path).unwrap();
    assert_eq!((attr(status, "code"), content(status)), ("401".to_owned(), Vec::new()));
    simulator.shutdown().await;
}
