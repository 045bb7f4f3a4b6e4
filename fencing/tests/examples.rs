//! A writer that was paused is refused, and the resource keeps what the next holder wrote.

mod common;
#[path = "../../tests/common/servers/mod.rs"]
mod servers;

use common::refused;
use servers::shared;

#[tokio::test]
async fn an_object_store_refuses_a_writer_that_was_paused() {
    let program = env!("CARGO_BIN_EXE_fenced_object");
    assert_eq!(refused(program, &[&shared().one_address()]).await, "object: from the next");
}

#[tokio::test]
async fn zookeeper_refuses_a_writer_that_was_paused() {
    let program = env!("CARGO_BIN_EXE_fenced_znode");
    assert_eq!(refused(program, &[&shared().one_address()]).await, "node: from the next");
}

#[test]
fn the_safety_page_quotes_the_examples_verbatim() {
    let page = include_str!("../../docs/safety.md");
    for (example, function) in [
        (include_str!("../src/bin/fenced_row.rs"), "async fn update("),
        (include_str!("../src/bin/fenced_object.rs"), "async fn put("),
        (include_str!("../src/bin/fenced_znode.rs"), "async fn set("),
    ] {
        let begin = example.find(function).expect("the function");
        let end = example[begin..].find("\n}\n").expect("its end") + "\n}\n".len();
        let quoted = format!("```rust\n{}```\n", &example[begin..begin + end]);
        assert!(page.contains(&quoted), "not on the page:\n{quoted}");
    }
}
