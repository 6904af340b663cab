//! The assignment of expert slots, replayed from recorded choices with any capacity.

/// The recorded choices of a group of tokens that compete for expert slots.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Number of choices of each token.
    pub choices: usize,
    /// The chosen experts, `[tokens, choices]`.
    pub chosen: &'a [u32],
    /// True for choices that take part, `[tokens, choices]`.
    pub counts: &'a [bool],
    /// If tokens with large gates get expert slots first: the gates that decide, `[tokens]`. `None` means the
    /// order of tokens.
    pub priority: Option<&'a [f32]>,
    /// True if a token gets one expert slot at most ("no token left behind").
    pub one_slot: bool,
}

/// Returns for each choice, `[tokens, choices]`, true if it has an expert slot when the experts have
/// `capacity` of them.
///
/// As in `models`: all first choices come before all second ones; within a round, the order is that of
/// tokens, or of descending gates, of which equal ones are in the order of tokens; a choice without an expert
/// slot still counts for the position of later ones.
pub fn assign(group: &Group<'_>, capacity: &[usize]) -> Vec<bool> {
    let tokens = group.chosen.len() / group.choices.max(1);
    let mut order: Vec<usize> = (0..tokens).collect();
    if let Some(gates) = group.priority {
        // Padding comes last.
        let key = |t: usize| if group.counts[t * group.choices] { gates[t] } else { -1.0 };
        order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
    }
    let mut filled = vec![0; capacity.len()];
    let mut has = vec![false; group.chosen.len()];
    for round in 0..group.choices {
        for token in &order {
            let own = token * group.choices..(token + 1) * group.choices;
            let at = own.start + round;
            if !group.counts[at] || group.one_slot && has[own].contains(&true) {
                continue;
            }
            let expert = group.chosen[at] as usize;
            let place = &mut filled[expert];
            has[at] = *place < capacity[expert];
            *place += 1;
        }
    }
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the choices with an expert slot of four tokens and two experts.
    #[track_caller]
    fn check(group: &Group<'_>, capacity: usize, expect: &[u8]) {
        let has: Vec<u8> = assign(group, &[capacity; 2]).into_iter().map(u8::from).collect();
        assert_eq!(has, expect, "capacity {capacity}");
    }

    #[test]
    fn tokens_get_slots_in_their_order_or_by_gate() {
        let all = [true; 4];
        let one = Group { choices: 1, chosen: &[0, 0, 1, 0], counts: &all, priority: None, one_slot: false };
        check(&one, 1, &[1, 0, 1, 0]);
        check(&one, 2, &[1, 1, 1, 0]);
        check(&one, 3, &[1, 1, 1, 1]);
        check(&one, 0, &[0, 0, 0, 0]);
        let gates = Group { priority: Some(&[0.5, 0.9, 0.6, 0.5]), ..one };
        check(&gates, 1, &[0, 1, 1, 0]);
        check(&gates, 2, &[1, 1, 1, 0]);
        // Padding takes no slot, also if its gate is large.
        check(&Group { counts: &[true, false, true, true], ..gates }, 1, &[1, 0, 1, 0]);
    }

    #[test]
    fn second_choices_come_after_first_ones() {
        let chosen = [0, 1, 0, 1, 1, 0, 0, 1];
        let all = [true; 8];
        let two = Group { choices: 2, chosen: &chosen, counts: &all, priority: None, one_slot: false };
        // First choices: 0, 0, 1, 0; second: 1, 1, 0, 1.
        check(&two, 1, &[1, 0, 0, 0, 1, 0, 0, 0]);
        // Expert 0 has three first choices, of which the last has no slot; the second choice of token 2 comes
        // fourth.
        check(&two, 2, &[1, 1, 1, 0, 1, 0, 0, 0]);
        check(&two, 4, &[1, 1, 1, 1, 1, 1, 1, 1]);
        let one_slot = Group { one_slot: true, ..two };
        check(&one_slot, 1, &[1, 0, 0, 0, 1, 0, 0, 0]);
        // Tokens 0 and 1 have slots of expert 0, token 3 goes on to expert 1.
        check(&one_slot, 2, &[1, 0, 1, 0, 1, 0, 0, 1]);
    }
}
