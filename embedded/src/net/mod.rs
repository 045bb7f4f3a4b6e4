//! The driver: it connects sockets and timers to the machine. It makes no decisions about the protocol.

mod connection;
mod link;
mod shared;
mod target;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tracing::{debug, warn};

use crate::machine::Config;
use crate::options::Options;

pub(crate) use link::Cut;
pub(crate) use shared::{MAX_DURATION, Shared};
pub use target::Target;

/// A command for the listening task. Everything else goes through [`Shared`].
pub(crate) enum Command {
    TakeDown(oneshot::Sender<()>),
    BringUp(oneshot::Sender<io::Result<()>>),
    ShutDown(Option<oneshot::Sender<()>>),
}

/// What [`spawn`] returns for a started server.
pub(crate) type Started = (SocketAddr, Arc<Shared>, mpsc::UnboundedSender<Command>);

/// Starts the thread of a server. The thread reports on `ready` whether it is listening.
pub(crate) fn spawn(
    options: Options,
    ready: oneshot::Sender<io::Result<Started>>,
) -> io::Result<JoinHandle<()>> {
    // The thread makes its own runtime: if there is no thread, a runtime could not be dropped here, in the caller's.
    let run = move || match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(options, ready)),
        Err(error) => {
            // An error means that the caller has stopped waiting.
            let _ = ready.send(Err(error));
        }
    };
    thread::Builder::new().name("embedded-zookeeper".into()).spawn(run)
}

async fn run(options: Options, ready: oneshot::Sender<io::Result<Started>>) {
    let (listener, address) =
        match bind(options.address).and_then(listen).and_then(|l| Ok((l.local_addr()?, l))) {
            Ok((address, listener)) => (listener, address),
            Err(error) => {
                // An error means that the caller has stopped waiting.
                let _ = ready.send(Err(error));
                return;
            }
        };
    let shared = Arc::new(Shared::new(config(&options, address)));
    let (sender, commands) = mpsc::unbounded_channel();
    let stopped = if ready.send(Ok((address, Arc::clone(&shared), sender))).is_ok() {
        serve(&shared, listener, address, commands).await
    } else {
        None
    };
    shared.take_down();
    // The connections' tasks now reset their sockets. Tasks that take too long are dropped with the runtime.
    time::timeout(Duration::from_millis(200), shared.all_closed()).await.ok();
    // The controls can outlive the server.
    shared.reset();
    if let Some(stopped) = stopped {
        let _ = stopped.send(());
    }
}

/// Accepts connections and drives the machine's timers until it is told to shut down. Returns the channel on which to
/// confirm the shutdown, if any.
async fn serve(
    shared: &Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> Option<oneshot::Sender<()>> {
    let mut listener = Some(listener);
    // While the server is down, this socket is bound but does not listen. It refuses connections and keeps other
    // processes from taking the port.
    let mut reserved: Option<TcpSocket> = None;
    loop {
        let wake = shared.next_wake();
        tokio::select! {
            command = commands.recv() => match command {
                None => return None,
                Some(Command::ShutDown(stopped)) => return stopped,
                Some(Command::TakeDown(done)) => {
                    if listener.take().is_some() {
                        // Bind before the clients are disconnected: otherwise a reconnecting client could be
                        // assigned this port as its local port.
                        reserved = bind(address)
                            .inspect_err(|error| {
                                warn!(%error, "could not reserve the port, another process may take it");
                            })
                            .ok();
                    }
                    shared.take_down();
                    shared.all_closed().await;
                    let _ = done.send(());
                }
                Some(Command::BringUp(done)) => {
                    let result = match &listener {
                        Some(_) => Ok(()),
                        None => listen_again(reserved.take(), address).await.map(|new| {
                            shared.bring_up();
                            listener = Some(new);
                        }),
                    };
                    let _ = done.send(result);
                }
            },
            accepted = accept(&listener), if !shared.is_paused() => match accepted {
                Ok((stream, peer)) => connection::spawn(shared, stream, peer),
                Err(error) => {
                    // Most likely the process is out of file descriptors, so wait a little before the next attempt.
                    warn!(%error, "could not accept a connection, trying again");
                    time::sleep(Duration::from_millis(20)).await;
                }
            },
            () = sleep(wake) => shared.pass_time(),
            // The next wake-up may have changed.
            () = shared.wake_changed() => {}
        }
    }
}

/// Listens on the port of a listener that was closed. A process that is just being started, by any thread of this one, has
/// a copy of that listener until it runs its program. So a port that is in use is tried again for a second.
async fn listen_again(reserved: Option<TcpSocket>, address: SocketAddr) -> io::Result<TcpListener> {
    let mut result = reserved.map_or_else(|| bind(address), Ok).and_then(listen);
    for _ in 0..50 {
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
        time::sleep(Duration::from_millis(20)).await;
        result = bind(address).and_then(listen);
    }
    result
}

async fn accept(listener: &Option<TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that is brought back up must be able to bind its port while old connections linger on it. Only on Unix:
    // elsewhere this option would let two servers share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    let listener = socket.listen(4096)?;
    debug!(address = ?listener.local_addr(), "listening");
    Ok(listener)
}

fn config(options: &Options, address: SocketAddr) -> Config {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (min_session_timeout, max_session_timeout) = options.session_timeouts();
    Config {
        tick: options.tick,
        min_session_timeout,
        max_session_timeout,
        container_check: options.container_check,
        extended_types: options.extended_types,
        super_digest: options.super_digest.clone(),
        handshake_timeout: options.handshake_timeout,
        client_port: address.port(),
        wall_clock: now,
        // This is the only public source of randomness in the standard library.
        secret: RandomState::new().build_hasher().finish(),
    }
}
