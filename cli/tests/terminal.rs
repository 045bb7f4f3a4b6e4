//! A terminal session: job control of `run`, what it shows while it waits, and `top`.

mod common;

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex};

use common::{SOON, connect, eventually, ignoring_no_signal, run, shared, unique_path};
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

/// A program at a terminal.
struct Session {
    terminal: Arc<Pty>,
    /// What the terminal shows, and all that was written to it.
    screen: Arc<Mutex<(vt100::Parser, String)>>,
    program: Child,
}

impl Session {
    fn start(program: &str, arguments: &[&str], (rows, columns): (u16, u16)) -> Session {
        let (pty, terminal) = open().expect("a terminal");
        pty.resize(Size::new(rows, columns)).expect("resized");
        let program = ignoring_no_signal(program);
        let command = Command::new(program[0]).args(&program[1..]).args(arguments);
        let command = command.env("TERM", "xterm").env("PS1", "ready> ").env("ENV", "");
        let command = command.env("LOCKKEEPER_SERVERS", shared().address()).env("NO_COLOR", "1");
        let command = command.env("LOCKKEEPER_SESSION_TIMEOUT", "20s");
        let program = command.spawn(terminal).expect("it starts");
        let pty = Arc::new(pty);
        let screen = Arc::new(Mutex::new((vt100::Parser::new(rows, columns, 0), String::new())));
        let (reader, shown) = (pty.clone(), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose last program has ended cannot be read.
            while let Ok(count @ 1..) = (&*reader).read(&mut bytes) {
                let (parser, all) = &mut *shown.lock().expect("no panic");
                parser.process(&bytes[..count]);
                all.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Session { terminal: pty, screen, program }
    }

    fn shell() -> Session {
        Session::start("sh", &["-i", "-m"], (24, 200))
    }

    fn types(&self, text: &str) {
        (&*self.terminal).write_all(text.as_bytes()).expect("written");
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("no panic").0.screen().contents()
    }

    fn written(&self) -> String {
        self.screen.lock().expect("no panic").1.clone()
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().expect("no panic").0.set_size(rows, columns);
        self.terminal.resize(Size::new(rows, columns)).expect("resized");
    }

    async fn shows(&self, text: &str) {
        let shown = async || self.written().contains(text);
        if tokio::time::timeout(SOON, eventually(text, SOON * 2, shown)).await.is_err() {
            panic!("it should show {text:?}:\n{}", self.screen());
        }
    }

    async fn shows_on_screen(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let shown = async || condition(&self.screen());
        if tokio::time::timeout(SOON, eventually(what, SOON * 2, shown)).await.is_err() {
            panic!("it should show {what}:\n{}", self.screen());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

const LOCKKEEPER: &str = env!("CARGO_BIN_EXE_lockkeeper");

#[test]
fn the_command_has_the_terminal_and_the_shell_gets_it_back() {
    run(async {
        let (shell, path) = (Session::shell(), unique_path("cli-terminal"));
        shell.types(&format!(
            "{LOCKKEEPER} run {path} -- sh -c 'echo run\"\"ning; read line; echo got-$line'\n"
        ));
        shell.shows("running").await;
        shell.types("hello\n");
        shell.shows("got-hello").await;
        shell.types("echo code-$?\n");
        shell.shows("code-0").await;
    });
}

#[test]
fn control_c_ends_the_command_and_the_exit_code_tells() {
    run(async {
        let (shell, path) = (Session::shell(), unique_path("cli-interrupt"));
        shell
            .types(&format!("{LOCKKEEPER} run --again {path} -- sh -c 'echo run\"\"ning; exec sleep 300'\n"));
        shell.shows("running").await;
        interrupt(&shell).await;
        let left = connect().await.inspector().look(&path).await;
        assert_eq!(left.expect("read"), None, "it has released");
    });
}

/// Ctrl-C returns to the shell, which sees that.
async fn interrupt(shell: &Session) {
    shell.types("\x03");
    shell.shows_on_screen("the prompt", |screen| screen.trim_end().ends_with("ready>")).await;
    shell.types("echo code-$?\n");
    shell.shows("code-130").await;
}

#[test]
fn control_c_ends_a_loop_of_the_shell() {
    run(async {
        let (shell, path) = (Session::shell(), unique_path("cli-loop"));
        let script = "echo run\"\"ning; exec sleep 300";
        shell.types(&format!("while :; do {LOCKKEEPER} run {path} -- sh -c '{script}'; done\n"));
        shell.shows("running").await;
        interrupt(&shell).await;
    });
}

#[test]
fn control_z_stops_the_whole_job_and_fg_continues_it() {
    run(async {
        let (shell, path) = (Session::shell(), unique_path("cli-stop"));
        let script =
            "trap \"echo con\"tinued CONT; echo run\"\"ning; while :; do read line && echo got-$line; done";
        shell.types(&format!("{LOCKKEEPER} run {path} -- sh -c '{script}'\n"));
        shell.shows("running").await;
        shell.types("\x1a");
        shell.shows("Stopped").await;
        shell.types("echo the-shell-$((40 + 2))\n");
        shell.shows("the-shell-42").await;
        shell.types("fg\n");
        shell.shows("continued").await;
        shell.types("hello\n");
        shell.shows("got-hello").await;
        interrupt(&shell).await;
    });
}

#[test]
fn another_program_of_a_pipeline_can_use_the_terminal() {
    run(async {
        let (shell, path) = (Session::shell(), unique_path("cli-pipeline"));
        // As a pager does, the other program reads keys while the command runs.
        let pager = "sh -c 'read line; echo pager-$line; read key < /dev/tty; echo key-$key'";
        shell.types(&format!("{LOCKKEEPER} run {path} -- sh -c 'echo piped; sleep 300' | {pager}\n"));
        shell.shows("pager-piped").await;
        shell.types("x\n");
        shell.shows("key-x").await;
        shell.types("\x03");
        shell.shows_on_screen("the prompt", |screen| screen.trim_end().ends_with("ready>")).await;
        // A command that wants to read gets the terminal.
        shell.types(&format!(
            "{LOCKKEEPER} run {path} -- sh -c 'read line < /dev/tty; echo got-$line' | cat\n"
        ));
        shell.types("hello\n");
        shell.shows("got-hello").await;
    });
}

#[test]
fn a_log_can_be_written_to_the_terminal() {
    run(async {
        let path = unique_path("cli-log");
        let mut session = Session::start(
            LOCKKEEPER,
            &["-v", "run", &path, "--", "sh", "-c", "echo it-has-$((6*7))"],
            (24, 200),
        );
        session.shows("INFO").await;
        session.shows("it-has-42").await;
        assert_eq!(common::ended("it ends", &mut session.program).await, Some(0));
    });
}

#[test]
fn who_waits_sees_who_is_ahead() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-ahead"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let session = Session::start(LOCKKEEPER, &["run", &path, "--", "echo", "my turn"], (24, 200));
        session.shows("the test is first, for").await;
        session.shows("1 ahead").await;
        guard.release().await.expect("released");
        session.shows_on_screen("its turn only", |screen| screen.trim() == "my turn").await;
    });
}

#[test]
fn who_waits_at_a_narrow_terminal_sees_one_line() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-ahead-narrow"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let session = Session::start(LOCKKEEPER, &["run", &path, "--", "echo", "my turn"], (24, 40));
        let shown = || session.written().matches("waiting for").count();
        eventually("it is shown three times", SOON, async || shown() >= 3).await;
        let is_cut =
            |screen: &str| screen.trim_end().lines().count() == 1 && screen.trim_end().ends_with('…');
        session.shows_on_screen("one line", is_cut).await;
        guard.release().await.expect("released");
        session.shows_on_screen("its turn only", |screen| screen.trim() == "my turn").await;
    });
}

