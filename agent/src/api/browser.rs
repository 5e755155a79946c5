//! Browsers carry out what pages of others ask for. A page of the agent's own may be open in one, by way of a port that
//! ssh forwards to the socket, with all that root of the node may do; so pages of others must get nothing through it.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;

/// Set by browsers alone, and by no page (Fetch Metadata Request Headers, a W3C working draft).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a browser sends with every request, and the programs that ask over a socket do not.
const MARKS: [HeaderName; 3] = [header::ORIGIN, header::ACCEPT_LANGUAGE, SEC_FETCH_SITE];

/// Refuses what a page of another origin asks for. Links may lead to the agent's page.
pub(super) async fn of_one_origin(request: Request, next: Next) -> Response {
    let is_link = request.method() == Method::GET && request.uri().path() == "/";
    if is_foreign(request.headers(), is_link) {
        tracing::warn!(path = request.uri().path(), "denied: a web page of another origin asks");
        let message = "this comes from a web page of another origin, which may ask the agent for nothing; open the \
                       agent's own page at / instead";
        return ApiError::forbidden(message).into_response();
    }
    next.run(request).await
}

/// Of the Unix socket alone: refuses a name that the owner of a page can have led here (DNS rebinding), for which a
/// browser takes us for that page's own server.
pub(super) async fn by_our_own_name(request: Request, next: Next) -> Response {
    if is_misled(request.headers()) {
        tracing::warn!(host = ?request.headers().get(header::HOST), "denied: a browser was led here by another name");
        let message = "the header Host has a name that may be somebody else's; ask for localhost, or for a loopback \
                       address, such as http://127.0.0.1:9000/";
        return ApiError::forbidden(message).into_response();
    }
    next.run(request).await
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn is_foreign(headers: &HeaderMap, is_link: bool) -> bool {
    if let Some(origin) = text(headers, header::ORIGIN) {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        return authority.is_none() || authority != text(headers, header::HOST);
    }
    let site = text(headers, SEC_FETCH_SITE);
    !is_link && site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

fn is_misled(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_loopback = address.as_ref().is_ok_and(|address| address.to_canonical().is_loopback());
    if is_loopback || name.eq_ignore_ascii_case("localhost") {
        return false;
    }
    // Programs put a word there, such as curl's http://agent/. Browsers take 0.0.0.0 for this machine, also where they
    // keep pages from asking loopback.
    address.is_err() && name.contains('.') || MARKS.iter().any(|mark| headers.contains_key(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn pages_of_others_are_foreign() {
        #[rustfmt::skip]
        let table = [
            // description, headers, foreign, foreign to / too
            ("a program", &[("host", "agent")][..], false, false),
            ("our page", &[("host", "localhost:9000"), ("sec-fetch-site", "same-origin")], false, false),
            ("our page posts", &[("host", "localhost:9000"), ("origin", "http://localhost:9000")], false, false),
            ("typed by a person", &[("host", "localhost:9000"), ("sec-fetch-site", "none")], false, false),
            ("a link or an image elsewhere", &[("host", "localhost:9000"), ("sec-fetch-site", "cross-site")], true, false),
            ("another port of this machine", &[("host", "localhost:9000"), ("sec-fetch-site", "same-site")], true, false),
            ("a page elsewhere posts", &[("host", "localhost:9000"), ("origin", "https://evil.example")], true, true),
            ("so does another port", &[("host", "localhost:9000"), ("origin", "http://localhost:8000")], true, true),
            ("a sandboxed frame", &[("host", "localhost:9000"), ("origin", "null")], true, true),
            ("without a host", &[("origin", "http://localhost:9000")], true, true),
        ];
        for (description, pairs, foreign, foreign_to_page) in table {
            let headers = headers(pairs);
            assert_eq!(is_foreign(&headers, false), foreign, "{description}");
            assert_eq!(is_foreign(&headers, true), foreign_to_page, "{description}");
        }
    }

    #[test]
    fn names_that_may_be_somebody_elses() {
        for host in
            ["localhost", "localhost:9000", "127.0.0.1:9000", "127.8.8.8", "[::1]:9000", "[::1]"]
        {
            let browser = headers(&[("host", host), ("accept-language", "en")]);
            assert!(!is_misled(&browser), "{host}");
        }
        for host in
            ["agent", "drainctl", "x:80", "", "0.0.0.0:9000", "[::]:9000", "10.0.0.7", "[fe80::1]"]
        {
            assert!(!is_misled(&headers(&[("host", host)])), "{host}");
            assert!(is_misled(&headers(&[("host", host), ("accept-language", "en")])), "{host}");
        }
        for host in ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "a.b:c"] {
            assert!(is_misled(&headers(&[("host", host)])), "{host}");
        }
        assert!(!is_misled(&HeaderMap::new()), "HTTP/1.0");
    }
}
