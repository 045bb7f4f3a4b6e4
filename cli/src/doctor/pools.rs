//! What can be wrong with a semaphore.

use lockkeeper::inspect::Pool;

use super::finding::{Finding, Kind, Report, Unchecked};
use crate::list::identifier;
use crate::text::shell_word;

pub fn examine(pool: &Pool, report: &mut Report) {
    report.findings.extend(too_many_permits(pool));
    report.findings.extend(mutex_kept(pool));
    if pool.limit.is_none() {
        let why = "its data are not a number of permits, so it is not known how many it has";
        report.unchecked.extend([Kind::TooManyPermits, Kind::MutexKept].map(|kind| Unchecked {
            kind,
            path: pool.path.clone(),
            why: why.to_owned(),
        }));
    }
}

fn too_many_permits(pool: &Pool) -> Option<Finding> {
    let (limit, taken) = (pool.limit?, pool.taken.len());
    let is_foreign = |name: &str| name.len() != 32 || !name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let names = pool.taken.iter().map(|taken| taken.holder.name.clone());
    let foreign: Vec<String> = names.filter(|name| is_foreign(name)).collect();
    let (what, remedy) = match &foreign[..] {
        [] => (
            format!("{taken} permits are taken, and it has {limit}"),
            format!(
                "if it was made smaller, wait until some are released; otherwise clients disagree about the number, and \
                 `lockkeeper resize {} N` sets it",
                shell_word(&pool.path)
            ),
        ),
        [first, ..] => (
            format!("{taken} children count as taken permits, and it has {limit}; {first:?} is not a permit"),
            format!("do not use {} for anything else: delete what does not belong there", pool.path),
        ),
    };
    (taken > limit as usize).then(|| Finding {
        kind: Kind::TooManyPermits,
        path: pool.path.clone(),
        nodes: foreign,
        what,
        remedy,
    })
}

/// A process whose request does not fit keeps the mutex, so that it is not overtaken for ever. Others wait behind it,
/// although permits are free.
fn mutex_kept(pool: &Pool) -> Option<Finding> {
    let free = (pool.limit? as usize).checked_sub(pool.taken.len()).filter(|free| *free > 0)?;
    let first = pool.mutex.entries.first()?;
    let behind = match pool.mutex.entries.len() - 1 {
        0 => String::new(),
        behind => format!(", and {behind} more wait behind it"),
    };
    Some(Finding {
        kind: Kind::MutexKept,
        path: pool.path.clone(),
        nodes: vec![first.contender.name.clone()],
        what: format!(
            "{} waits for more permits than the {free} that are free{behind}",
            identifier(&first.contender.identifier, first.readable)
        ),
        remedy: format!(
            "it is served when permits are released; `lockkeeper show {}` shows by whom they are taken",
            shell_word(&pool.path)
        ),
    })
}
