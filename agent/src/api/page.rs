//! `GET /`: the page that shows it all in a browser. One document without anything from elsewhere; its own style and
//! script are the only ones that it lets a browser run, by their hashes.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/index.html").replace("{{style}}", STYLE).replace("{{script}}", SCRIPT)
});

/// `connect-src 'self'`: it asks the agent, and nobody else. Frames would let another page lay something over it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash(SCRIPT),
        hash(STYLE),
    )
});

/// Answers with the page, which shows nothing by itself: it asks, with the rights of whoever has opened it.
pub(super) async fn page() -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_SECURITY_POLICY, &POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, Html(DOCUMENT.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_becomes_markup() {
        // The only address in it is the name of SVG's elements.
        let elsewhere = DOCUMENT.replace("http://www.w3.org/2000/svg", "");
        for word in ["http://", "https://", "src=", "{{", "style=\"", " onclick", "innerHTML"] {
            assert!(!elsewhere.contains(word), "{word}");
        }
        for word in ["insertAdjacentHTML", "document.write", "eval(", "localStorage"] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        // It would end the element early.
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    }

    #[test]
    fn it_reads_and_keeps_no_lease_alive() {
        for word in ["POST", "DELETE", "ask(`/v1/events", "/v1/drains"] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }
}
