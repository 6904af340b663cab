//! End-to-end tests on a CUDA plugin in `MESH_GPU_PLUGIN`. Opt-in, because the plugin and NVIDIA's libraries
//! are large downloads. On a machine without a GPU, the plugin must report that.

mod support;

use pjrt::{
    AlignedBytes, Client, ClientOptions, ElementType, ExecuteOptions, HostArray, HostUse, Plugin, Program,
};
use support::hlo::{self, compile_options};
use support::plugin_path::say_skipped;
use support::{f32_bytes, one_device, values, vector};

/// Creates a client that does not preallocate GPU memory. `None` if there is no plugin or no GPU.
fn gpu_client() -> Option<Client> {
    let Some(path) = std::env::var_os("MESH_GPU_PLUGIN") else {
        say_skipped("MESH_GPU_PLUGIN does not name a CUDA plugin");
        return None;
    };
    let plugin = Plugin::load(path).unwrap_or_else(|error| panic!("{error}"));
    let options = ClientOptions::new().with("preallocate", false);
    match Client::create(&plugin, &options) {
        Ok(client) => Some(client),
        Err(error) => {
            assert!(error.to_string().starts_with("PJRT_Client_Create failed: "), "{error}");
            assert!(!std::path::Path::new("/dev/nvidia0").exists(), "there is a GPU, but {error}");
            say_skipped("the CUDA plugin finds no GPU, and says so");
            None
        }
    }
}

#[test]
fn runs_reads_and_donates() {
    let Some(client) = gpu_client() else { return };
    assert_eq!(client.platform_name().expect("a name"), "cuda");
    let device = &client.addressable_devices().expect("devices")[0];
    let memory = device.memory_stats().expect("an answer").expect("GPUs count");
    assert!(memory.bytes_limit.is_some_and(|limit| limit > 0), "{memory:?}");
    let program =
        client.compile(&Program::hlo(&hlo::add_in_place(&[1024])), &compile_options(1)).expect("compiles");
    let y = vector(device, &[2.; 1024]);
    let array = HostArray::dense(ElementType::F32, &[1024]);
    let lent = AlignedBytes::from(&f32_bytes(&[1.; 1024])[..]);
    let mut x = client.buffer_from_host(lent, &array, device, HostUse::UntilTransferred).expect("a buffer");
    for step in 1..=3 {
        let arguments = one_device([x.into(), (&y).into()]);
        let run = program.execute(arguments, &ExecuteOptions::default());
        x = run.and_then(|run| run.wait()).expect("runs")[0].swap_remove(0);
        assert_eq!(values(&x), [1. + 2. * step as f32; 1024]);
    }
    let outputs = program
        .execute(one_device([(&x).into(), (&y).into()]), &ExecuteOptions::default())
        .and_then(|run| run.wait())
        .expect("runs");
    assert_eq!(values(&outputs[0][0]), [9.; 1024]);
    assert_eq!(values(&x), [7.; 1024]);
    let stored = program.executable().serialize().expect("an answer").expect("CUDA plugins can");
    client.load_serialized(&stored, None).expect("loads");
}
