//! Custom calls on a real CPU plugin: calls that wait for one another, finish elsewhere, or fail.
//!
//! One test, because a process has one handler.

mod support;

use pjrt::{Argument, CustomCall, CustomCalls, ElementType, ExecuteOptions, Program};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::hlo::{self, F32, array, replica_options};
use support::{cpu_client, values, vector};

const U32: i64 = 8;

/// Swaps the data of two devices (call 0), or fails (call 1). A call waits for the other device's.
#[derive(Default)]
struct Swap {
    waiting: Mutex<Option<CustomCall>>,
}

impl CustomCalls for Swap {
    fn call(&self, mut call: CustomCall) {
        assert_eq!(call.inputs(), 2);
        assert_eq!(call.input(0).0, ElementType::U32);
        if call.number() == 1 {
            return call.fail("the other process is gone");
        }
        let Some(mut other) = self.waiting.lock().unwrap().take() else {
            *self.waiting.lock().unwrap() = Some(call);
            return;
        };
        // Neither call is finished on the plugin's thread.
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let (mine, theirs) = (call.input(1).1.to_vec(), other.input(1).1.to_vec());
            call.output(0).copy_from_slice(&theirs);
            other.output(0).copy_from_slice(&mine);
            call.finish();
            other.finish();
        });
    }
}

/// `swap(x) + replica`, by custom call `number`.
fn program(number: i64) -> Vec<u8> {
    let (vector, scalar) = (array(F32, &[3]), array(U32, &[]));
    let mut program = hlo::Program::new("swap");
    let x = program.parameter(&vector);
    let replica = program.op("replica-id", &scalar, &[]);
    let swapped = program.custom_call("mesh_swap", number, &vector, &[replica, x]);
    let twice = program.op("add", &vector, &[swapped, swapped]);
    program.outputs(&[(twice, vector)], &[])
}

#[test]
fn calls_finish_on_other_threads_and_fail_with_a_message() {
    let Some(client) = cpu_client(2) else { return };
    let handler: Arc<dyn CustomCalls> = Arc::new(Swap::default());
    client.plugin().register_custom_calls("mesh_swap", &handler).expect("a plugin with FFI");
    let another: Arc<dyn CustomCalls> = Arc::new(Swap::default());
    let refused = client.plugin().register_custom_calls("mesh_other", &another).unwrap_err().to_string();
    assert!(refused.contains("another handler"), "{refused}");

    let run = |number: i64, round: f32| {
        let code = program(number);
        let executable = client.compile(&Program::hlo(&code), &replica_options(2)).expect("compiles");
        let devices = executable.devices();
        let arguments = devices
            .iter()
            .enumerate()
            .map(|(i, device)| vec![Argument::Donate(vector(device, &[i as f32, round, 3.0]))]);
        let execution = executable.execute(arguments.collect(), &ExecuteOptions::default());
        execution.and_then(pjrt::Execution::wait)
    };
    for round in [1.0, 2.0, 3.0] {
        let outputs = run(0, round).expect("runs");
        assert_eq!(values(&outputs[0][0]), [2.0, 2.0 * round, 6.0]);
        assert_eq!(values(&outputs[1][0]), [0.0, 2.0 * round, 6.0]);
    }
    let message = match run(1, 0.0) {
        Err(error) => error.to_string(),
        Ok(outputs) => outputs[0][0].to_vec().unwrap_err().to_string(),
    };
    assert!(message.contains("the other process is gone"), "{message}");
}
