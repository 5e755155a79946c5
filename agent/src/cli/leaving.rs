//! How connections were made to leave, in words for people.

use super::text;
use crate::api::protocol::{
    FlowBarrier, FlowClass, FlowRetired, FlowStatus, RetireStatus, ServiceStatus, StateName,
    UntellableFlows,
};

/// Most peers of connections that were cut that are listed; `--json` lists more.
const MOST_LISTED: usize = 10;

/// One connection, as a cell of a table; `-` if nothing was done and nothing hinders it.
pub(super) fn cell(flow: &FlowStatus) -> String {
    match (flow.retire, flow.barrier) {
        (Some(FlowRetired::FinSent), _) if flow.fin_raced => "FIN sent, raced".into(),
        (Some(FlowRetired::FinSent), _) => "FIN sent".into(),
        (Some(FlowRetired::ToldByHeader), _) => "told (header)".into(),
        (Some(FlowRetired::ToldByGoaway), _) => "told (GOAWAY)".into(),
        (None, Some(barrier)) => format!("cannot: {}", words(barrier)),
        (None, None) if flow.class != FlowClass::Counted => flow.class.as_str().into(),
        (None, None) => "-".into(),
    }
}

fn words(barrier: FlowBarrier) -> &'static str {
    match barrier {
        FlowBarrier::Tls => "TLS",
        FlowBarrier::Ktls => "kTLS",
        FlowBarrier::Mptcp => "MPTCP",
        FlowBarrier::ZeroCopy => "zero-copy",
        FlowBarrier::Foreign => "foreign sockmap",
        FlowBarrier::Upgraded => "upgraded",
        FlowBarrier::UnknownProtocol => "unknown protocol",
        FlowBarrier::Refused => "refused by the kernel",
    }
}

/// What becomes of new connections, in a line; `None` if they are refused, or still served, as usual.
pub(super) fn handed_over(service: &ServiceStatus) -> Option<String> {
    let drain = service.drain.as_ref()?;
    if drain.new.takes_stragglers() {
        let is_closed = !matches!(service.state, StateName::Serving | StateName::Settling);
        let untaken = format!(
            "{}: the agent cannot do that just now; new connections are refused",
            drain.new
        );
        return (is_closed && drain.takers == 0).then_some(untaken);
    }
    drain.new.handoff()?;
    Some(match drain.takers {
        0 => format!("nothing listens at {}: new connections are refused", drain.new),
        takers => format!(
            "{}: {} new connections were given to {takers} listening sockets, {} are there",
            drain.new, drain.handed_over, service.steered
        ),
    })
}

/// All connections of a draining service, in a line; `None` if nothing was asked for.
pub(super) fn summary(service: &ServiceStatus) -> Option<String> {
    let retire = &service.drain.as_ref()?.retire;
    if retire.what.is_empty() && retire.aborted == 0 {
        return None;
    }
    let mut line = format!("{} told", retire.told());
    if retire.told() > 0 {
        line += &format!(" ({} header, {} GOAWAY)", retire.told_by_header, retire.told_by_goaway);
    }
    line += &format!(", {} FIN", retire.fin_sent);
    if retire.fin_raced > 0 {
        line += &format!(" ({} raced)", retire.fin_raced);
    }
    line += &format!(", {} gone by themselves, {} aborted", retire.left, retire.aborted);
    let untellable = untellable(&retire.untellable);
    if !untellable.is_empty() {
        line += &format!("; cannot be told: {untellable}");
    }
    if let Some(lacks) = &retire.lacks {
        line += &format!("; nobody can be told here: {lacks}");
    }
    Some(line)
}

