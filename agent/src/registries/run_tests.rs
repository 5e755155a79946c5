//! What is certain of a registry that could not be told.

use super::{super::file::parse, *};
use crate::kernel::{Kernel, fake::FakeKernel};

const WEB: Service = Service { netns: 7, port: 8080 };
/// It cannot be told, and that is certain before anything is sent: it is not known which pod this is.
const FILE: &str = "registries:\n- name: it\n  ports: [8080]\n  retries: 0\n  \
    consul: {url: 'http://127.0.0.1:8500', service-id: 'web-{pod}'}\n";

/// Whether it is certain, after a failure, that the registry believes what it did before the drain.
async fn is_unchanged(told: &[&str]) -> bool {
    let (kernel, _events) = FakeKernel::new();
    kernel.add_netns(WEB.netns);
    let kernel = kernel as Arc<dyn Kernel>;
    let cookie = kernel.netns_cookie(WEB.netns).expect("it exists");
    let registries = Registries::new(parse(FILE).expect("it is valid"), kernel);
    registries.know(crate::pods::Pods::nowhere(1));
    let (_run, stop) = watch::channel(false);
    let (news, mut heard) = mpsc::unbounded_channel();
    let run = Run {
        registries,
        service: WEB,
        netns_cookie: cookie,
        told: told.iter().map(|name| (*name).to_owned()).collect(),
        pod: None,
        stop,
        news,
        number: 1,
    };
    tokio::spawn(run.go(Direction::Announce(Instant::now() + LONGEST_ROUND)));
    loop {
        match heard.recv().await.expect("it ends with news").2 {
            News::Telling { kept, .. } => kept.send(()).expect("it waits"),
            News::Failed { unchanged, .. } => return unchanged,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_that_an_earlier_drain_has_told_is_told_at_the_end_of_this_one_too() {
    assert!(is_unchanged(&[]).await);
    assert!(is_unchanged(&["another"]).await);
    assert!(!is_unchanged(&["it"]).await);
}
