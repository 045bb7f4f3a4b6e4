//! Requests that fail again and again are repeated after growing pauses.

use super::*;

/// Counts the requests sent within this time, if `answer` answers them all at once.
fn sent_within(
    test: &mut Test,
    time: Duration,
    first: Vec<Command>,
    answer: impl Fn(&Command) -> Option<Event>,
) -> usize {
    let (end, mut sent, mut due) = (test.now + time, 0, first);
    loop {
        let mut answered = 0;
        while let Some(event) = due.iter().find_map(&answer) {
            answered += 1;
            assert!(answered < 10, "{due:?} is repeated without a pause");
            sent += due.iter().filter(|command| answer(command).is_some()).count();
            due = test.on(event);
        }
        match test.lock.wakeup() {
            Some(wakeup) if wakeup <= end => due = test.later(),
            Some(_) | None => return sent,
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// An upper bound: pauses double up to five seconds, and at most half of each is left out.
const RETRIES_PER_MINUTE: usize = 30;

#[test]
fn requests_that_keep_failing_are_retried_after_growing_pauses() {
    for failure in [
        Failure::Unknown("the answer was lost".into()),
        Failure::Refused("throttled".into()),
        Failure::NoAuth,
    ] {
        let fail = |command: &Command| match command {
            Command::Delete(attempt, _) => Some(Event::Deleted(*attempt, Err(failure.clone()))),
            Command::List { .. } => Some(Event::Listed(Err(failure.clone()))),
            Command::ReadStat(attempt, _) => Some(Event::StatRead(*attempt, Err(failure.clone()))),
            Command::MakeDirectory(attempt, _) => Some(Event::DirectoryMade(*attempt, Err(failure.clone()))),
            _ => None,
        };
        // A release.
        let mut test = Test::new();
        test.held(0, 5);
        let released = test.on(PathEvent::Release(Ticket(0)));
        let sent = sent_within(&mut test, MINUTE, released, fail);
        assert!((5..=RETRIES_PER_MINUTE).contains(&sent), "{failure:?}: {sent} deletes a minute");
        // A create of unknown outcome.
        let mut test = Test::new();
        test.acquire(0, Wait::Forever);
        let finding = test.on(lost_create(0));
        let sent = sent_within(&mut test, MINUTE, finding, fail);
        assert!((5..=RETRIES_PER_MINUTE).contains(&sent), "{failure:?}: {sent} lists a minute");
        // A node whose list is not answered.
        let mut test = Test::new();
        test.acquire(0, Wait::Forever);
        let created = Ok(Created { node: test.own(0, 5), czxid: 105 });
        let half = test.on(Event::CreatedAndListed { attempt: Attempt(0), created, children: unknown() });
        let sent = sent_within(&mut test, MINUTE, half, fail);
        assert!((5..=RETRIES_PER_MINUTE).contains(&sent), "{failure:?}: {sent} lists or deletes a minute");
        // A persistent node that a new session cannot read.
        let mut test = Test::new();
        test.on(Event::Acquire { ticket: Ticket(0), request: request(false, Wait::Forever) });
        test.entered(0, 5, &[]);
        test.on(PathEvent::Lost);
        let inspected = test.on(PathEvent::Connected { session: SESSION + 1 });
        let sent = sent_within(&mut test, MINUTE, inspected, fail);
        assert!((5..=RETRIES_PER_MINUTE).contains(&sent), "{failure:?}: {sent} reads a minute");
    }
}

#[test]
fn a_create_whose_answer_is_always_lost_is_retried_after_growing_pauses() {
    let mut test = Test::new();
    let entered = test.acquire(0, Wait::Forever);
    let fail = |command: &Command| match command {
        Command::CreateAndList(attempt, _) => Some(lost_create(attempt.0)),
        Command::List { .. } => Some(Event::Listed(Ok(Vec::new()))),
        _ => None,
    };
    let sent = sent_within(&mut test, MINUTE, entered, fail);
    assert!((5..=2 * RETRIES_PER_MINUTE).contains(&sent), "{sent} creates and lists a minute");
}

#[test]
fn a_node_that_no_list_shows_is_created_again_after_growing_pauses() {
    let mut test = Test::new();
    let entered = test.acquire(0, Wait::Forever);
    let instance = test.instance;
    let hide = |command: &Command| match command {
        Command::CreateAndList(attempt, _) => {
            let name = format!("{}0000000005", instance.prefix(*attempt, Dialect::Kazoo, Mode::Lock));
            let node = Znode::parse(&name).expect("a contender's name");
            let (created, children) = (Ok(Created { node, czxid: 105 }), Ok(Vec::new()));
            Some(Event::CreatedAndListed { attempt: *attempt, created, children })
        }
        _ => None,
    };
    let sent = sent_within(&mut test, MINUTE, entered, hide);
    assert!((5..=RETRIES_PER_MINUTE).contains(&sent), "{sent} creates a minute");
}

#[test]
fn a_directory_that_is_always_missing_is_created_after_growing_pauses() {
    for made in [Ok(()), unknown()] {
        let mut test = Test::new();
        let entered = test.acquire(0, Wait::Forever);
        let fail = |command: &Command| match command {
            Command::CreateAndList(attempt, _) => {
                let (created, children) = (Err(Failure::NoNode), Err(Failure::NoNode));
                Some(Event::CreatedAndListed { attempt: *attempt, created, children })
            }
            Command::MakeDirectory(attempt, _) => Some(Event::DirectoryMade(*attempt, made.clone())),
            _ => None,
        };
        let sent = sent_within(&mut test, MINUTE, entered, fail);
        assert!((5..=2 * RETRIES_PER_MINUTE).contains(&sent), "{sent} creates and directories a minute");
    }
}

#[test]
fn a_watch_that_cannot_be_set_is_retried_after_pauses_even_when_waiters_change() {
    for (failure, most) in
        [(Failure::Refused("no room".into()), 61), (Failure::Unknown("cut".into()), RETRIES_PER_MINUTE)]
    {
        let mut test = Test::new();
        let mut due = Vec::new();
        // One waiter after the other is cancelled while the retry of the watch is scheduled.
        for waiter in 0..5 {
            test.acquire(waiter, Wait::Forever);
            due = test.entered(waiter, 5 + waiter as i64, &[&foreign(4)]);
            if waiter < 4 {
                test.on(Event::Watched(foreign(4), Err(failure.clone())));
                test.on(PathEvent::Cancel(Ticket(waiter)));
                test.now = test.now + Duration::from_millis(10);
            }
        }
        let fail = |command: &Command| match command {
            Command::Watch(node) => Some(Event::Watched(node.clone(), Err(failure.clone()))),
            _ => None,
        };
        let sent = sent_within(&mut test, MINUTE, due, fail);
        assert!((5..=most).contains(&sent), "{failure:?}: {sent} watches a minute");
    }
}
