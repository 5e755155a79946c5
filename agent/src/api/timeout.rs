//! How long a drain may take: what was asked for, or what the pod's grace period allows.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::format_duration;

use super::{error::ApiError, protocol::TimeoutFrom};
use crate::{
    drain::{LEAST_GRACE, Spec, SpecRequest},
    pods::{GraceSource, Pod},
};

/// The options of a drain, and where its timeout comes from.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) spec: Spec,
    pub(super) from: TimeoutFrom,
    /// What whoever asked should know, in words.
    pub(super) notes: Vec<String>,
}

/// Validates the options of a drain in this pod, which is known as it is now.
pub(super) fn timed(
    request: SpecRequest,
    pod: Option<&Arc<Pod>>,
    now: SystemTime,
) -> Result<Timed, ApiError> {
    let asked = request.timeout;
    let left = pod.map(|pod| left(pod, now));
    let grace = left.filter(|_| asked.is_none());
    let spec = Spec::try_from(SpecRequest { grace, ..request });
    let spec = spec.map_err(|error| ApiError::usage(error.to_string()))?;
    let (from, note) = match (asked, pod.zip(left)) {
        (None, None) => (TimeoutFrom::Default, None),
        (Some(asked), None) => (TimeoutFrom::Request, too_long(asked, None)),
        (Some(asked), both) => (TimeoutFrom::Request, too_long(asked, both)),
        (None, Some((pod, left))) => {
            let timeout = format_duration(spec.timeout());
            let note =
                format!("--timeout {timeout}: {}, less the server's own time", has(pod, left));
            (pod.grace.source.into(), Some(note))
        }
    };
    Ok(Timed { spec, from, notes: note.into_iter().collect() })
}

/// How long its containers have to stop: from now on, or from when it will be deleted.
fn left(pod: &Pod, now: SystemTime) -> Duration {
    let grace = Duration::from_secs(pod.grace.seconds);
    // By the clock of the API server, which may be ahead of ours: it is never more than the whole.
    let until = pod.deleting.map(|at| at.duration_since(now).unwrap_or_default());
    // The kubelet counts from when it begins to stop them, and from the beginning if it was restarted: with little left
    // by the clock there may be more, and a short drain is better than none.
    let left = until.map_or(grace, |until| until.max(LEAST_GRACE).min(grace));
    Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

fn too_long(asked: Duration, pod: Option<(&Arc<Pod>, Duration)>) -> Option<String> {
    let (pod, left) = pod.filter(|(_, left)| asked > *left)?;
    let asked = format_duration(asked);
    Some(format!(
        "{}, which is less than --timeout {asked}: it is killed before the drain gives up; raise \
         terminationGracePeriodSeconds, or leave out --timeout",
        has(pod, left),
    ))
}

/// In words, with where it is known from.
fn has(pod: &Pod, left: Duration) -> String {
    let source = match pod.grace.source {
        GraceSource::Api => "from the Kubernetes API",
        GraceSource::Cri => "from the container runtime",
        GraceSource::Default => {
            "assumed, since neither the Kubernetes API nor the container runtime says"
        }
    };
    let left = format_duration(left);
    let name = pod.full_name();
    match pod.deleting {
        Some(_) => format!("pod {name} is being deleted and has {left} left to stop ({source})"),
        None => format!("pod {name} has {left} to stop ({source})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Grace;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn pod(seconds: u64, source: GraceSource, deleted_in: Option<i64>) -> Arc<Pod> {
        let at = |secs: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.as_secs().saturating_add_signed(secs))
        };
        Arc::new(Pod {
            namespace: "default".into(),
            name: "web-0".into(),
            grace: Grace { seconds, source },
            deleting: deleted_in.map(at),
            ..Pod::default()
        })
    }

    fn told(
        timeout: Option<u64>,
        pod: Option<Arc<Pod>>,
    ) -> Result<(u64, TimeoutFrom, String), ApiError> {
        let timeout = timeout.map(Duration::from_secs);
        let request = SpecRequest { timeout, ..SpecRequest::default() };
        let timed = timed(request, pod.as_ref(), SystemTime::UNIX_EPOCH + NOW)?;
        Ok((timed.spec.timeout().as_secs(), timed.from, timed.notes.concat()))
    }

    #[test]
    fn the_pods_own_deadline() {
        use GraceSource::{Api, Cri};
        #[rustfmt::skip]
        let table = [
            ("no pod", None, None, 25, TimeoutFrom::Default, ""),
            ("no pod, and asked for", Some(60), None, 60, TimeoutFrom::Request, ""),
            ("the API says so", None, Some(pod(60, Api, None)), 51, TimeoutFrom::Api, "has 1m to stop (from the Kubernetes API)"),
            ("the runtime says so", None, Some(pod(3600, Cri, None)), 3060, TimeoutFrom::Cri, "(from the container runtime)"),
            ("nobody says so", None, Some(pod(30, GraceSource::Default, None)), 25, TimeoutFrom::Assumed, "has 30s to stop (assumed"),
            ("some of it is over", None, Some(pod(60, Api, Some(20))), 15, TimeoutFrom::Api, "being deleted and has 20s left"),
            ("hardly any is left by the clock", None, Some(pod(30, Api, Some(3))), 1, TimeoutFrom::Api, "has 6s left"),
            ("none is, but the kubelet began anew", None, Some(pod(30, Api, Some(-9))), 1, TimeoutFrom::Api, "has 6s left"),
            ("the API's clock is ahead", None, Some(pod(30, Api, Some(500))), 25, TimeoutFrom::Api, "has 30s left"),
            ("asked for, and it fits", Some(30), Some(pod(30, Api, None)), 30, TimeoutFrom::Request, ""),
            ("asked for, and it does not", Some(31), Some(pod(30, Api, None)), 31, TimeoutFrom::Request, "default/web-0 has 30s to stop (from the Kubernetes API), which is less than --timeout 31s"),
        ];
        for (description, asked, pod, timeout, from, note) in table {
            let (got, got_from, notes) = told(asked, pod).expect(description);
            assert_eq!((got, got_from), (timeout, from), "{description}");
            assert!(
                notes.contains(note) && notes.is_empty() == note.is_empty(),
                "{description}: {notes}"
            );
        }
        for too_short in [pod(5, Api, None), pod(0, Api, None), pod(5, Api, Some(3))] {
            assert!(
                format!("{:?}", told(None, Some(too_short))).contains("too little for a drain")
            );
        }
    }

    #[test]
    fn a_short_grace_period_settles_shortly() {
        let timed = timed(
            SpecRequest::default(),
            Some(&pod(6, GraceSource::Api, None)),
            SystemTime::UNIX_EPOCH,
        );
        let spec = timed.expect("a second is left").spec;
        let ms = |time: Duration| time.as_millis();
        let times = (ms(spec.min_settle()), ms(spec.max_settle()), ms(spec.timeout()));
        assert_eq!(times, (600, 600, 1000));
    }
}
