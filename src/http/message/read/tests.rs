use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest as _, Request};
use axum::response::IntoResponse as _;

use super::*;

async fn fields(method: &str, uri: &str, kind: &str, body: &str) -> Fields {
    let request = Request::builder().method(method).uri(uri).header("content-type", kind);
    let request = request.body(Body::from(body.to_owned())).unwrap();
    Fields::from_request(request, &()).await.map_err(|_| "refused").unwrap()
}

async fn json(body: &str) -> Fields {
    fields("POST", "/", "application/json", body).await
}

async fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    let response = result.unwrap_err().into_response();
    assert_eq!(response.status(), 400);
    let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 10_000).await.unwrap()).unwrap();
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_head_is_read_in_every_form_that_clients_use() {
    for (body, to, is_group) in [
        (r#"{"session":"s","to":"628","text":"t"}"#, "628", false),
        (r#"{"session":"s","to":6281234567890,"text":"t"}"#, "6281234567890", false),
        (r#"{"session":"s","to":"628","text":"t","is_group":true}"#, "628", true),
        (r#"{"session":"s","to":"628","text":"t","is_group":false,"isGroup":true}"#, "628", false),
        (r#"{"session":"s","to":"628","text":"t","isGroup":true}"#, "628", true),
        (r#"{"session":"s","to":"628","text":"t","is_group":"true"}"#, "628", true),
        (r#"{"session":"s","to":"628","text":"t","is_group":"false"}"#, "628", false),
        (r#"{"session":"s","to":"628","text":"t","is_group":1}"#, "628", true),
        (r#"{"session":"s","to":"628","text":"t","is_group":0}"#, "628", false),
    ] {
        let (head, text) = Head::read(&json(body).await, Text::Required).unwrap();
        assert_eq!(head, Head { session: "s".to_owned(), to: to.to_owned(), is_group, repeat: None }, "{body}");
        assert_eq!(text, "t");
    }
    let form = "application/x-www-form-urlencoded";
    let form = fields("POST", "/", form, "session=s&to=%2B62+8&text=a+b%C3%A9&is_group=1").await;
    let (head, text) = Head::read(&form, Text::Required).unwrap();
    assert_eq!((head.to.as_str(), text.as_str(), head.is_group), ("+62 8", "a b\u{e9}", true));
    let query = fields("GET", "/?session=s&to=+628&text=a%20b&is_group=true", "", "").await;
    let (head, text) = Head::read(&query, Text::Required).unwrap();
    assert_eq!((head.to.as_str(), text.as_str(), head.is_group), (" 628", "a b", true));
}

#[tokio::test]
async fn an_optional_text_must_still_be_one() {
    let read = async |body| Head::read(&json(body).await, Text::Optional).map(|(_head, text)| text);
    assert_eq!(read(r#"{"session":"s","to":"628"}"#).await.unwrap(), "");
    assert_eq!(
        refusal(read(r#"{"session":"s","to":"628","text":null}"#).await).await,
        "Expected string, received null field 'text' on json"
    );
    assert_eq!(
        refusal(Head::read(&json(r#"{"session":"s","to":"628"}"#).await, Text::Required)).await,
        "Required field 'text' on json"
    );
}

#[tokio::test]
async fn places_are_on_earth() {
    let read = async |body: &str| location(&json(body).await);
    let place = read(r#"{"latitude":"-6.2","longitude":106.8,"address":"Jakarta"}"#).await.unwrap();
    let address = Some("Jakarta".to_owned());
    assert_eq!(place, Location { latitude: -6.2, longitude: 106.8, name: None, address });
    for (body, told) in [
        (r#"{"longitude":1}"#, "Required field 'latitude' on json"),
        (r#"{"latitude":1}"#, "Required field 'longitude' on json"),
        (r#"{"latitude":91,"longitude":1}"#, "latitude must be between -90 and 90 field 'latitude' on json"),
        (r#"{"latitude":1,"longitude":"-181"}"#, "longitude must be between -180 and 180 field 'longitude' on json"),
        (r#"{"latitude":"north","longitude":1}"#, "Expected number, received string field 'latitude' on json"),
        (r#"{"latitude":"inf","longitude":1}"#, "Expected number, received string field 'latitude' on json"),
        (r#"{"latitude":1,"longitude":1,"name":5}"#, "Expected string, received number field 'name' on json"),
    ] {
        assert_eq!(refusal(read(body).await).await, told, "{body}");
    }
}

#[tokio::test]
async fn cards_need_a_name_and_a_number() {
    let read = async |body: &str| contacts(&json(body).await);
    let ani = Contact { name: "Ani".to_owned(), phone: "62812".to_owned() };
    let one = read(r#"{"contact_name":" Ani ","contact_phone":"+62 8-12"}"#).await.unwrap();
    assert_eq!(one, std::slice::from_ref(&ani));
    let two = r#"{"contacts":[{"name":"Ani","phone":62812},{"name":"Ani","phone":"62812@s.whatsapp.net"}]}"#;
    assert_eq!(read(two).await.unwrap(), [ani.clone(), ani]);
    for (body, told) in [
        ("{}", "Required field 'contacts' on json"),
        (r#"{"contact_name":"Ani"}"#, "Required field 'contact_phone' on json"),
        (r#"{"contacts":[]}"#, "contacts must have 1 to 100 items field 'contacts' on json"),
        (r#"{"contacts":5}"#, "Expected array, received number field 'contacts' on json"),
        (r#"{"contacts":["x"]}"#, "Expected object, received string field 'contacts.0' on json"),
        (r#"{"contacts":[{"name":"a"}]}"#, "Required field 'contacts.0.phone' on json"),
        (
            r#"{"contacts":[{"name":"a","phone":"x"}]}"#,
            "contacts.0.phone is not a phone number field 'contacts.0.phone' on json",
        ),
        (
            r#"{"contacts":[{"name":" ","phone":"628"}]}"#,
            "contacts.0.name must not be empty field 'contacts.0.name' on json",
        ),
    ] {
        assert_eq!(refusal(read(body).await).await, told, "{body}");
    }
}

#[tokio::test]
async fn polls_have_two_to_twelve_different_options() {
    let read = async |body: &str| poll(&json(body).await);
    let read_poll = read(r#"{"question":"Q","options":["a","b"],"max_selections":"2"}"#).await.unwrap();
    assert_eq!((read_poll.options.len(), read_poll.selectable), (2, 2));
    assert_eq!(read(r#"{"question":"Q","options":["a","b"]}"#).await.unwrap().selectable, 1);
    let many: Vec<String> = (0..13).map(|at| at.to_string()).collect();
    let many = serde_json::json!({ "question": "Q", "options": many }).to_string();
    for (body, told) in [
        (r#"{"options":["a","b"]}"#, "Required field 'question' on json"),
        (r#"{"question":" ","options":["a","b"]}"#, "question must not be empty field 'question' on json"),
        (r#"{"question":"Q"}"#, "Required field 'options' on json"),
        (r#"{"question":"Q","options":["a"]}"#, "options must have 2 to 12 items field 'options' on json"),
        (many.as_str(), "options must have 2 to 12 items field 'options' on json"),
        (r#"{"question":"Q","options":["a",1]}"#, "Expected string, received number field 'options.1' on json"),
        (r#"{"question":"Q","options":["a",""]}"#, "options.1 must not be empty field 'options.1' on json"),
        (
            r#"{"question":"Q","options":["a","a"]}"#,
            "options.1 must differ from the other options field 'options.1' on json",
        ),
        (
            r#"{"question":"Q","options":["a","b"],"max_selections":3}"#,
            "max_selections must be between 1 and 2 field 'max_selections' on json",
        ),
        (
            r#"{"question":"Q","options":["a","b"],"max_selections":1.5}"#,
            "max_selections must be a whole number field 'max_selections' on json",
        ),
    ] {
        assert_eq!(refusal(read(body).await).await, told, "{body}");
    }
}

#[tokio::test]
async fn replies_name_their_author_in_groups() {
    let (peer, group) = (Recipient::parse("628", false).unwrap(), Recipient::parse("12345-678", true).unwrap());
    let with = async |body: &str, to: &Recipient| {
        let fields = json(body).await;
        Extras::read(&fields)?.with(Content::Text(String::new()), to, &fields)
    };
    let author = async |body: &str, to: &Recipient| with(body, to).await.map(|message| message.quote.unwrap().author);
    assert_eq!(author(r#"{"reply_to":"ID"}"#, &peer).await.unwrap(), Author::Peer);
    assert_eq!(author(r#"{"reply_to":"ID","reply_to_from_me":true}"#, &group).await.unwrap(), Author::Me);
    let member = Recipient::parse("62899", false).unwrap();
    let named = r#"{"reply_to":"ID","reply_to_participant":"+62 899"}"#;
    assert_eq!(author(named, &group).await.unwrap(), Author::Member(member.clone()));
    assert_eq!(
        refusal(author(r#"{"reply_to":"ID"}"#, &group).await).await,
        "Required field 'reply_to_participant' on json"
    );
    assert_eq!(
        refusal(author(r#"{"reply_to":" "}"#, &peer).await).await,
        "reply_to must not be empty field 'reply_to' on json"
    );
    assert_eq!(with(r#"{"mentions":["+62 899",62899]}"#, &peer).await.unwrap().mentions, [member.clone(), member]);
    assert_eq!(
        refusal(with(r#"{"mentions":["x"]}"#, &peer).await).await,
        "mentions.0 is not a phone number or a WhatsApp address field 'mentions.0' on json"
    );
    assert_eq!(
        refusal(with(r#"{"mentions":true}"#, &peer).await).await,
        "Expected array, received boolean field 'mentions' on json"
    );
}
