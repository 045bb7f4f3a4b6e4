//! How this process names itself in ZooKeeper, unless the application says otherwise.

/// `user@host:pid`, as far as the system tells them.
pub(crate) fn of_this_process() -> String {
    format!("{}@{}:{}", user(), host(), std::process::id())
}

#[cfg(unix)]
fn user() -> String {
    let user = variable("USER").or_else(|| variable("LOGNAME"));
    user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn user() -> String {
    variable("USERNAME").unwrap_or_default()
}

#[cfg(not(unix))]
fn host() -> String {
    variable("COMPUTERNAME").unwrap_or_default()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
