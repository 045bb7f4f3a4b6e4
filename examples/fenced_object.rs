//! An object store refuses a writer whose lock has ended.
//!
//! The store here is a small in-memory model of what real ones do with `If-Match`: S3, Google Cloud Storage
//! (`x-goog-if-generation-match`) and Azure Blob Storage.
//!
//! `cargo run --example fenced_object` starts a ZooKeeper server in this process; an address after `--` selects a real
//! one.

use std::sync::Mutex;
use std::time::Duration;

use lockkeeper::{FencingToken, Keeper};
use lockkeeper_embedded::{Embedded, Proxy};

const PATH: &str = "/lockkeeper/fenced-object";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::default();

    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    let cable = Proxy::start(&address).await?;
    let (slow, next) = (connect(&cable.address()).await?, connect(&address).await?);

    let old = slow.lock(PATH)?.acquire().await?;
    println!("the first holder writes: {}", put(&store, old.token(), "from the first"));
    cable.black_hole(true); // a partition; an equally long pause of the process has the same effect
    let new = next.lock(PATH)?.acquire().await?;
    println!("the next holder writes: {}", put(&store, new.token(), "from the next"));
    println!("the first holder, late, writes: {}", put(&store, old.token(), "from the first, late"));

    println!("object: {}", store.get().body);
    new.release().await?;
    Ok(())
}

/// Returns whether the object was written. The token is stored with the object as metadata. If another writer changes
/// the object between the read and the write, its tag changes too, and the check is repeated.
fn put(store: &Store, token: FencingToken, body: &str) -> bool {
    loop {
        let found = store.get();
        if found.token > Some(token) {
            return false;
        }
        if store.put_if_match(found.etag, token, body) {
            return true;
        }
    }
}

#[derive(Default)]
struct Store(Mutex<Object>);

#[derive(Clone, Default)]
struct Object {
    etag: u64,
    token: Option<FencingToken>,
    body: String,
}

impl Store {
    fn get(&self) -> Object {
        self.0.lock().expect("no holder panics").clone()
    }

    /// `false` corresponds to `412 Precondition Failed` of a real store.
    fn put_if_match(&self, etag: u64, token: FencingToken, body: &str) -> bool {
        let mut object = self.0.lock().expect("no holder panics");
        let matches = object.etag == etag;
        if matches {
            *object = Object { etag: etag + 1, token: Some(token), body: body.to_owned() };
        }
        matches
    }
}

async fn connect(address: &str) -> Result<Keeper, lockkeeper::error::ConnectError> {
    Keeper::options().session_timeout(Duration::from_secs(2)).connect(address).await
}
