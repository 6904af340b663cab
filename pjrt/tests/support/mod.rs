//! Helpers of the tests with a real plugin.
#![allow(dead_code)] // Every test file is a crate of its own and uses a part of this.

pub mod hlo;
pub mod plugin_path;

use pjrt::{Argument, Buffer, Client, ClientOptions, Device, ElementType, HostArray, Plugin};

/// The CPU plugin, if there is one.
pub fn cpu_plugin() -> Option<Plugin> {
    let path = plugin_path::cpu_plugin_path()?;
    Some(Plugin::load(&path).unwrap_or_else(|error| panic!("{error}")))
}

/// A client with that many CPU devices.
pub fn cpu_client(devices: i64) -> Option<Client> {
    let options = ClientOptions::new().with("cpu_device_count", devices);
    Some(Client::create(&cpu_plugin()?, &options).expect("a CPU client"))
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

pub fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().expect("four bytes"))).collect()
}

/// A vector on a device.
pub fn vector(device: &Device, values: &[f32]) -> Buffer {
    let dims = [values.len() as i64];
    let array = HostArray::dense(ElementType::F32, &dims);
    device.client().buffer_from_slice(&f32_bytes(values), &array, device).expect("a buffer")
}

/// Returns the contents of a buffer.
#[track_caller]
pub fn values(buffer: &Buffer) -> Vec<f32> {
    f32_values(&buffer.to_vec().expect("the buffer's contents"))
}

/// The arguments of a run on one device.
pub fn one_device<'a>(arguments: impl IntoIterator<Item = Argument<'a>>) -> Vec<Vec<Argument<'a>>> {
    vec![arguments.into_iter().collect()]
}

/// The message of an error.
#[track_caller]
pub fn message<T>(result: pjrt::Result<T>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}
