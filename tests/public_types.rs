//! What the public types promise at compile time.

use std::error::Error;
use std::fmt::Debug;

use futures::future::FusedFuture;
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, ConnectError, InvalidLock, LostError, QueryError, Refused,
    ReleaseError, RemoveContenderError, ResizeError, TryAcquireError, WithError,
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
use lockkeeper::session::{Events, KeeperState, SessionEvent};
use lockkeeper::singleton::{Candidate, CandidateState, Leaders, RunFailed, Singleton, SingletonOptions};
use lockkeeper::{
    FencingToken, Keeper, KeeperOptions, Lock, LockGuard, LockOptions, MultiGuard, MultiLock, Permit,
    ReadGuard, ReadLock, ReadWriteLock, Semaphore, WriteGuard, WriteLock,
};

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
    all!(anywhere: Health, Recording);
    all!(sent: Candidate<u64>, CandidateMessage<u64>);
    all!(sent: HealthCheck, Events, Leaders, LockMessage, LockMessage<Read>, SemaphoreMessage, MultiLockMessage);
    all!(fused: Acquire, Acquire<Read>, TryAcquire<Write>, AcquireTimeout<Exclusive>);
    all!(fused: AcquirePermit, TryAcquirePermit, AcquirePermitTimeout);
    all!(fused: AcquireAll, TryAcquireAll, AcquireAllTimeout);
}

#[test]
fn every_error_is_an_error_that_can_be_kept() {
    all!(an_error: AcquireError, TryAcquireError, AcquireTimeoutError, ConnectError, QueryError, Refused);
    all!(an_error: RemoveContenderError, ReleaseError, ResizeError, LostError, WithError, InvalidLock);
    all!(an_error: InspectError, DeleteNodeError);
    all!(an_error: ProbeError);
}
