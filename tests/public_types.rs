//! What the public types promise in any program.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use futures::future::FusedFuture;
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, AdvertiseError, ConnectError, FencedError, InvalidHandle, LostError,
    PermitsError, QueryError, Reason, Refused, ReleaseError, RemoveContenderError, ResizeError,
    TryAcquireError, WithError, WriteFailure,
};
use lockkeeper::future::{
    Acquire, AcquireAll, AcquireAllTimeout, AcquirePermit, AcquirePermitTimeout, AcquireTimeout, TryAcquire,
    TryAcquireAll, TryAcquirePermit,
};
use lockkeeper::health::{Health, HealthCheck, ProbeError};
use lockkeeper::inspect::{
    Contender, DeleteNodeError, Entry, InspectError, Inspector, Inventory, LeaseHolder, PathState, Pool,
    Queue, Taken,
};
use lockkeeper::marker::{Exclusive, Read, Write};
use lockkeeper::messages::{
    CandidateMessage, LockEvent, LockMessage, MultiLockMessage, SemaphoreMessage, Ticket, Wait,
};
use lockkeeper::record::Recording;
use lockkeeper::run::{Ended, LeaseEvent, LeaseView, Run};
use lockkeeper::session::{Events, KeeperState, SessionEvent, StateView};
use lockkeeper::singleton::{Candidate, CandidateState, Leaders, RunFailed, Singleton, SingletonOptions};
use lockkeeper::{
    FencingToken, Keeper, KeeperOptions, Lock, LockGuard, LockOptions, MultiGuard, MultiLock, Permit,
    ReadGuard, ReadLock, ReadWriteLock, Semaphore, WriteGuard, WriteLock, check_path,
};
use zookeeper_client as zk;

fn anywhere<T: Send + Sync + Unpin + Debug + 'static>() {}
fn sent<T: Send + Unpin + Debug + 'static>() {}
fn fused<T: FusedFuture + Send + Unpin + Debug + 'static>() {}
fn an_error<T: Error + Clone + PartialEq + Send + Sync + 'static>() {}

macro_rules! all {
    ($promise:ident: $($type:ty),+ $(,)?) => { $($promise::<$type>();)+ };
}

#[test]
fn types_can_be_used_in_any_task_and_shown() {
    all!(anywhere: Keeper, KeeperOptions, KeeperState, SessionEvent, LockOptions, Ticket, Wait, FencingToken);
    all!(anywhere: Lock, ReadLock, WriteLock, ReadWriteLock, Semaphore, MultiLock, Contender, LeaseHolder);
    all!(anywhere: Inspector, Inventory, PathState, Queue, Entry, Pool, Taken);
    all!(anywhere: LockGuard, ReadGuard, WriteGuard, Permit, MultiGuard, LeaseView, LockEvent<LockGuard>);
    all!(anywhere: Run, Ended, LeaseEvent, Singleton, SingletonOptions, CandidateState<u64>, RunFailed);
    all!(anywhere: Health, Recording, StateView);
    all!(sent: Candidate<u64>, CandidateMessage<u64>);
    all!(sent: HealthCheck, Events, Leaders, LockMessage, LockMessage<Read>, SemaphoreMessage, MultiLockMessage);
    all!(fused: Acquire, Acquire<Read>, TryAcquire<Write>, AcquireTimeout<Exclusive>);
    all!(fused: AcquirePermit, TryAcquirePermit, AcquirePermitTimeout);
    all!(fused: AcquireAll, TryAcquireAll, AcquireAllTimeout);
}

#[test]
fn every_error_is_an_error_that_can_be_kept() {
    all!(an_error: AcquireError, TryAcquireError, AcquireTimeoutError, ConnectError, QueryError, Refused);
    all!(an_error: RemoveContenderError, ReleaseError, ResizeError, LostError, WithError, InvalidHandle);
    all!(an_error: InspectError, DeleteNodeError);
    all!(an_error: ProbeError);
}

