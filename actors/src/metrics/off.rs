//! The same types without the feature `metrics`: they are empty, and do nothing.

use std::time::Duration;

use super::{Kind, RefusedFor};
use crate::machine::Failure;
use crate::machine::run::EndReason;

/// The metrics of a keeper: nothing, without the feature `metrics`.
#[derive(Clone, Debug)]
pub struct Metrics;

impl Metrics {
    /// Does nothing.
    pub fn new(_: Vec<String>) -> Metrics {
        Metrics
    }

    pub(crate) fn path(&self, _: &str) -> PathMetrics {
        PathMetrics
    }

    pub(crate) fn paths(&self) -> PathMetrics {
        PathMetrics
    }

    pub(crate) fn session_begun(&self) -> Counted {
        Counted
    }

    pub(crate) fn session_suspended(&self) {}

    pub(crate) fn session_lost(&self) {}

    pub(crate) fn connect_failed(&self) {}

    pub(crate) fn heartbeat(&self, _: Duration) {}

    pub(crate) fn lease_extended(&self, _: Duration) {}

    pub(crate) fn nodes_tracked(&self, _: usize) {}

    pub(crate) fn nodes_untracked(&self, _: usize) {}

    pub(crate) fn watch(&self) -> Counted {
        Counted
    }

    pub(crate) fn watch_refused(&self) {}

    pub(crate) fn spare_session(&self) -> Counted {
        Counted
    }

    pub(crate) fn runs(&self) -> RunMetrics {
        RunMetrics
    }
}

pub(crate) struct Counted;

pub(crate) struct Retries;

impl Retries {
    pub fn count<T>(&self, _: &Result<T, Failure>) {}

    pub fn failed(&self, _: &Failure) {}
}

#[derive(Clone)]
pub(crate) struct PathMetrics;

impl PathMetrics {
    pub fn request(&self, _: Asked, _: bool) -> RequestMetrics {
        RequestMetrics
    }

    pub fn cleanup(&self, _: Kind) -> Counted {
        Counted
    }

    pub fn retries(&self) -> Retries {
        Retries
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Asked;

impl Asked {
    pub fn now(_: Kind) -> Asked {
        Asked
    }

    pub fn is_for(&mut self, _: Option<Kind>) {}
}

#[derive(Default)]
pub(crate) struct RequestMetrics;

impl RequestMetrics {
    pub fn granted(&mut self) {}

    pub fn refused(&mut self, _: RefusedFor) {}

    pub fn suspended(&self) {}

    pub fn lost(&mut self) {}

    pub fn released(&mut self) {}

    pub fn merged(&mut self) {}

    pub fn split(&self) -> RequestMetrics {
        RequestMetrics
    }
}

pub(crate) struct RunMetrics;

impl RunMetrics {
    pub fn starts(&mut self) {}

    pub fn started(&mut self) {}

    pub fn stops(&mut self) {}

    pub fn ended(&mut self, _: EndReason) {}

    pub fn releases(&mut self) {}

    pub fn released(&mut self) {}
}
