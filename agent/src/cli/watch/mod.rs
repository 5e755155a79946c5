//! `drainctl watch`: services and drains as they change, on a terminal. Here is what talks to the agent and to the
//! terminal; `state` says what is to be seen, and `draw` how.
//!
//! It asks again and again, and leaves the event stream alone: whoever reads that keeps the leases of drains alive.

mod draw;
mod rates;
mod state;

use std::{
    io::{IsTerminal, stdin, stdout},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use self::state::{Flows, Key, Screen, Then};
use super::{
    args::StatusArgs,
    client::Client,
    exit::{Exit, Failure},
    flows, services,
    target::Target,
};
use crate::api::protocol::ServiceList;

/// Between an answer and the next question.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the window is still wanted, while no key is pressed.
const KEYS_EVERY: Duration = Duration::from_millis(200);

/// What the agent has said.
struct Answer {
    list: ServiceList,
    /// The connections of the chosen service.
    flows: Flows,
}

/// Runs the verb, until somebody has seen enough.
///
/// # Errors
/// There is no terminal (2), or as the agent says when it is asked for the first time.
pub(super) async fn run(args: &StatusArgs, client: &Client, json: bool) -> Result<Exit, Failure> {
    if json || !stdin().is_terminal() || !stdout().is_terminal() {
        let what = if json { "is for people" } else { "needs a terminal, and this is none" };
        let message = format!("drainctl watch {what}; programs ask `drainctl status --json`");
        return Err(Failure::new(Exit::Usage, message));
    }
    let watched = Watched { target: Target::find(&args.target)?, args, client };
    let first = watched.ask(None).await?;
    let mut screen = Screen::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    screen.answered(first.list.services, first.flows, Instant::now());
    let mut signals = Signals::new().map_err(|error| internal("watch for signals", &error))?;
    let mut window = Window::open().map_err(|error| internal("draw on the terminal", &error))?;
    let exit = watch(&watched, &mut screen, &mut window.0, &mut signals).await;
    drop(window);
    exit.map_err(|error| internal("draw on the terminal", &error))
}

fn internal(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("cannot {what}: {error}"))
}

async fn watch(
    watched: &Watched<'_>,
    screen: &mut Screen,
    terminal: &mut DefaultTerminal,
    signals: &mut Signals,
) -> std::io::Result<Exit> {
    let mut keys = keys();
    let mut asking = Box::pin(watched.ask_later(screen.chosen().map(str::to_owned), EVERY));
    loop {
        terminal.draw(|frame| draw::screen(screen, frame, Instant::now()))?;
        tokio::select! {
            answer = &mut asking => {
                match answer {
                    Ok(Answer { list, flows }) => screen.answered(list.services, flows, Instant::now()),
                    Err(failure) => screen.lost(failure.message),
                }
                asking.set(watched.ask_later(screen.chosen().map(str::to_owned), EVERY));
            }
            key = keys.recv() => match key {
                None => return Ok(Exit::Done),
                Some(Pressed::Resized) => {}
                Some(Pressed::Key(key)) => match screen.press(key) {
                    Then::Quit => return Ok(Exit::Done),
                    Then::GoOn => {}
                    Then::Ask => {
                        asking.set(watched.ask_later(screen.chosen().map(str::to_owned), Duration::ZERO));
                    }
                },
            },
            () = signals.asked_to_stop() => return Ok(Exit::Interrupted),
            // So that "for 12 s" goes on counting.
            () = sleep(EVERY), if screen.is_lost() => {}
        }
    }
}

/// What is asked for.
struct Watched<'a> {
    target: Target,
    args: &'a StatusArgs,
    client: &'a Client,
}

impl Watched<'_> {
    async fn ask_later(&self, chosen: Option<String>, pause: Duration) -> Result<Answer, Failure> {
        sleep(pause).await;
        self.ask(chosen.as_deref()).await
    }

    async fn ask(&self, chosen: Option<&str>) -> Result<Answer, Failure> {
        let mut list: ServiceList = if self.args.all {
            self.client.get("/v1/services?netns=all").await?
        } else {
            services::list(self.client, &self.target, None).await?
        };
        let ports = &self.args.ports;
        list.services.retain(|service| ports.is_empty() || ports.contains(&service.port));
        let flows = match list.services.iter().find(|each| Some(&*each.id) == chosen) {
            Some(service) => {
                flows::fetch(self.client, service).await.map_err(|error| error.to_string())
            }
            None => Ok(Vec::new()),
        };
        Ok(Answer { list, flows })
    }
}

/// The terminal, as a program that draws needs it. It is as it was before when this is dropped, and when there is a panic.
struct Window(DefaultTerminal);

impl Window {
    fn open() -> std::io::Result<Self> {
        // Has a panic restore it too, before it says what happened.
        ratatui::try_init().map(Self)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        ratatui::restore();
    }
}

/// The signals that end it; Ctrl-C is a key while the terminal is ours, and no signal.
struct Signals([Signal; 4]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        use SignalKind as Kind;
        let kinds = [Kind::terminate(), Kind::hangup(), Kind::interrupt(), Kind::quit()];
        let [terminate, hangup, interrupt, quit] = kinds.map(signal);
        Ok(Self([terminate?, hangup?, interrupt?, quit?]))
    }

    async fn asked_to_stop(&mut self) {
        let [terminate, hangup, interrupt, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

/// What comes from the terminal.
enum Pressed {
    Key(Key),
    Resized,
}

/// Reads the terminal on a thread of its own, which ends with what it sends to, or with the terminal.
fn keys() -> mpsc::UnboundedReceiver<Pressed> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match next() {
                Ok(Some(pressed)) => drop(sender.send(pressed)),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// What comes next; `None` if nothing did for a while, or nothing that matters.
fn next() -> std::io::Result<Option<Pressed>> {
    if !event::poll(KEYS_EVERY)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => known(key).map(Pressed::Key),
        Event::Resize(..) => Some(Pressed::Resized),
        _ => None,
    })
}

fn known(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(letter) => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
