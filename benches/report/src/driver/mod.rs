//! A process that runs contenders of one library, and measures them in the process. Those in other languages are in
//! `drivers`.
//!
//! Reads one request per line from standard input, and answers each with one line: `ok`, with numbers behind it if there
//! are any, or `error` and the reason. Times are nanoseconds of the system's monotonic clock, which all processes share.
//!
//! | request | what it does | answer |
//! |---|---|---|
//! | `connect ADDRESS SESSIONS` | opens sessions, and closes those from before | |
//! | `start PATH CONTENDERS` | contenders acquire and release the lock until `close`. They use the sessions in turn | |
//! | `persist PATH CONTENDERS` | the same, but what fails is tried again. Not go-zookeeper | |
//! | `count` | | cycles so far, and when the last one was complete |
//! | `acquire PATH` | | when the lock was granted |
//! | `release PATH` | | when the release began |
//! | `wait DIRECTORY COUNT` | acquires `DIRECTORY/00000` and so on, each with its own task or thread, and answers at once | |
//! | `close` | ends the contenders, and closes the sessions | |
//! | `strangers DIRECTORY NAME COUNT` | makes a node with this name in `DIRECTORY/00000` and so on. Only the floor | |

mod contenders;
mod mutex;

use std::collections::HashMap;
use std::io;

use futures::future::try_join_all;
use tokio::runtime::Runtime;
use zookeeper_client::{Acls, CreateMode};

use crate::Result;
use crate::floors;
use crate::library::Library;
use crate::monotonic;
use contenders::Contenders;
use mutex::{Held, Session};

/// Serves until standard input ends.
pub fn run(library: Library) -> Result<()> {
    let (runtime, mut driver) = (Runtime::new()?, Driver::new(library));
    for request in io::stdin().lines() {
        let request = request?;
        let words: Vec<&str> = request.split(' ').collect();
        match runtime.block_on(driver.carry_out(&words)) {
            Ok(numbers) => {
                let numbers: String = numbers.iter().map(|number| format!(" {number}")).collect();
                println!("ok{numbers}");
            }
            Err(reason) => println!("error {}", reason.to_string().replace('\n', " ")),
        }
    }
    Ok(())
}

struct Driver {
    library: Library,
    sessions: Vec<Session>,
    contenders: Contenders,
    held: HashMap<String, Held>,
}

impl Driver {
    fn new(library: Library) -> Driver {
        Driver { library, sessions: Vec::new(), contenders: Contenders::default(), held: HashMap::new() }
    }

    async fn carry_out(&mut self, words: &[&str]) -> Result<Vec<u64>> {
        match *words {
            ["connect", address, sessions] => {
                self.close().await;
                let opened = (0..sessions.parse()?).map(|_| Session::open(self.library, address));
                self.sessions = try_join_all(opened).await?;
            }
            [start @ ("start" | "persist"), path, contenders] => {
                self.session()?.make_directory(path).await?;
                let sessions = self.sessions.iter().cycle().take(contenders.parse()?);
                let mutexes = sessions.map(|session| session.mutex(path)).collect::<Result<_>>()?;
                self.contenders.start(mutexes, start == "persist");
            }
            ["count"] => return self.contenders.count(),
            ["acquire", path] => {
                let session = self.session()?;
                session.make_directory(path).await?;
                let mutex = session.mutex(path)?;
                // On a worker thread, like the tasks of a service.
                let acquired = tokio::spawn(async move {
                    let held = mutex.acquire().await?;
                    Result::Ok((held, monotonic()))
                });
                let (held, at) = acquired.await??;
                self.held.insert(path.to_owned(), held);
                return Ok(vec![at]);
            }
            ["release", path] => {
                let held = self.held.remove(path).ok_or("not held")?;
                let released = tokio::spawn(async move {
                    let at = monotonic();
                    held.release().await?;
                    Result::Ok(at)
                });
                return Ok(vec![released.await??]);
            }
            ["wait", directory, count] => {
                for number in 0..count.parse()? {
                    let mutex = self.session()?.mutex(&child(directory, number))?;
                    self.contenders.wait(mutex);
                }
            }
            ["close"] => self.close().await,
            ["strangers", directory, name, count] => {
                self.strangers(directory, name, count.parse()?).await?;
            }
            _ => return Err(format!("no such request: {words:?}").into()),
        }
        Ok(Vec::new())
    }

    fn session(&self) -> Result<&Session> {
        Ok(self.sessions.first().ok_or("not connected")?)
    }

    async fn close(&mut self) {
        self.contenders.end().await;
        self.held.clear();
        for session in self.sessions.drain(..) {
            session.close().await;
        }
    }

    async fn strangers(&self, directory: &str, name: &str, count: usize) -> Result<()> {
        /// Requests that are sent before the first is answered.
        const AT_ONCE: usize = 500;
        let Session::Floor(client) = self.session()? else { return Err("only the floor".into()) };
        let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        floors::make_directory(client, directory).await?;
        let directories: Vec<String> = (0..count).map(|number| child(directory, number)).collect();
        for some in directories.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|directory| floors::make_directory(client, directory))).await?;
            let strangers: Vec<String> = some.iter().map(|directory| format!("{directory}/{name}")).collect();
            try_join_all(strangers.iter().map(|path| client.create(path, b"", &options))).await?;
        }
        Ok(())
    }
}

fn child(directory: &str, number: usize) -> String {
    format!("{directory}/{number:05}")
}
