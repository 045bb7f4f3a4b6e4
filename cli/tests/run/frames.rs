//! A relay that looks at each request of a client before the server does.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::common::shared;

/// What happens to a request.
pub enum Pass {
    /// The server gets it, perhaps changed.
    On,
    /// The server gets neither this one nor a later one. No side is closed.
    Never,
}

/// The code of a request with credentials, at the bytes 4 to 7 of its frame.
pub const AUTH: [u8; 4] = [0, 0, 0, 100];
/// The last bytes of the codes of requests that make nodes.
pub const CREATES: [u8; 4] = [1, 14, 15, 19];

/// The address of a relay to the server. Frames are without their length, and not those that ask for a session.
pub async fn relay_of_frames(look: impl Fn(&mut Vec<u8>) -> Pass + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let look = Arc::new(look);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(shared().one_address()).await else { return };
            let ((requests, to_client), (replies, to_server)) = (client.into_split(), server.into_split());
            let look = look.clone();
            tokio::spawn(async move { relay(requests, to_server, replies, to_client, &*look).await });
        }
    });
    address
}

async fn relay(
    mut requests: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    mut replies: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
    look: &impl Fn(&mut Vec<u8>) -> Pass,
) {
    tokio::spawn(async move { copy(&mut replies, &mut to_client).await });
    let mut is_first = true;
    while let Ok(length) = requests.read_u32().await {
        let mut frame = vec![0; length as usize];
        if requests.read_exact(&mut frame).await.is_err() {
            break;
        }
        // The first one asks for a session. Others have a number, then a code.
        if !is_first {
            if let Pass::Never = look(&mut frame) {
                return std::future::pending().await;
            }
        }
        is_first = false;
        let bytes = [&length.to_be_bytes()[..], &frame].concat();
        if to_server.write_all(&bytes).await.is_err() {
            break;
        }
    }
}
