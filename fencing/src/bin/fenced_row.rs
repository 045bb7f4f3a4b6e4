//! PostgreSQL refuses a writer whose lock has ended.
//!
//! `cargo run -p lockkeeper-fencing --features peer-tests --bin fenced_row -- <ZooKeeper's address> <PostgreSQL's>`,
//! such as `127.0.0.1:2181 "host=localhost user=postgres"`. It uses the table `fenced`.

use lockkeeper::{FencingToken, LockGuard};
use lockkeeper_fencing::Error;
use tokio_postgres::{Client, NoTls};

const LOCK: &str = "/lockkeeper/fenced-row";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["first", zookeeper, postgres] => {
            let database = connect(postgres).await?;
            let write = async |guard: &LockGuard, text: &str| update(&database, guard.token(), text).await;
            lockkeeper_fencing::first(zookeeper, LOCK, write).await
        }
        [zookeeper, postgres] => {
            let database = connect(postgres).await?;
            database.batch_execute(TABLE).await?;
            let write = async |guard: &LockGuard, text: &str| update(&database, guard.token(), text).await;
            lockkeeper_fencing::tell(zookeeper, LOCK, &["first", zookeeper, postgres], write).await?;
            let row = database.query_one("SELECT text FROM fenced WHERE id = 1", &[]).await?;
            println!("row: {}", row.try_get::<_, &str>(0)?);
            Ok(())
        }
        _ => Err("the arguments are the addresses of ZooKeeper and of PostgreSQL".into()),
    }
}

const TABLE: &str = "
    DROP TABLE IF EXISTS fenced;
    CREATE TABLE fenced (id INTEGER PRIMARY KEY, text TEXT NOT NULL, token BIGINT NOT NULL);
    INSERT INTO fenced VALUES (1, '', 0);
";

/// Returns whether the row was changed. The check and the write are one statement, so they are atomic.
async fn update(database: &Client, token: FencingToken, text: &str) -> Result<bool, Error> {
    let token = i64::try_from(token)?;
    let rows = database
        .execute("UPDATE fenced SET text = $1, token = $2 WHERE id = 1 AND token <= $2", &[&text, &token])
        .await?;
    Ok(rows == 1)
}

async fn connect(postgres: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(postgres, NoTls).await?;
    // Its end shows in the next request.
    tokio::spawn(connection);
    Ok(client)
}
