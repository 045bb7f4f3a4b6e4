//! The outputs in `docs/cli.md` are those of the commands. `LOCKKEEPER_WRITE_DOCS=1` writes them there.

mod common;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use common::{SOON, eventually, lockkeeper_at};
use lockkeeper::{Keeper, LockOptions};
use lockkeeper_embedded::Embedded;
use regex::{Captures, Regex};

/// A small cluster in which something of everything happens.
struct Stage {
    server: Embedded,
    keepers: Vec<Keeper>,
}

impl Stage {
    async fn start() -> Stage {
        let options = Embedded::options().tick(Duration::from_millis(200));
        let server = options.max_session_timeout(Duration::from_secs(60)).start().await.expect("a free port");
        let mut stage = Stage { server, keepers: Vec::new() };
        let backup = stage.keeper("backup@db1:4711").await;
        stage.hold(&backup, "/locks/backup").await;
        let other = stage.keeper("backup@db2:815").await;
        stage.wait(&other, "/locks/backup", 2).await;
        stage.share("indexer@web1:300", "/data/index", true, 1).await;
        stage.share("indexer@web2:301", "/data/index", true, 2).await;
        stage.share("reindex@web1:302", "/data/index", false, 3).await;
        let train = stage.keeper("train@gpu1:77").await;
        let pool = train.semaphore("/pools/gpu", 8).expect("a path");
        std::mem::forget(pool.acquire_many(6).await.expect("free"));
        let large = stage.keeper("train@gpu2:78").await;
        tokio::spawn(async move {
            std::mem::forget(large.semaphore("/pools/gpu", 8).expect("a path").acquire_many(4).await);
        });
        stage.queued("/pools/gpu", 1).await;
        let import = stage.keeper("import-7").await;
        let lasting = import.lock_with("/locks/import", LockOptions::new().ephemeral(false)).expect("a path");
        std::mem::forget(lasting.acquire().await.expect("free"));
        // Two that acquire the same paths in another order.
        let (one, two) = (stage.keeper("transfer@pay1:9").await, stage.keeper("transfer@pay2:8").await);
        stage.hold(&one, "/accounts/alice").await;
        stage.hold(&two, "/accounts/bob").await;
        stage.wait(&one, "/accounts/bob", 2).await;
        stage.wait(&two, "/accounts/alice", 2).await;
        stage
    }

    async fn keeper(&mut self, identifier: &str) -> Keeper {
        let options = Keeper::options().session_timeout(Duration::from_secs(20)).identifier(identifier);
        let keeper = options.connect(&self.server.address()).await.expect("should connect");
        self.keepers.push(keeper.clone());
        keeper
    }

    async fn hold(&self, keeper: &Keeper, path: &str) {
        std::mem::forget(keeper.lock(path).expect("a path").acquire().await.expect("free"));
    }

    async fn wait(&self, keeper: &Keeper, path: &str, queued: usize) {
        let lock = keeper.lock(path).expect("a path");
        tokio::spawn(async move { std::mem::forget(lock.acquire().await) });
        self.queued(path, queued).await;
    }

    async fn share(&mut self, identifier: &str, path: &str, reads: bool, queued: usize) {
        let locks = self.keeper(identifier).await.read_write(path).expect("a path");
        tokio::spawn(async move {
            match reads {
                true => std::mem::forget(locks.read().acquire().await),
                false => std::mem::forget(locks.write().acquire().await),
            }
        });
        self.queued(path, queued).await;
    }

    async fn queued(&self, path: &str, count: usize) {
        eventually("they queue", SOON, async || {
            let state = self.keepers[0].inspector().look(path).await.expect("read");
            state.map_or(0, |state| state.queue().entries.len()) == count
        })
        .await;
    }

    /// What a command writes.
    async fn output(&self, arguments: &str) -> String {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        match arguments[0] {
            "top" => self.screen(&arguments).await,
            _ => common::done(lockkeeper_at(&self.server.address(), &arguments)).await.out,
        }
    }

    /// The node names in the document are not the real ones.
    async fn with_real_nodes(&self, arguments: &str) -> String {
        let mut words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        if words[0] == "break" {
            let state = self.keepers[0].inspector().look(&words[2]).await.expect("read").expect("a node");
            words[3] = state.queue().entries[0].contender.name.clone();
        }
        words.join(" ")
    }

