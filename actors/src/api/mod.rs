//! The interface between applications and actors: requests and messages to the actors; events, leases and errors from
//! them.

pub mod contender;
pub mod error;
pub mod event;
pub(crate) mod grant;
pub mod inspection;
pub mod keep_alive;
pub mod keeper_state;
pub mod lease;
pub mod lease_view;
pub mod messages;
pub mod multi_lease;
pub mod request;
pub mod resource;
pub(crate) mod session_lease;
pub mod token;
