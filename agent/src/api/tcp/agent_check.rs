//! HAProxy's agent checks (`--agent-check`): a load balancer asks again and again, in one line, what state a server is to
//! be in, and is answered in one. The words are those of HAProxy's configuration manual, `agent-check`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{extract::Query, http::Uri};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{EndpointError, accept, pace::Pace};
use crate::{
    api::{
        app::App,
        auth::Caller,
        connection::Connections,
        drains::Drains,
        error::ApiError,
        extract::{NetnsQuery, PlaceQuery},
        protocol::PodName,
    },
    drain::{Boot, Service, StateName},
    executor::Stand,
};

/// How long a load balancer may take to ask, and to take the answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest question, in bytes.
const MAX_LINE: u64 = 512;

/// The listener for agent checks.
pub struct AgentCheck {
    listener: TcpListener,
}

/// `agent-send`: a query, as in `port=8080&netns=host`, and a line feed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    port: u16,
    netns: Option<NetnsQuery>,
    pod: Option<PodName>,
    container: Option<String>,
    #[serde(default)]
    weight: Weight,
}

/// What the server's weight is while it settles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Weight {
    /// None: the load balancer is to drain it at once.
    #[default]
    Drain,
    /// It falls, so that the others take over bit by bit.
    Fall,
}

impl AgentCheck {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn bind(addr: SocketAddr) -> Result<Self, EndpointError> {
        let listener = TcpListener::bind(addr).await;
        let listener = listener.map_err(|source| {
            let option = "--agent-check";
            EndpointError::Bind { addr, option, source }
        })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Never, for a socket that is open.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`. Returns the connections that are still open.
    pub async fn serve<D: Drains>(
        self,
        app: Arc<App<D>>,
        stop: impl Future<Output = ()>,
    ) -> Connections {
        let pace = Pace::default();
        accept(&self.listener, &pace, stop, |stream, addr, visit, _| {
            let may = pace.spend(addr.ip(), 1.0);
            let app = Arc::clone(&app);
            async move {
                if may {
                    serve_one(stream, &app).await;
                }
                drop(visit);
            }
        })
        .await
    }
}

async fn serve_one<D: Drains>(stream: TcpStream, app: &App<D>) {
    let served = timeout(WITHIN, async {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        (&mut stream).take(MAX_LINE).read_line(&mut line).await?;
        let answer = answer(app, line.trim()).await;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    });
    // Who asks in vain asks again.
    let _ = served.await;
}

/// What HAProxy is told. An answer without one of its words changes nothing there: a typing mistake, or a server that
/// has not begun to listen, must not take anybody out.
async fn answer<D: Drains>(app: &App<D>, line: &str) -> String {
    match ask(app, line).await {
        Ok((drain, weight)) => format!("{}\n", words(drain.as_ref(), weight, app.kernel.now())),
        Err(error) => {
            tracing::debug!(question = line, error = error.message(), "an agent check in vain");
            "\n".to_owned()
        }
    }
}

/// Asked by every load balancer for every server, and so answered without a look at its connections.
async fn ask<D: Drains>(app: &App<D>, line: &str) -> Result<(Option<Stand>, Weight), ApiError> {
    let uri: Uri = format!("/?{line}").parse().map_err(|_| ApiError::usage("it is no query"))?;
    let question = Query::<Question>::try_from_uri(&uri);
    let Query(question) = question.map_err(|error| ApiError::usage(error.body_text()))?;
    let Question { port, netns, pod, container, weight } = question;
    let place = PlaceQuery { netns, pod, container }.one()?;
    let netns = app.place(place, &Caller::remote()).await?;
    let service = Service { netns, port };
    let drain = app.drains.stand(service).await?;
    if drain.is_none() && !app.kernel(move |kernel| kernel.listens(service)).await? {
        return Err(ApiError::no_such_service(service));
    }
    Ok((drain, weight))
}

/// `ready` takes back an earlier `drain`, `up` an earlier `down`.
fn words(drain: Option<&Stand>, weight: Weight, now: Boot) -> String {
    match drain {
        None | Some((StateName::Serving, _)) => "up ready 100%".to_owned(),
        Some((StateName::Settling, drain)) if weight == Weight::Fall => {
            let (age, whole) = (now.since(drain.started), drain.min_settle);
            let left = whole.saturating_sub(age).as_millis() * 100 / whole.as_millis().max(1);
            // With any weight at all there would be no quiet time, and the gate would not close.
            if left == 0 { "drain".to_owned() } else { format!("up ready {left}%") }
        }
        _ => "drain".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{FakeDrains, NOW, POD, WEB, draining};

    #[tokio::test]
    async fn what_haproxy_is_told() {
        let drains = FakeDrains::new();
        let app = drains.app();
        let asked = format!("port=8080&netns={POD}");
        let falls = format!("{asked}&weight=fall");
        let settling = |seconds| {
            let mut status = draining(WEB, StateName::Settling, 0);
            let drain = status.drain.as_mut().unwrap();
            drain.min_settle = Duration::from_secs(4);
            drain.started = NOW - Duration::from_secs(seconds);
            status
        };
        assert_eq!(answer(&app, &asked).await, "up ready 100%\n");
        for (seconds, words) in
            [(0, "up ready 100%\n"), (3, "up ready 25%\n"), (4, "drain\n"), (9, "drain\n")]
        {
            drains.set_unsaid(settling(seconds));
            assert_eq!(answer(&app, &asked).await, "drain\n");
            assert_eq!(answer(&app, &falls).await, words);
        }
        for state in [StateName::Rejecting, StateName::Drained, StateName::Expired] {
            drains.set_unsaid(draining(WEB, state, 0));
            for question in [&asked, &falls] {
                assert_eq!(answer(&app, question).await, "drain\n");
            }
        }
    }

    #[tokio::test]
    async fn a_question_that_makes_no_sense_changes_nothing() {
        let app = FakeDrains::new().app();
        for bad in
            ["", "port=8080", "port=0", "port=x&netns=host", "GET / HTTP/1.0", "port=9&netns=all"]
        {
            assert_eq!(answer(&app, bad).await, "\n", "{bad}");
        }
        assert_eq!(answer(&app, &format!("port=9999&netns={POD}")).await, "\n", "nobody there");
    }
}
