//! Compares the declared struct sizes with a real plugin. There is no header to compare with, but a plugin
//! reports the size it expects when it is given a struct that is too small.

#[path = "../tests/support/plugin_path.rs"]
mod plugin_path;

use crate::Plugin;
use crate::api::Api;
use crate::error::Error;
use crate::ffi::{Callee, Function, calls};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Returns the expected size. `None` if the function does not check the size first.
fn expected_size(api: &Api, function: Function) -> Option<usize> {
    let callee = api.pointer(function)?;
    // As long as the longest struct, but with a declared size of one word.
    let mut args = [0usize; 64];
    args[0] = size_of::<usize>();
    // SAFETY: the function checks the size first and refuses; we own its error.
    let answer = unsafe {
        let callee = std::mem::transmute::<NonNull<c_void>, Callee>(callee);
        api.take_error(callee(args.as_mut_ptr().cast()), function)
    };
    let Err(Error::Call(error)) = answer else { panic!("{} took an empty struct", function.name()) };
    let (_, rest) = error.message.split_once(": expected ")?;
    rest.split_once(", got 8")?.0.parse().ok()
}

#[test]
fn structs_are_as_large_as_the_plugin_expects() {
    let Some(path) = plugin_path::cpu_plugin_path() else { return };
    let plugin = Plugin::load(path).expect("a plugin");
    let mut checked = 0;
    for (function, size) in calls::SIZES {
        // CPU plugins have no topologies by name and refuse regardless of the arguments.
        let Some(expected) = expected_size(&plugin.api, *function) else {
            assert_eq!(*function, Function::TopologyDescriptionCreate);
            continue;
        };
        checked += 1;
        // Plugins count up to the last field, this crate includes the padding after it.
        let expected = expected.next_multiple_of(8);
        if *function == Function::ExecutableGetCompiledMemoryStats {
            // Up to 0.81 at least, plugins checked the size of another struct here.
            assert!(expected <= *size, "{} takes {expected} bytes, not {size}", function.name());
        } else {
            assert_eq!(expected, *size, "{}", function.name());
        }
    }
    assert_eq!(checked, calls::SIZES.len() - 1);
}

#[test]
fn other_plugins_expect_the_same() {
    plugin_path::for_other_plugins("structs_are_as_large");
}
