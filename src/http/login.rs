//! `/auth`: the page that asks for the key, the cookie that it gives, and its end.

use axum::body::Body;
use axum::extract::{FromRequest as _, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::auth::{Login, Refused};
use super::dashboard::{self, Words, view};
use super::error::ApiError;
use super::extract::{self, Fields};

const PROTOCOL: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// wa-gateway 4.7.1 answers a redirect so: no body, and a type for it.
pub(super) fn redirect_to(status: StatusCode, location: &str) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, "text/plain; charset=UTF-8")]).into_response();
    match HeaderValue::try_from(location) {
        Ok(location) => drop(response.headers_mut().insert(header::LOCATION, location)),
        Err(error) => return ApiError::internal(error).into_response(),
    }
    response
}

/// Where a browser without a cookie is sent.
pub(super) fn redirect() -> Response {
    redirect_to(StatusCode::FOUND, "/auth/login")
}

/// `GET /auth/login`. Contract section 8: who is signed in sees it too.
pub(super) async fn page(headers: HeaderMap) -> Result<Response, ApiError> {
    let words = Words::of(&headers);
    view::login(words, None)
}

/// `POST /auth/login`: `password` as a form of either kind.
pub(super) async fn sign_in(State(state): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    if dashboard::is_foreign(&headers) {
        return Err(ApiError::forbidden());
    }
    let client = state.auth.client(request.extensions(), &headers);
    let password = password(request).await?;
    let secure = headers.get(PROTOCOL).and_then(|value| value.to_str().ok());
    let secure = secure.and_then(|list| list.split(',').next()).is_some_and(|first| first.trim() == "https");
    // A missing field is no guess that could be right.
    let signed_in = state.auth.sign_in(client, password.as_deref().unwrap_or("\0"), secure).await;
    let words = Words::of(&headers);
    match signed_in {
        Ok(cookie) => {
            tracing::info!(target: "wa_gateway::audit", action = "signed in to the dashboard", %client, "done");
            let mut response = redirect_to(StatusCode::FOUND, "/dashboard");
            response
                .headers_mut()
                .insert(header::SET_COOKIE, HeaderValue::try_from(cookie).map_err(ApiError::internal)?);
            Ok(response)
        }
        Err(Refused::WrongKey) => {
            tracing::warn!(target: "wa_gateway::audit", action = "wrong key at the dashboard", %client, "refused");
            // Contract section 8: 200, and the page once more.
            view::login(words, Some(words.wrong_key))
        }
        Err(Refused::TooMany(wait)) => {
            let mut response = view::login(words, Some(words.too_many))?;
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            Ok(response)
        }
        Err(Refused::NoRandom) => {
            tracing::error!("the system gave no random bytes for a login");
            let mut response = view::login(words, Some(words.unavailable))?;
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        }
    }
}

/// `POST /auth/logout`.
pub(super) async fn sign_out(
    State(state): State<Shared>,
    login: Login,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, ApiError> {
    dashboard::check_form(&login, &headers, &fields)?;
    let cookie = state.auth.sign_out(&headers).await.map_err(|error| ApiError::from_key("", error))?;
    let mut response = redirect_to(StatusCode::SEE_OTHER, "/auth/login");
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::try_from(cookie).map_err(ApiError::internal)?);
    Ok(response)
}

/// The field `password` of a form; `None`: there is none.
async fn password(request: Request) -> Result<Option<String>, ApiError> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_multipart = match essence.as_str() {
        "application/x-www-form-urlencoded" => false,
        "multipart/form-data" => true,
        _ => {
            return Err(ApiError::bad_request(
                "Content-Type was not one of \"multipart/form-data\" or \"application/x-www-form-urlencoded\".",
            ));
        }
    };
    let bytes = extract::read_tiny(&parts.headers, body).await?;
    if !is_multipart {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(&bytes).unwrap_or_default();
        return Ok(pairs.into_iter().find_map(|(name, value)| (name == "password").then_some(value)));
    }
    let malformed = || ApiError::bad_request("Malformed form in request body");
    let request = Request::from_parts(parts, Body::from(bytes));
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| malformed())?;
    while let Some(field) = form.next_field().await.map_err(|_| malformed())? {
        if field.name() == Some("password") {
            // Not `text`, which knows the character sets of half a century: a browser's form is UTF-8.
            let password = field.bytes().await.map_err(|_| malformed())?;
            return Ok(Some(String::from_utf8_lossy(&password).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(kind: &str, body: &str) -> Result<Option<String>, u16> {
        let request = Request::builder().method("POST").header("content-type", kind);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        password(request).await.map_err(|error| error.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn the_password_is_read_from_forms_of_both_kinds() {
        const FORM: &str = "application/x-www-form-urlencoded";
        const PARTS: &str = "multipart/form-data; boundary=x";
        let some = |text: &str| Ok(Some(text.to_owned()));
        let part = "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nse cret\r\n--x--\r\n";
        for (kind, body, expected) in [
            (FORM, "password=se+cret", some("se cret")),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", "a=b&password=%C3%A9", some("\u{e9}")),
            (FORM, "password=", some("")),
            (FORM, "x=1", Ok(None)),
            (PARTS, part, some("se cret")),
            (PARTS, "--x--\r\n", Ok(None)),
            (PARTS, "--x\r\nbad", Err(400)),
            ("multipart/form-data", part, Err(400)),
            ("application/json", r#"{"password":"x"}"#, Err(400)),
            ("", "", Err(400)),
        ] {
            assert_eq!(read(kind, body).await, expected, "{kind} {body}");
        }
    }
}
