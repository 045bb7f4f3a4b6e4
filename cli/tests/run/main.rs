//! `lockkeeper run`: what it promises to its users.

#[path = "../common/mod.rs"]
mod common;

mod acquiring;
mod credentials;
mod ending;
mod frames;
mod input;
mod leases;
mod outages;
#[path = "../../../benches/shared/delaying_relay.rs"]
mod relay;
