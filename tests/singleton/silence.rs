//! A server stops answering at nine different moments between two heartbeats.

use std::time::Duration;

use futures::future::join_all;
use lockkeeper::LeaseState;
use lockkeeper::run::LeaseView;
use lockkeeper::singleton::SingletonOptions;
use lockkeeper_embedded::{Embedded, SessionId};
use tokio::time::sleep;

use crate::common::eventually;
use crate::member::{Behavior, Member, SOON, connect_for};

const SESSION: Duration = Duration::from_secs(8);
const PHASES: u32 = 9;

#[tokio::test]
async fn an_actor_is_told_of_a_silent_server_before_it_is_stopped_and_has_time_to_clean_up() {
    let options = Embedded::options().tick(Duration::from_millis(200)).max_session_timeout(SESSION);
    let server = options.start().await.expect("a free port");
    let cleaning = Behavior { slow_to_stop: SESSION / 40, ..Behavior::default() };
    let (mut members, mut leases) = (Vec::new(), Vec::new());
    for number in 0..PHASES {
        let keeper = connect_for(&server.address(), SESSION).await;
        let path = format!("/silence-{number}");
        let mut member = Member::new(keeper, &path, cleaning, SingletonOptions::new());
        let (_, lease) = member.started().await;
        let leader = member.singleton.leader().await.expect("connected").expect("it leads");
        members.push((member, leader.session.expect("its node is ephemeral")));
        leases.push(lease);
    }
    // A new lease lasts longer than one that was extended by heartbeats, so wait for the heartbeats.
    let first: Vec<_> = leases.iter().map(LeaseView::valid_until).collect();
    eventually("heartbeats extend the leases", SOON, async || {
        leases.iter().zip(&first).all(|(lease, first)| lease.valid_until() > first.map(|at| at + SESSION / 2))
    })
    .await;
    // All members send heartbeats at about the same time, so the pauses silence each one at a different phase.
    for (_, session) in &members {
        server.controls().black_hole(SessionId(*session), true);
        sleep(SESSION / 8 / PHASES).await;
    }
    let runs = members.iter_mut().enumerate().map(|(phase, (member, _))| async move {
        // If it was killed while it cleaned up, this fails.
        assert_ne!(member.suspended_and_stopped().await, LeaseState::Lost, "phase {phase}: stopped too late");
    });
    join_all(runs).await;
}