#[test]
fn break_asks_at_a_terminal() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-break-asks"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let node = guard.node().rsplit('/').next().expect("a name").to_owned();
        let session = Session::start(LOCKKEEPER, &["break", &path, &node], (24, 200));
        session.shows("delete it? [y/N]").await;
        session.types("n\n");
        session.shows("nothing was deleted").await;
        assert!(guard.is_held());
        let session = Session::start(LOCKKEEPER, &["break", &path, &node], (24, 200));
        session.shows("which is alive").await;
        session.shows("delete it? [y/N]").await;
        session.types("y\n");
        guard.lost().await;
    });
}

#[test]
fn top_follows_keys_and_the_size_of_the_terminal() {
    run(async {
        let (keeper, root) = (connect().await, unique_path("cli-top"));
        let mut guards = Vec::new();
        for name in ["one", "two", "three"] {
            let lock = keeper.lock(&format!("{root}/{name}")).expect("a path");
            guards.push(lock.acquire().await.expect("free"));
        }
        let waiting = keeper.lock(&format!("{root}/two")).expect("a path");
        let waiting = tokio::spawn(async move { drop(waiting.acquire().await) });
        let top = Session::start(LOCKKEEPER, &["top", "--every", "100ms", &root], (20, 120));
        // The one with a waiter comes first.
        let first = format!("{root}/two");
        top.shows_on_screen("three places", |screen| {
            let row = screen.lines().nth(2).unwrap_or_default();
            screen.contains("3 places, 1 waiters") && row.starts_with(&first)
        })
        .await;
        top.types("\r");
        top.shows_on_screen("the queue", |screen| {
            screen.contains("2 in the queue") && screen.contains("waits for #0")
        })
        .await;
        drop(guards.pop());
        top.shows_on_screen("a change", |screen| screen.contains("2 places")).await;
        top.resize(12, 60);
        top.shows_on_screen("the new size", |screen| {
            screen.lines().nth(11).is_some_and(|line| line.contains("q quit"))
                && screen.contains("2 in the queue")
        })
        .await;
        top.types("q");
        let mut top = top;
        eventually("it ends", SOON, async || top.program.try_wait().expect("it can be asked").is_some())
            .await;
        waiting.abort();
    });
}

#[test]
fn top_leaves_the_terminal_as_it_was_when_it_is_ended() {
    run(async {
        let mut top = Session::start(LOCKKEEPER, &["top"], (20, 120));
        top.shows_on_screen("the title", |screen| screen.contains("lockkeeper top")).await;
        let process = rustix::process::Pid::from_child(&top.program);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("it runs");
        assert_eq!(common::ended("it ends", &mut top.program).await, Some(128 + 15));
        top.shows("\x1b[?1049l").await;
    });
}
