//! The specification of a record, and for each of its rules records that it refuses: one for each thing that the rule
//! says.

mod change;
mod leases;
mod locks;
mod permits;

use lockkeeper_actors::record::Step;

use super::common::run;
use super::records::specification::*;
use super::scenes;

/// A rule, a part of what it says about the altered record, and how a real record is altered. `None` if the record has
/// no such step.
type Row = (&'static str, &'static str, fn(&mut Vec<Step>) -> Option<()>);

#[test]
fn a_real_record_keeps_every_rule_and_an_altered_one_breaks_it() {
    run(async {
        let steps = scenes::all().await;
        judge(&steps).unwrap_or_else(|broken| panic!("{broken}"));
        let rows = || locks::ROWS.iter().chain(permits::ROWS).chain(leases::ROWS);
        for rule in RULES {
            assert!(rows().any(|(of, ..)| of == rule), "each rule has a row: {rule}");
        }
        let wrong: Vec<String> = rows().filter_map(|row| accepted(&steps, row)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Why a row is wrong, if it is: its record is not refused, or not for its reason.
fn accepted(steps: &[Step], (rule, reason, alter): &Row) -> Option<String> {
    let mut altered = steps.to_vec();
    let judged = match alter(&mut altered) {
        Some(()) => judge(&altered),
        None => return Some(format!("{rule} ({reason}): there is no such step")),
    };
    match judged {
        Err(broken) if broken.rule == *rule && broken.what.contains(reason) => None,
        Err(broken) => Some(format!("{rule} ({reason}): {broken}")),
        Ok(()) => Some(format!("{rule} ({reason}): it is not refused")),
    }
}

/// The counterpart of two rows: what makes them different keeps the rule.
#[test]
fn a_real_record_keeps_every_rule_where_an_exception_is_made() {
    run(async {
        let steps = scenes::all().await;
        let mut twice = steps.clone();
        permits::takes_again(&mut twice, true).expect("such a step");
        judge(&twice).unwrap_or_else(|broken| panic!("{broken}"));
        let mut stopped = steps;
        leases::kills_late(&mut stopped, true).expect("such a step");
        judge(&stopped).unwrap_or_else(|broken| panic!("{broken}"));
    });
}

fn judge(steps: &[Step]) -> Result<(), Broken> {
    let mut specification = Specification::default();
    specification.feed(steps).and_then(|()| specification.finish())
}
