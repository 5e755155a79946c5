use clap::CommandFactory;

use super::*;

#[test]
fn clap_finds_no_fault() {
    Cli::command().debug_assert();
}

#[test]
fn ports_by_comma_and_by_repetition() {
    let cli =
        Cli::try_parse_from(["drainctl", "drain", "--port", "80,443", "--port", "8080"]).unwrap();
    let Verb::Drain(args) = cli.verb else { panic!("not a drain") };
    assert_eq!(args.ports, [80, 443, 8080]);
    assert_eq!(args.if_unreachable, IfUnreachable::Wait(Duration::from_secs(5)));
    assert_eq!(args.quiet, None, "what is left out is the agent's to default");
}

#[test]
fn what_is_to_leave_and_how() {
    let set = |words: &str| {
        let args = ["drainctl", "drain", "--port", "80", "--retire", words];
        let Verb::Drain(args) = Cli::try_parse_from(args).unwrap().verb else { panic!() };
        args.retire.retire.unwrap().to_string()
    };
    for words in ["http", "http1", "idle", "http,idle", "http,idle,quiet", "none"] {
        assert_eq!(set(words), words);
    }
    let args = ["drainctl", "drain", "--port", "80"];
    let Verb::Drain(args) = Cli::try_parse_from(args).unwrap().verb else { panic!() };
    assert_eq!(args.retire.retire, None, "what is left out is the agent's to default");
}

#[test]
fn what_is_wrong_or_not_built_is_a_usage_error() {
    let table: [&[&str]; 21] = [
        &["drain"],
        &["drain", "--port", "0"],
        &["drain", "--port", "70000"],
        &["drain", "--port", "80", "--timeout", "25"],
        &["drain", "--port", "80", "--timeout", "automatic"],
        &["drain", "--port", "80", "--new", "forget"],
        &["drain", "--port", "80", "--new", "handoff=8081"],
        &["drain", "--port", "80", "--retire", "http2"],
        &["drain", "--port", "80", "--at-deadline", "reset"],
        &["drain", "--port", "80", "--ignore", "10.0.0.1/8"],
        &["drain", "--port", "80", "--allow", "localhost"],
        &["drain", "--port", "80", "--pid", "1", "--host"],
        &["drain", "--port", "80", "--pod", "web"],
        &["drain", "--port", "80", "--pod", "default/web", "--host"],
        &["drain", "--port", "80", "--agent", "tcp://127.0.0.1:1"],
        &["drain", "--port", "80", "--cert", "a.pem"],
        &["status", "--all", "--host"],
        &["flows", "--port", "80", "--all"],
        &["wait", "--port", "80"],
        &["watch", "--all", "--host"],
        &["completions"],
    ];
    for args in table {
        let full = std::iter::once("drainctl").chain(args.iter().copied());
        let error = Cli::try_parse_from(full).expect_err(&args.join(" "));
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
}
