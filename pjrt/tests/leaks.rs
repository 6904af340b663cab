//! A thousand runs and a thousand errors on a real plugin do not make the process grow.

mod support;

use pjrt::{
    AlignedBytes, Argument, Buffer, Client, ElementType, ExecuteOptions, HostArray, HostUse, Program,
};
use support::hlo::{self, compile_options};
use support::{cpu_client, one_device};

/// Elements of each array: a quarter of a MiB, so that losing one array per round is visible.
const ELEMENTS: i64 = 1 << 16;
const ROUNDS: usize = 1000;
/// Growth in bytes that allocators and caches may cause; one lost array per round would be 250 MiB.
const SLACK: usize = 24 << 20;

/// Returns the resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number");
    pages * 4096
}

/// Calls `round` until all caches are warm, then often enough to see a leak.
#[track_caller]
fn does_not_grow(what: &str, mut round: impl FnMut()) {
    (0..ROUNDS / 4).for_each(|_| round());
    let before = resident();
    (0..ROUNDS).for_each(|_| round());
    let growth = resident().saturating_sub(before);
    assert!(growth < SLACK, "{ROUNDS} times {what}: {growth} bytes more");
}

fn array() -> HostArray<'static> {
    HostArray::dense(ElementType::F32, &[ELEMENTS])
}

fn buffer(client: &Client, bytes: &[u8]) -> Buffer {
    let device = &client.addressable_devices().expect("devices")[0];
    client.buffer_from_slice(bytes, &array(), device).expect("a buffer")
}

/// A single test, because memory is measured per process.
#[test]
fn nothing_grows() {
    let Some(client) = cpu_client(1) else { return };
    let device = client.addressable_devices().expect("devices").swap_remove(0);
    let bytes = vec![0; 4 * ELEMENTS as usize];
    let code = hlo::add_in_place(&[ELEMENTS]);
    let program = client.compile(&Program::hlo(&code), &compile_options(1)).expect("compiles");
    let options = ExecuteOptions::default();
    let y = buffer(&client, &bytes);

    let mut x = Some(buffer(&client, &bytes));
    does_not_grow("run with donation", || {
        let given = x.take().expect("the last round's output");
        let mut outputs = program
            .execute(one_device([given.into(), (&y).into()]), &options)
            .and_then(|run| run.wait())
            .expect("runs");
        x = Some(outputs[0].swap_remove(0));
    });
    let x = x.expect("the last round's output");
    does_not_grow("run without donation, not waited for", || {
        let run = program.execute(one_device([(&x).into(), (&y).into()]), &options).expect("starts");
        drop(run.outputs[0][0].start_read().expect("starts"));
    });
    does_not_grow("sent and read", || {
        let lent = AlignedBytes::zeroed(bytes.len());
        let lent = client.buffer_from_host(lent, &array(), &device, HostUse::ZeroCopy).expect("a buffer");
        lent.to_vec().expect("contents");
        let given = client.buffer_from_host(bytes.clone(), &array(), &device, HostUse::UntilTransferred);
        given.expect("a buffer").ready().expect("an event").on_ready(drop).expect("registers");
    });
    does_not_grow("a run that we refuse", || {
        let few: Vec<Argument<'_>> = vec![buffer(&client, &bytes).into()];
        assert!(program.try_execute(vec![few], &options).is_err());
    });
    let stored = program.executable().serialize().expect("an answer").expect("CPU plugins can");
    let unchecked = client.load_serialized(&stored, None).expect("loads");
    // The plugin prints each error to standard error, so there are only a few.
    for _ in 0..20 {
        let few: Vec<Argument<'_>> = vec![buffer(&client, &bytes).into()];
        assert!(unchecked.try_execute(vec![few], &options).is_err());
    }
    does_not_grow("a program that is refused", || {
        assert!(client.compile(&Program::hlo(b"not a module"), &compile_options(1)).is_err());
        assert!(client.load_serialized(b"not an executable", None).is_err());
    });
}