/// Each row is an error, and whether the same call can succeed later without a change to the code or the cluster.
#[test]
fn errors_tell_whether_the_same_call_can_succeed_later() {
    let path = || "/a".to_owned();
    let (busy, full) = (|| Reason::from(zk::Error::Throttled), || Reason::from(zk::Error::QuotaExceeded));
    let (gone, closed) = (|| QueryError::Disconnected, || AcquireError::Closed);
    macro_rules! rows {
        ($($error:expr => $retryable:literal),+ $(,)?) => { $({
            let error = $error;
            assert_eq!(error.is_retryable(), $retryable, "{error:?}");
        })+ };
    }
    rows! {
        AcquireError::Closed => false,
        AcquireError::NoAuth { path: path() } => false,
        AcquireError::SequenceExhausted { path: path() } => false,
        AcquireError::MixedDialects { contender: path() } => false,
        AcquireError::Permits(PermitsError::NoLimit { path: path() }) => false,
        AcquireError::TooManyWaiting { path: path(), limit: 1 } => true,
        AcquireError::Rejected { path: path(), reason: busy() } => true,
        AcquireError::Rejected { path: path(), reason: full() } => false,
        AcquireError::Stopped { path: path() } => true,
        TryAcquireError::Contended { path: path() } => true,
        TryAcquireError::Suspended => true,
        TryAcquireError::Failed(closed()) => false,
        AcquireTimeoutError::TimedOut { path: path() } => true,
        AcquireTimeoutError::Failed(AcquireError::Rejected { path: path(), reason: busy() }) => true,
        AcquireTimeoutError::Failed(closed()) => false,
        Refused::Contended => true,
        Refused::Suspended => true,
        Refused::TimedOut => true,
        Refused::Cancelled => false,
        Refused::Failed(closed()) => false,
        ReleaseError::Lost => false,
        ReleaseError::NotGranted => true,
        WithError::Acquire(AcquireError::Stopped { path: path() }) => true,
        WithError::Acquire(closed()) => false,
        WithError::Lost(LostError) => false,
        QueryError::Closed => false,
        QueryError::Disconnected => true,
        QueryError::NoAuth { path: path() } => false,
        QueryError::Rejected { path: path(), reason: busy() } => true,
        QueryError::Rejected { path: path(), reason: full() } => false,
        QueryError::Unanswered { path: path(), reason: "cut".into() } => true,
        RemoveContenderError::Ephemeral { name: path(), session: 1 } => false,
        RemoveContenderError::Failed(gone()) => true,
        ResizeError::NoPermits => false,
        ResizeError::Failed(gone()) => true,
        AdvertiseError::Closed => false,
        AdvertiseError::TooLong { bytes: 2, limit: 1 } => false,
        AdvertiseError::NoAuth { path: path() } => false,
        AdvertiseError::Rejected { reason: busy() } => true,
        AdvertiseError::Rejected { reason: full() } => false,
        AdvertiseError::Failed { reason: "cut".into() } => true,
        InspectError::Path(check_path("a").expect_err("it is relative")) => false,
        InspectError::Query(gone()) => true,
        DeleteNodeError::Path(check_path("a").expect_err("it is relative")) => false,
        DeleteNodeError::Gone { node: path() } => false,
        DeleteNodeError::Changed { node: path() } => false,
        DeleteNodeError::Failed(gone()) => true,
        ProbeError::Disconnected => true,
        ProbeError::TimedOut { limit: Duration::from_secs(1) } => true,
        ProbeError::NotAcquired(closed()) => false,
        ProbeError::NotAcquired(AcquireError::Stopped { path: path() }) => true,
        ProbeError::NotReleased(ReleaseError::Lost) => true,
        FencedError::Lost => false,
        FencedError::Disconnected => true,
        FencedError::Empty => false,
        FencedError::InvalidPath { path: path(), reason: "" } => false,
        FencedError::TooLarge { bytes: 1 } => false,
        FencedError::Write { index: 0, path: path(), failure: WriteFailure::NoNode } => false,
        FencedError::Unchecked { node: path(), failure: WriteFailure::NoAuth } => false,
        FencedError::Rejected { reason: busy() } => true,
        FencedError::Rejected { reason: full() } => false,
        FencedError::Unknown { reason: "cut".into() } => false,
        ConnectError::NoSupervisor => false,
        ConnectError::AuthFailed { address: path() } => false,
        ConnectError::InvalidAddress { address: path(), reason: path() } => false,
        ConnectError::InvalidOption { option: "", value: path(), reason: "" } => false,
        ConnectError::Unreachable { address: path(), timeout: Duration::ZERO, reason: path() } => true,
    }
}
