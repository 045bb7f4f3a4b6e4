//! What holds when something is wrong: with what is asked, with what others have left in the directory, with access
//! lists, with answers that never come, with connections, servers, and with the application itself. As in the
//! promises, one function for each, and a test for each kind of lock.

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod access_lists;
mod applications;
mod closing;
mod connections;
mod lost_answers;
mod neighbours;
mod requests;
