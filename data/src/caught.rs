//! Calls of other people's code that panics on some damaged files.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    /// True while this thread is in a call whose panic is caught.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Returns the result of `call`. `None` means that it panicked. The panic prints nothing; everything that the
/// call changed must be dropped afterwards.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    QUIET.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_none() {
        assert_eq!(caught(|| 1), Some(1));
        assert_eq!(
            caught(|| caught(|| panic!("quiet")).is_none().then(|| panic!("quiet"))),
            None::<Option<()>>
        );
        assert!(!QUIET.get());
    }
}