    async fn screen(&self, arguments: &[&str]) -> String {
        let (mut pty, terminal) = pty_process::blocking::open().expect("a terminal");
        pty.resize(pty_process::Size::new(18, 110)).expect("resized");
        let command = pty_process::blocking::Command::new(env!("CARGO_BIN_EXE_lockkeeper")).args(arguments);
        let command = command.env("TERM", "xterm").env("LOCKKEEPER_SERVERS", self.server.address());
        let mut program = command.spawn(terminal).expect("it starts");
        let shown = tokio::task::spawn_blocking(move || {
            let (mut screen, mut bytes) = (vt100::Parser::new(18, 110, 0), [0; 4096]);
            let mut until = |text: &str, pty: &mut pty_process::blocking::Pty| {
                while !screen.screen().contents().contains(text) {
                    let count = pty.read(&mut bytes).expect("it goes on");
                    screen.process(&bytes[..count]);
                }
            };
            until("waiters", &mut pty);
            // Keys count once it has the terminal.
            std::io::Write::write_all(&mut pty, b"\r").expect("written");
            until("waits for #0", &mut pty);
            screen.screen().contents()
        });
        let shown = tokio::time::timeout(SOON, shown).await.expect("in time").expect("no panic");
        program.kill().expect("it runs");
        program.wait().expect("it ends");
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        format!("{}\n", lines.join("\n")).replace(&self.server.address(), "127.0.0.1:2181")
    }
}

fn document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

#[test]
fn the_outputs_in_the_document_are_those_of_the_commands() {
    common::run(async {
        let stage = Stage::start().await;
        let text = std::fs::read_to_string(document()).expect("readable");
        let mut written = String::new();
        let mut rest = &*text;
        let mut names = Names::default();
        while let Some((before, block)) = rest.split_once("```text\n$ lockkeeper ") {
            let (block, after) = block.split_once("```\n").expect("the end of the block");
            let arguments = block.lines().next().unwrap_or_default();
            let arguments = stage.with_real_nodes(arguments).await;
            let output = names.replace(&stage.output(&arguments).await);
            let arguments = names.replace(&arguments);
            written += &format!("{before}```text\n$ lockkeeper {arguments}\n{output}```\n");
            rest = after;
        }
        written += rest;
        match std::env::var_os("LOCKKEEPER_WRITE_DOCS") {
            Some(_) => std::fs::write(document(), written).expect("writable"),
            None => assert_eq!(text, written, "run it with LOCKKEEPER_WRITE_DOCS=1"),
        }
    });
}

/// Replaces what differs from run to run, by text of the same width.
#[derive(Default)]
struct Names {
    nodes: Vec<String>,
    tokens: Vec<String>,
    sessions: Vec<String>,
}

impl Names {
    fn replace(&mut self, text: &str) -> String {
        let text = each(text, "[0-9a-f]{32}", &mut self.nodes, |number| {
            format!("4b2d6a1f9c3e4d08a755{:012x}", 0xe1 - number)
        });
        let text = each(&text, r"\b[0-9]{19}\b", &mut self.tokens, |number| {
            format!("{}", 1_839_066_293_330_937_902_u64 + number as u64)
        });
        let text = each(&text, r"\b0x[0-9a-f]{14,16}\b", &mut self.sessions, |number| {
            format!("{:#x}", 0xa3_f00c_20b7_0000_u64 + number as u64)
        });
        let text = replaced(&text, r"\b[0-9]+s\b( {2,})?", |found| match found.get(1) {
            // In a column. On a busy machine it may be ten seconds or more.
            Some(_) => format!("{:<width$}", "7s", width = found[0].len()),
            None => "7s".to_owned(),
        });
        replaced(&text, r"_ms.: [0-9]+", |_| "_ms\": 7000".to_owned())
    }
}

fn each(text: &str, pattern: &str, known: &mut Vec<String>, name: impl Fn(usize) -> String) -> String {
    replaced(text, pattern, |found| {
        let number = known.iter().position(|known| *known == found[0]).unwrap_or_else(|| {
            known.push(found[0].to_owned());
            known.len() - 1
        });
        name(number)
    })
}

fn replaced(text: &str, pattern: &str, by: impl FnMut(&Captures<'_>) -> String) -> String {
    Regex::new(pattern).expect("a pattern").replace_all(text, by).into_owned()
}
