//! `break` and `resize`: changes to what is there.

use std::io::{BufRead, IsTerminal, Write};
use std::time::SystemTime;

use clap::Args;
use lockkeeper::error::ResizeError;
use lockkeeper::inspect::{DeleteNodeError, PathState};
use lockkeeper::{FencingToken, Keeper, check_path};

use crate::connect::Connection;
use crate::exit::{Exit, Failure, with_source, written};
use crate::list::identifier;
use crate::text::{age, session};

/// Delete the node of a contender or of a permit whose owner has ended
///
/// Shows the node and its owner, and asks. A node that is gone, or is another one than was shown, is not deleted. If the
/// owner is alive, it notices at a heartbeat, and two may hold the lock until then: end the owner first.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper show /locks/backup      names the nodes
  lockkeeper break /locks/backup 4b2d6a1f9c3e4d08a7550000000000e1__lock__0000000007")]
pub struct BreakArgs {
    /// The path of the lock or semaphore
    #[arg(value_name = "PATH")]
    path: String,

    /// The name of the node
    #[arg(value_name = "NODE")]
    node: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Change the number of permits of a semaphore
///
/// If there are more, requests that wait can proceed. If there are fewer, nobody loses a permit.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper resize /pools/gpu 16")]
pub struct ResizeArgs {
    /// The path of the semaphore
    #[arg(value_name = "PATH")]
    path: String,

    /// The number of permits
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    permits: u32,

    #[command(flatten)]
    connection: Connection,
}

pub async fn break_node(args: &BreakArgs) -> Result<Exit, Failure> {
    check_path(&args.path)?;
    if args.node.contains('/') {
        return Err(Failure::usage("NODE is the name of a node below PATH, without `/`"));
    }
    let asks = !args.yes && std::io::stdin().is_terminal();
    if !args.yes && !asks {
        return Err(Failure::usage(
            "there is no terminal to ask at: check the node with `show`, then give --yes",
        ));
    }
    let keeper = args.connection.connect().await?;
    let done = delete(args, &keeper, asks).await;
    keeper.close().await;
    done
}

async fn delete(args: &BreakArgs, keeper: &Keeper, asks: bool) -> Result<Exit, Failure> {
    let inspector = keeper.inspector();
    let state = inspector.look(&args.path).await?;
    let Some(found) = state.as_ref().and_then(|state| Found::new(state, &args.node)) else {
        return Err(Failure::new(Exit::Failure, format!("{}/{} does not exist", args.path, args.node)));
    };
    let mut out = std::io::stdout();
    let shown = writeln!(out, "{}", found.text);
    // With --yes, nobody has to read it.
    if asks {
        shown?;
        if !confirmed("delete it?").await? {
            return Err(Failure::new(Exit::Failure, "nothing was deleted"));
        }
    }
    match inspector.delete_node(&found.node, found.transaction).await {
        Ok(()) => written(writeln!(out, "deleted"), Exit::Success),
        Err(DeleteNodeError::Failed(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(Exit::Failure, format!("nothing was deleted: {error}"))),
    }
}

/// A node that can be deleted, and what the user has to know of it.
struct Found {
    node: String,
    transaction: FencingToken,
    text: String,
}

impl Found {
    fn new(state: &PathState, name: &str) -> Option<Found> {
        let now = SystemTime::now();
        let queue = state.queue();
        let owner = |id: Option<i64>, created: Option<SystemTime>| match (id, created) {
            (Some(id), _) => format!("session {}, which is alive", session(Some(id))),
            (None, Some(_)) => "no session: it stays when its owner ends".to_owned(),
            (None, None) => "an owner that the server does not show".to_owned(),
        };
        if let Some(entry) = queue.entries.iter().find(|entry| entry.contender.name == name) {
            let what = match entry.waits_for {
                None => "holds, or is about to".to_owned(),
                Some(_) => format!("waits, at position {}", entry.contender.position),
            };
            let who = identifier(&entry.contender.identifier, entry.readable);
            let (age, owner) = (age(entry.created, now), owner(entry.contender.session, entry.created));
            let node = format!("{}/{name}", queue.path);
            let text = format!("node   {node}\nowner  {who}\nstate  {what}, for {age}\nof     {owner}");
            return Some(Found { node, transaction: entry.contender.token, text });
        }
        let PathState::Semaphore(pool) = state else { return None };
        let taken = pool.taken.iter().find(|taken| taken.holder.name == name)?;
        let who = identifier(&taken.holder.identifier, taken.readable);
        let (age, owner) = (age(taken.created, now), owner(taken.holder.session, taken.created));
        let node = format!("{}/{name}", pool.path);
        let text = format!("node   {node}\nowner  {who}\nstate  a permit, taken for {age}\nof     {owner}");
        Some(Found { node, transaction: taken.transaction, text })
    }
}

/// Asks at the terminal. Anything but yes is no.
async fn confirmed(question: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    // The session must be kept meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.map_err(|error| Failure::new(Exit::Failure, error))??;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub async fn resize(args: &ResizeArgs) -> Result<Exit, Failure> {
    check_path(&args.path)?;
    let keeper = args.connection.connect().await?;
    let done = set_permits(args, &keeper).await;
    keeper.close().await;
    done
}

async fn set_permits(args: &ResizeArgs, keeper: &Keeper) -> Result<Exit, Failure> {
    let semaphore = keeper.semaphore_stored(&args.path)?;
    // A typing error must not make a semaphore.
    let Some(before) = semaphore.limit().await? else {
        let message = format!(
            "there is no semaphore at {}: its first user makes it, for example run --permits 1 --of {}",
            args.path, args.permits
        );
        return Err(Failure::new(Exit::Failure, message));
    };
    match semaphore.resize(args.permits).await {
        Ok(()) => {
            let mut out = std::io::stdout();
            let text = format!("{} has {} permits now, and had {before}", args.path, args.permits);
            written(writeln!(out, "{text}"), Exit::Success)
        }
        Err(ResizeError::Failed(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(Exit::Failure, with_source(&error))),
    }
}