fn untellable(flows: &UntellableFlows) -> String {
    let some = flows.by_reason().into_iter().filter(|(_, flows)| *flows > 0);
    some.map(|(barrier, flows)| format!("{flows} {}", words(barrier)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Connections told to leave, and connections reset at the deadline, of all these services.
pub(super) fn told_and_cut<'a>(services: impl Iterator<Item = &'a ServiceStatus>) -> (u64, u64) {
    reports(services)
        .fold((0, 0), |(told, cut), retire| (told + retire.told(), cut + retire.aborted))
}

/// Whose connections were reset at the deadline, in a line; `None` if none was.
pub(super) fn cut<'a>(services: impl Iterator<Item = &'a ServiceStatus>) -> Option<String> {
    let (mut count, mut peers) = (0, Vec::new());
    for retire in reports(services) {
        count += retire.aborted;
        peers.extend(retire.cut.iter().map(String::as_str).take(MOST_LISTED - peers.len()));
    }
    let hidden = count.saturating_sub(peers.len() as u64);
    let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
    (count > 0).then(|| format!("cut at the deadline: {}{more}", peers.join(", ")))
}

/// What the person on call should know although the drain went on: lost races, and a machine that can tell
/// nobody.
pub(super) fn remarks(service: &ServiceStatus) -> Vec<String> {
    let Some(RetireStatus { fin_raced, lacks, .. }) = service.drain.as_ref().map(|d| &d.retire)
    else {
        return Vec::new();
    };
    let raced = (*fin_raced > 0).then(|| {
        format!(
            "port {}: {} sent something after our FIN: a request may have been executed without an answer",
            service.port,
            text::count(*fin_raced, "client")
        )
    });
    let lacks = lacks.as_ref().map(|lacks| {
        format!("port {}: nobody could be told to leave on this machine: {lacks}", service.port)
    });
    raced.into_iter().chain(lacks).collect()
}

fn reports<'a>(
    services: impl Iterator<Item = &'a ServiceStatus>,
) -> impl Iterator<Item = &'a RetireStatus> {
    services.filter_map(|service| service.drain.as_ref()).map(|drain| &drain.retire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::protocol::{RetireKind, StateName},
        cli::fake::{flow, service},
    };

    fn retiring(retire: RetireStatus) -> ServiceStatus {
        let mut service = service(8080, StateName::Rejecting);
        service.drain.as_mut().unwrap().retire = retire;
        service
    }

    #[test]
    fn cells() {
        use FlowBarrier::{
            Foreign, Ktls, Mptcp, Refused, Tls, UnknownProtocol, Upgraded, ZeroCopy,
        };
        use FlowRetired::{FinSent, ToldByGoaway, ToldByHeader};
        let table = [
            (None, None, "-"),
            (Some(ToldByHeader), None, "told (header)"),
            (Some(ToldByGoaway), None, "told (GOAWAY)"),
            (Some(FinSent), Some(Tls), "FIN sent"),
            (None, Some(Tls), "cannot: TLS"),
            (None, Some(Ktls), "cannot: kTLS"),
            (None, Some(Mptcp), "cannot: MPTCP"),
            (None, Some(ZeroCopy), "cannot: zero-copy"),
            (None, Some(Foreign), "cannot: foreign sockmap"),
            (None, Some(Upgraded), "cannot: upgraded"),
            (None, Some(UnknownProtocol), "cannot: unknown protocol"),
            (None, Some(Refused), "cannot: refused by the kernel"),
        ];
        for (retire, barrier, words) in table {
            assert_eq!(cell(&FlowStatus { retire, barrier, ..flow() }), words);
        }
        let ignored = FlowStatus { class: FlowClass::Ignored, ..flow() };
        assert_eq!(cell(&ignored), "ignored");
        let raced = FlowStatus { retire: Some(FinSent), fin_raced: true, ..flow() };
        assert_eq!(cell(&raced), "FIN sent, raced");
    }

    #[test]
    fn summaries() {
        let what = vec![RetireKind::Http, RetireKind::Idle];
        let begun = RetireStatus { what, ..RetireStatus::default() };
        let told = RetireStatus {
            told_by_header: 9,
            told_by_goaway: 3,
            fin_sent: 4,
            left: 30,
            untellable: UntellableFlows { tls: 2, ..UntellableFlows::default() },
            ..begun.clone()
        };
        let mut raced = RetireStatus { fin_raced: 1, aborted: 5, ..told.clone() };
        raced.untellable.foreign = 1;
        let unable = RetireStatus { lacks: Some("no bpf_loop".into()), ..begun.clone() };
        let cut_only = RetireStatus { aborted: 2, ..RetireStatus::default() };
        #[rustfmt::skip]
        let table = [
            (RetireStatus::default(), None),
            (begun, Some("0 told, 0 FIN, 0 gone by themselves, 0 aborted")),
            (told, Some("12 told (9 header, 3 GOAWAY), 4 FIN, 30 gone by themselves, 0 aborted; \
                         cannot be told: 2 TLS")),
            (raced, Some("12 told (9 header, 3 GOAWAY), 4 FIN (1 raced), 30 gone by themselves, 5 aborted; \
                          cannot be told: 2 TLS, 1 foreign sockmap")),
            (unable, Some("0 told, 0 FIN, 0 gone by themselves, 0 aborted; nobody can be told here: no bpf_loop")),
            (cut_only, Some("0 told, 0 FIN, 0 gone by themselves, 2 aborted")),
        ];
        for (retire, line) in table {
            assert_eq!(summary(&retiring(retire)).as_deref(), line);
        }
        assert_eq!(summary(&service(80, StateName::Serving)), None);
    }

    #[test]
    fn whose_connections_were_cut() {
        let of = |aborted, listed: u16| {
            let cut = (1..=listed).map(|port| format!("10.0.0.7:{port}")).collect();
            retiring(RetireStatus { aborted, cut, ..RetireStatus::default() })
        };
        let line = |services: &[ServiceStatus]| cut(services.iter());
        assert_eq!(line(&[of(0, 0)]), None);
        let two = "cut at the deadline: 10.0.0.7:1, 10.0.0.7:1";
        assert_eq!(line(&[of(1, 1), of(1, 1)]).as_deref(), Some(two));
        let many = line(&[of(8, 8), of(300, 100)]).unwrap();
        assert!(many.ends_with("10.0.0.7:8, 10.0.0.7:1, 10.0.0.7:2 and 298 more"), "{many}");
        assert_eq!(told_and_cut([of(8, 8), of(300, 100)].iter()), (0, 308));
    }

    #[test]
    fn remarks_are_made_where_there_is_something_to_say() {
        assert_eq!(remarks(&retiring(RetireStatus::default())), [""; 0]);
        let raced = RetireStatus { fin_raced: 1, ..RetireStatus::default() };
        assert!(remarks(&retiring(raced))[0].starts_with("port 8080: 1 client sent something"));
        let unable = RetireStatus { lacks: Some("no bpf_loop".into()), ..RetireStatus::default() };
        assert!(remarks(&retiring(unable))[0].ends_with("on this machine: no bpf_loop"));
    }
}
