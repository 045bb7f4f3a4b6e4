//! An object store refuses a writer whose lock has ended. The store is the one in memory of the crate `object_store`;
//! `put` is the same for S3, Google Cloud Storage and Azure Blob Storage. A store in memory belongs to one process, so
//! the process that is paused sends its puts to this one.
//!
//! `cargo run -p lockkeeper-fencing --bin fenced_object -- <ZooKeeper's address>`

use std::sync::Arc;

use lockkeeper::{FencingToken, LockGuard};
use lockkeeper_fencing::Error;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const LOCK: &str = "/lockkeeper/fenced-object";
const OBJECT: &str = "fenced";
/// The attribute of the object that holds the token.
const TOKEN: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("fencing_token"));

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["first", zookeeper, service] => {
            let write = async |guard: &LockGuard, text: &str| send(service, guard.token(), text).await;
            lockkeeper_fencing::first(zookeeper, LOCK, write).await
        }
        [zookeeper] => {
            let store = Arc::new(InMemory::new());
            let service = TcpListener::bind("127.0.0.1:0").await?;
            let address = service.local_addr()?.to_string();
            tokio::spawn(serve(store.clone(), service));
            let write = async |guard: &LockGuard, text: &str| put(&*store, guard.token(), text).await;
            lockkeeper_fencing::tell(zookeeper, LOCK, &["first", zookeeper, &address], write).await?;
            let object = store.get(&Path::from(OBJECT)).await?.bytes().await?;
            println!("object: {}", String::from_utf8_lossy(&object));
            Ok(())
        }
        _ => Err("the only argument is ZooKeeper's address, such as 127.0.0.1:2181".into()),
    }
}

/// Returns whether the object was written. The token is stored with the object, as an attribute. If another writer
/// changes the object between the read and the write, its tag changes too, and the check is repeated.
async fn put(store: &dyn ObjectStore, token: FencingToken, text: &str) -> Result<bool, Error> {
    let path = Path::from(OBJECT);
    loop {
        let mode = match store.get_opts(&path, GetOptions { head: true, ..GetOptions::default() }).await {
            Err(object_store::Error::NotFound { .. }) => PutMode::Create,
            found => {
                let found = found?;
                let last: FencingToken = found.attributes.get(&TOKEN).ok_or("no token")?.parse()?;
                if last > token {
                    return Ok(false);
                }
                PutMode::Update(UpdateVersion { e_tag: found.meta.e_tag, version: found.meta.version })
            }
        };
        let attributes = [(TOKEN, token.to_string())].into_iter().collect();
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match store.put_opts(&path, text.to_owned().into(), options).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
            done => return Ok(done.map(|_| true)?),
        }
    }
}

/// Puts what other processes send.
async fn serve(store: Arc<InMemory>, service: TcpListener) -> Result<(), Error> {
    loop {
        let mut stream = BufReader::new(service.accept().await?.0);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let (token, text) = line.trim_end().split_once(' ').ok_or("no token")?;
        let written = put(&*store, token.parse()?, text).await?;
        stream.write_all(written.to_string().as_bytes()).await?;
    }
}

/// Lets the process that has the store put this.
async fn send(service: &str, token: FencingToken, text: &str) -> Result<bool, Error> {
    let mut stream = TcpStream::connect(service).await?;
    stream.write_all(format!("{token:#x} {text}\n").as_bytes()).await?;
    let mut written = String::new();
    stream.read_to_string(&mut written).await?;
    Ok(written.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_writers_at_once_the_one_with_the_largest_token_is_kept() {
        for _ in 0..20 {
            let store = Arc::new(InMemory::new());
            let puts = (1..=50_u64).map(|number| {
                let store = store.clone();
                let put = async move { put(&*store, number.into(), &number.to_string()).await };
                tokio::spawn(put)
            });
            for put in puts.collect::<Vec<_>>() {
                put.await.expect("no panic").expect("an answer");
            }
            let object = store.get(&Path::from(OBJECT)).await.expect("an object").bytes().await;
            assert_eq!(object.expect("a text"), "50");
        }
    }

    #[tokio::test]
    async fn the_same_token_may_write_again_and_a_smaller_one_may_not() {
        let store = InMemory::new();
        for (token, text, accepted) in [(7, "a", true), (7, "b", true), (6, "c", false), (8, "d", true)] {
            let token = FencingToken::from(token);
            assert_eq!(put(&store, token, text).await.expect("an answer"), accepted, "{text}");
        }
    }
}
