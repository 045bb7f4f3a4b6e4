//! Readers and writers, and contenders of another dialect.

use super::*;

#[test]
fn readers_share_the_lock_and_a_writer_waits_for_all_of_them() {
    let mut test = Test::new();
    assert_eq!(granted(&join(&mut test, 0, Mode::Read, 0, &[])), [0]);
    assert_eq!(granted(&join(&mut test, 1, Mode::Read, 1, &[])), [1]);
    assert_eq!(granted(&join(&mut test, 2, Mode::Write, 2, &[])), []);
    assert_eq!(
        granted(&join(&mut test, 3, Mode::Read, 3, &[])),
        [],
        "a reader does not overtake a waiting writer"
    );
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(1)))), []);
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(0)))), [2]);
    assert_eq!(granted(&test.on(PathEvent::Release(Ticket(2)))), [3]);
}

#[test]
fn after_a_writer_is_cancelled_the_readers_behind_it_are_granted_at_once() {
    let mut test = Test::new();
    join(&mut test, 0, Mode::Read, 0, &[]);
    join(&mut test, 1, Mode::Write, 1, &[]);
    for reader in 2..5 {
        assert_eq!(granted(&join(&mut test, reader, Mode::Read, reader as i64, &[])), []);
    }
    assert_eq!(granted(&test.on(PathEvent::Cancel(Ticket(1)))), [2, 3, 4]);
}

#[test]
fn readers_behind_one_foreign_writer_share_one_watch() {
    let mut test = Test::new();
    let watch = Command::Watch(foreign(1));
    assert!(join(&mut test, 0, Mode::Read, 2, &[&foreign(1)]).contains(&watch));
    for reader in 1..4 {
        let entered = join(&mut test, reader, Mode::Read, 2 + reader as i64, &[&foreign(1)]);
        assert!(!entered.contains(&watch), "{entered:?}");
    }
    assert_eq!(granted(&test.on(Event::Fired { node: foreign(1), gone: true })), [0, 1, 2, 3]);
}

#[test]
fn a_contender_that_sees_another_dialect_withdraws() {
    for (sequence, place) in [(4, "ahead"), (6, "behind")] {
        let mut test = Test::new();
        let other = curator_mutex(sequence);
        test.acquire(0, Wait::Forever);
        let withdrawn = [test.delete(0, 5), refuse(0, Refusal::MixedDialects(other.clone()))];
        assert_eq!(test.entered(0, 5, &[&foreign(3), &other]), withdrawn, "{place}");
    }
}

#[test]
fn a_try_that_sees_another_dialect_creates_no_node() {
    let mut test = Test::new();
    let other = curator_mutex(4);
    test.acquire(0, Wait::Try);
    let children = Ok(vec![foreign(3).name().to_owned(), other.name().to_owned()]);
    let refused = [refuse(0, Refusal::MixedDialects(other)), forget(0, true)];
    assert_eq!(test.on(Event::Listed(children)), refused);
}

#[test]
fn a_local_contender_of_another_dialect_that_has_left_is_ignored() {
    let mut test = Test::new();
    let curators = Request { dialect: Dialect::Curator, ..request(true, Wait::Forever) };
    test.on(Event::Acquire { ticket: Ticket(0), request: curators });
    let name = format!("{}{:010}", test.instance.prefix(Attempt(0), Dialect::Curator, Mode::Lock), 5);
    let node = Znode::parse(&name).expect("a contender's name");
    let (created, children) = (Ok(Created { node: node.clone(), czxid: 105 }), Ok(vec![name]));
    let entered = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children });
    assert_eq!(granted(&entered), [0]);
    test.acquire(1, Wait::Forever);
    let withdrawn = [test.delete(1, 6), refuse(1, Refusal::MixedDialects(node.clone()))];
    assert_eq!(test.entered(1, 6, &[&node]), withdrawn, "while it is held");
    test.on(PathEvent::Release(Ticket(0)));
    test.acquire(2, Wait::Forever);
    assert_eq!(granted(&test.entered(2, 7, &[&node])), [2], "the delete is in flight");
}

/// Adds a local contender in this mode. `children` is the answer to its list.
fn join(test: &mut Test, ticket: u64, mode: Mode, sequence: i64, children: &[&Znode]) -> Vec<Command> {
    let request = Request { mode, ..request(true, Wait::Forever) };
    test.on(Event::Acquire { ticket: Ticket(ticket), request });
    let name = format!("{}{sequence:010}", test.instance.prefix(Attempt(ticket), Dialect::Kazoo, mode));
    let node = Znode::parse(&name).expect("a contender's name");
    let children = Ok(children.iter().chain([&&node]).map(|node| node.name().to_owned()).collect());
    let created = Ok(Created { node, czxid: 100 + sequence });
    test.on(Event::CreatedAndListed { attempt: Attempt(ticket), created, children })
}

fn curator_mutex(sequence: i64) -> Znode {
    Znode::parse(&format!("_c_{:032x}-lock-{sequence:010}", 7)).expect("a contender's name")
}
