//! A server that falls silent, at nine moments between two heartbeats.

use std::time::Duration;

use futures::future::join_all;
use lockkeeper::{LeaseState, SingletonOptions, Term, TermEvent};
use lockkeeper_embedded::{Embedded, SessionId};
use tokio::time::sleep;

use crate::common::eventually;
use crate::member::{Member, Note, SOON, Ways, connect_for};

const SESSION: Duration = Duration::from_secs(8);
const PHASES: u32 = 9;

#[tokio::test]
async fn whenever_the_server_falls_silent_the_actor_is_told_before_it_is_stopped_and_has_time_to_clean_up() {
    let options = Embedded::options().tick(Duration::from_millis(200)).max_session_timeout(SESSION);
    let server = options.start().await.expect("a free port");
    let cleaning = Ways { slow_to_stop: SESSION / 40, ..Ways::default() };
    let (mut members, mut terms) = (Vec::new(), Vec::new());
    for number in 0..PHASES {
        let keeper = connect_for(&server.address(), SESSION).await;
        let path = format!("/silence-{number}");
        let mut member = Member::new(keeper, &path, cleaning, SingletonOptions::new());
        let (_, term) = member.started().await;
        let leader = member.singleton.leader().await.expect("connected").expect("it leads");
        members.push((member, leader.session.expect("its node is ephemeral")));
        terms.push(term);
    }
    // A new lease is longer than one that heartbeats have moved on.
    let first: Vec<_> = terms.iter().map(Term::valid_until).collect();
    eventually("heartbeats move the leases on", SOON, async || {
        terms.iter().zip(&first).all(|(term, first)| term.valid_until() > first.map(|at| at + SESSION / 2))
    })
    .await;
    // The heartbeats of all have begun at about the same time.
    for (_, session) in &members {
        server.controls().black_hole(SessionId(*session), true);
        sleep(SESSION / 8 / PHASES).await;
    }
    let runs = members.iter_mut().enumerate().map(|(phase, (member, _))| async move {
        let told = member.note().await;
        assert!(matches!(told, Note::Told(TermEvent::Suspended)), "phase {phase}: {told:?}");
        let Note::Stopped(state) = member.note().await else { panic!("phase {phase}: cut short") };
        assert_ne!(state, LeaseState::Lost, "phase {phase}: stopped too late");
    });
    join_all(runs).await;
}
