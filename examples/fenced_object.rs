//! An object in an object store refuses a writer whose lock is over.
//!
//! The store here is a few lines in memory that do what the real ones do with `If-Match`: S3, Google Cloud Storage
//! (`x-goog-if-generation-match`) and Azure Blob Storage.
//!
//! `cargo run --example fenced_object` starts a ZooKeeper inside the process; with an address behind `--` it uses a
//! real one.

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
    cable.black_hole(true); // a partition; a pause of the process for as long does the same
    let new = next.lock(PATH)?.acquire().await?;
    println!("the next holder writes: {}", put(&store, new.token(), "from the next"));
    println!("the first holder, late, writes: {}", put(&store, old.token(), "from the first, late"));

    println!("object: {}", store.get().body);
    new.release().await?;
    Ok(())
}

/// Tells whether it was done. The token travels with the object, as metadata; whoever changes the object between
/// the look and the write changes its tag as well, and then everything is looked at again.
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

    /// `false` is the real ones' `412 Precondition Failed`.
    fn put_if_match(&self, etag: u64, token: FencingToken, body: &str) -> bool {
        let mut object = self.0.lock().expect("no holder panics");
        let matches = object.etag == etag;
        if matches {
            *object = Object { etag: etag + 1, token: Some(token), body: body.to_owned() };
        }
        matches
    }
}

async fn connect(address: &str) -> Result<Keeper, lockkeeper::ConnectError> {
    Keeper::options().session_timeout(Duration::from_secs(2)).connect(address).await
}
