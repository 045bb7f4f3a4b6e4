//! Random walks: for budgets whose states are too many for a search.

use super::properties::RESTING;
use super::world::{Action, Scenario, World};

/// What is broken at the end of this seed's walk, and the way there.
pub fn walk(scenario: &Scenario, seed: u64) -> (Option<&'static str>, Vec<Action>) {
    let mut random = Random(seed);
    let (mut world, mut way, mut actions) = (World::new(scenario), Vec::new(), Vec::new());
    // Some walks are calm and some are not.
    let calm = random.below(6) + 1;
    for step in 0..STEPS {
        actions.clear();
        world.due(scenario, &mut actions);
        let over = step >= STEPS / 2;
        if !over && (actions.is_empty() || random.below(calm) == 0) {
            actions.clear();
            world.actions(scenario, &mut actions);
        }
        if actions.is_empty() {
            return (None, way);
        }
        let action = actions.swap_remove(random.below(actions.len()));
        way.push(action.clone());
        world.apply(scenario, action);
        if let Some(broken) = world.broken(scenario) {
            return (Some(broken), way);
        }
    }
    (Some(RESTING), way)
}

/// In the second half of a walk nothing is asked for and nothing goes wrong: it must come to rest.
const STEPS: usize = 600;

/// Sebastiano Vigna's splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound as u64) as usize
    }
}
