//! The command line.

use std::{
    io::{IsTerminal, stderr, stdout},
    process::ExitCode,
};

use drainctl_agent::cli::{Streams, run};

fn main() -> ExitCode {
    let live = stderr().is_terminal();
    let mut streams = Streams { out: &mut stdout(), err: &mut stderr(), live };
    run(std::env::args_os(), &mut streams).into()
}
