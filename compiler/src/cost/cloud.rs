//! Slices at Google Cloud: what they are called there, and the environment that tells libtpu which part of a
//! slice a host is.

use super::target::Slice;

/// A host of a slice, as its variables describe it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Worker {
    /// Names or addresses of the hosts of its slice, in order.
    pub hosts: Vec<String>,
    /// The index of this host among them.
    pub index: usize,
    /// The index of its slice.
    pub slice: usize,
    /// The first host of the first slice. Needed for several slices.
    pub coordinator: Option<String>,
}

/// Returns the accelerator type of one slice, such as `v5litepod-32` or `v4-128`.
pub fn accelerator_type(slice: &Slice) -> String {
    let cloud = &slice.generation.cloud;
    let of_chip = if cloud.counts == "cores" { slice.generation.cores } else { 1 };
    format!("{}-{}", cloud.name, slice.chips() * of_chip)
}

/// Returns the shape of one slice as Google Cloud writes it, such as `4x8`.
pub fn topology(slice: &Slice) -> String {
    slice.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// Returns the variables of `worker`, from which libtpu learns the shape of the slice and the other hosts,
/// and a job its rank and its coordinator. GKE sets the same ones.
///
/// # Errors
/// The number of hosts does not fit the slice, or a value is out of range. The message is a sentence.
pub fn environment(slice: &Slice, worker: &Worker) -> Result<Vec<(&'static str, String)>, String> {
    let count = worker.hosts.len();
    // A single machine may have more chips than a host of a larger slice.
    if count != slice.hosts() && count != 1 {
        return Err(format!("a slice {} has {} hosts, not {count}", slice.topology(), slice.hosts()));
    }
    if worker.index >= count {
        return Err(format!("worker {} is not among {count} hosts: they count from 0", worker.index));
    }
    if worker.slice >= slice.slices {
        return Err(format!("slice {} is not among {}: they count from 0", worker.slice, slice.slices));
    }
    let bounds =
        |of: &dyn Fn(usize) -> usize| (0..3).map(|dim| of(dim).to_string()).collect::<Vec<_>>().join(",");
    let chips = |dim: usize| slice.shape.get(dim).copied().unwrap_or(1);
    let own = |dim: usize| {
        let own = slice.generation.host.get(dim).copied().unwrap_or(1);
        if count == 1 { chips(dim) } else { own.min(chips(dim)) }
    };
    let mut all = vec![
        ("TPU_ACCELERATOR_TYPE", accelerator_type(slice)),
        ("TPU_CHIPS_PER_HOST_BOUNDS", bounds(&own)),
        ("TPU_HOST_BOUNDS", bounds(&|dim| chips(dim).div_ceil(own(dim)))),
        ("TPU_WORKER_ID", worker.index.to_string()),
        ("TPU_WORKER_HOSTNAMES", worker.hosts.join(",")),
    ];
    if slice.slices > 1 {
        let Some(coordinator) = &worker.coordinator else {
            return Err("several slices need a coordinator: the first host of the first slice".to_owned());
        };
        all.push(("MEGASCALE_NUM_SLICES", slice.slices.to_string()));
        all.push(("MEGASCALE_SLICE_ID", worker.slice.to_string()));
        all.push(("MEGASCALE_COORDINATOR_ADDRESS", coordinator.clone()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(text: &str) -> Slice {
        Slice::parse(text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn slices_have_the_names_of_the_cloud() {
        let name = |text| accelerator_type(&slice(text));
        assert_eq!(name("v5e:4x8"), "v5litepod-32");
        assert_eq!(name("v3:32x32"), "v3-2048");
        assert_eq!(name("v4:8x8x16"), "v4-2048");
        assert_eq!(name("v4:4x4x4:megacore"), "v4-128");
        assert_eq!(name("v6e:4x4:slices=2"), "v6e-16");
    }

    #[test]
    fn the_environment_describes_a_host() {
        #[track_caller]
        fn check(text: &str, hosts: usize, index: usize, expected: &[&str]) {
            let slice = slice(text);
            let hosts = (0..hosts).map(|i| format!("h{i}")).collect();
            let coordinator = (slice.slices > 1).then(|| "h0".to_owned());
            let worker = Worker { hosts, index, slice: slice.slices - 1, coordinator };
            let all = environment(&slice, &worker).unwrap_or_else(|e| panic!("{e}"));
            let lines: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(lines, expected, "{text}");
        }
        check(
            "v5e:4x4",
            4,
            1,
            &[
                "TPU_ACCELERATOR_TYPE=v5litepod-16",
                "TPU_CHIPS_PER_HOST_BOUNDS=2,2,1",
                "TPU_HOST_BOUNDS=2,2,1",
                "TPU_WORKER_ID=1",
                "TPU_WORKER_HOSTNAMES=h0,h1,h2,h3",
            ],
        );
        check(
            "v4:2x2x2:slices=2",
            2,
            0,
            &[
                "TPU_ACCELERATOR_TYPE=v4-16",
                "TPU_CHIPS_PER_HOST_BOUNDS=2,2,1",
                "TPU_HOST_BOUNDS=1,1,2",
                "TPU_WORKER_ID=0",
                "TPU_WORKER_HOSTNAMES=h0,h1",
                "MEGASCALE_NUM_SLICES=2",
                "MEGASCALE_SLICE_ID=1",
                "MEGASCALE_COORDINATOR_ADDRESS=h0",
            ],
        );
        // Names of tpu7x count cores, of which a chip has two.
        assert_eq!(accelerator_type(&slice("tpu7x:4x4x4")), "tpu7x-128");
        // One machine with eight chips.
        let one =
            ["TPU_ACCELERATOR_TYPE=v5litepod-8", "TPU_CHIPS_PER_HOST_BOUNDS=2,4,1", "TPU_HOST_BOUNDS=1,1,1"];
        check("v5e:2x4", 1, 0, &[&one[..], &["TPU_WORKER_ID=0", "TPU_WORKER_HOSTNAMES=h0"]].concat());
    }

    #[test]
    fn workers_outside_of_the_slice_are_refused() {
        #[track_caller]
        fn fails(text: &str, worker: Worker, part: &str) {
            let error = environment(&slice(text), &worker).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let hosts = |n: usize| vec!["h".to_owned(); n];
        fails("v5e:4x4", Worker { hosts: hosts(3), ..Worker::default() }, "v5e:4x4 has 4 hosts, not 3");
        fails(
            "v5e:4x4",
            Worker { hosts: hosts(4), index: 4, ..Worker::default() },
            "worker 4 is not among 4",
        );
        fails("v5e:4x4", Worker { hosts: hosts(4), slice: 1, ..Worker::default() }, "slice 1 is not among 1");
        let two = Worker { hosts: hosts(4), ..Worker::default() };
        fails("v5e:4x4:slices=2", two, "several slices need a coordinator");
    }
}
