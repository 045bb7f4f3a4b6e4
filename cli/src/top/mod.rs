//! `top`: locks and semaphores, live.
//!
//! What is shown is decided by [`state`] and [`view`], which do no I/O. This file reads keys and servers.

mod state;
mod view;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use lockkeeper::Keeper;
use lockkeeper::error::QueryError;
use lockkeeper::inspect::{InspectError, Inventory};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use self::state::{Key, State};
use crate::connect::Connection;
use crate::exit::{Exit, Failure, written};
use crate::list::{check_prefix, check_readable, json};

/// Show locks and semaphores, live
///
/// Up and Down select, Enter shows the queue of what is selected, s sorts by the next column, r turns the order round,
/// q ends.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper top /locks
  lockkeeper top --json | jq -c '[.places[].waiters] | add'    one line each time")]
pub struct TopArgs {
    /// Where to begin
    #[arg(default_value = "/", value_name = "PREFIX")]
    prefix: String,

    /// How often to read
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = humantime::parse_duration)]
    every: Duration,

    /// Write a line of JSON each time, as `ls` does
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub async fn top(args: &TopArgs) -> Result<Exit, Failure> {
    check_prefix(&args.prefix)?;
    if args.every < SHORTEST {
        return Err(Failure::usage(format!(
            "--every must be at least {SHORTEST:?}: the servers answer each time"
        )));
    }
    let at_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !args.json && !at_terminal {
        return Err(Failure::usage("there is no terminal: use --json, or `lockkeeper ls`"));
    }
    let keeper = args.connection.connect().await?;
    let (sender, found) = watch::channel(Ok(Inventory::default()));
    let reading = tokio::spawn(read(keeper.clone(), args.prefix.clone(), args.every, sender));
    let done = match args.json {
        true => lines(&args.prefix, found).await,
        false => screen(args, found).await,
    };
    reading.abort();
    keeper.close().await;
    done
}

const SHORTEST: Duration = Duration::from_millis(100);

type Found = Result<Inventory, InspectError>;

/// Reads again and again. Nodes that are known are not read again, so that a long queue costs one list.
async fn read(keeper: Keeper, prefix: String, every: Duration, found: watch::Sender<Found>) {
    let inspector = keeper.inspector();
    let mut known = Inventory::default();
    loop {
        let read = inspector.walk_again(&prefix, known.clone()).await;
        known = read.as_ref().cloned().unwrap_or_default();
        if found.send(read).is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

async fn lines(prefix: &str, mut found: watch::Receiver<Found>) -> Result<Exit, Failure> {
    while found.changed().await.is_ok() {
        let read = found.borrow_and_update().clone();
        match read {
            Ok(inventory) => {
                check_readable(&inventory, prefix)?;
                let mut out = io::stdout().lock();
                let line = writeln!(out, "{}", json::list(&inventory, SystemTime::now()));
                if let Err(error) = line.and_then(|()| out.flush()) {
                    return written(Err(error), Exit::Success);
                }
            }
            // The keeper connects again.
            Err(InspectError::Query(QueryError::Disconnected | QueryError::Unanswered { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exit::Success)
}

async fn screen(args: &TopArgs, mut found: watch::Receiver<Found>) -> Result<Exit, Failure> {
    // They must not leave the terminal as it is now.
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut terminal = ratatui::try_init()?;
    let mut events = events();
    let mut state = State::new(&args.prefix, &args.connection.servers);
    let done = loop {
        let drawn = terminal.draw(|frame| view::draw(frame, &mut state, SystemTime::now()));
        if let Err(error) = drawn {
            break Err(error.into());
        }
        tokio::select! {
            changed = found.changed() => match changed {
                Ok(()) => state.read(found.borrow_and_update().clone()),
                Err(_) => break Ok(Exit::Success),
            },
            event = events.recv() => match event {
                Some(event) if state.press(event) => {}
                Some(_) | None => break Ok(Exit::Success),
            },
            _ = terminated.recv() => break Ok(Exit::Signal(Signal::TERM.as_raw())),
            _ = hung_up.recv() => break Ok(Exit::Signal(Signal::HUP.as_raw())),
            // Ages grow, also while nothing is read.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    ratatui::restore();
    done
}

/// The keys that are pressed. A new size of the terminal is one, too: it only needs a redraw.
fn events() -> mpsc::UnboundedReceiver<Key> {
    let (sender, keys) = mpsc::unbounded_channel();
    // Reading blocks. The thread ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.kind == KeyEventKind::Release => continue,
                Event::Key(key) if key.modifiers.contains(KeyModifiers::CONTROL) => match key.code {
                    KeyCode::Char('c') => Key::Quit,
                    _ => continue,
                },
                Event::Key(key) => match key.code {
                    KeyCode::Up | KeyCode::Char('k') => Key::Up,
                    KeyCode::Down | KeyCode::Char('j') => Key::Down,
                    KeyCode::PageUp => Key::PageUp,
                    KeyCode::PageDown => Key::PageDown,
                    KeyCode::Home => Key::First,
                    KeyCode::End => Key::Last,
                    KeyCode::Enter => Key::Detail,
                    KeyCode::Char('s') => Key::Sort,
                    KeyCode::Char('r') => Key::Reverse,
                    KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
                    _ => continue,
                },
                Event::Resize(..) => Key::Redraw,
                _ => continue,
            };
            if sender.send(key).is_err() {
                return;
            }
        }
    });
    keys
}
