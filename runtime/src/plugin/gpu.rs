//! Options of a GPU plugin's client in a job of several processes.

use job::Place;
use pjrt::{Named, Value};

/// Returns the options of the client of a process at `place`: its number, the number of processes, and the
/// GPU that it uses if the cluster started one process per GPU. `visible` is `CUDA_VISIBLE_DEVICES`.
///
/// The plugin calls processes nodes, whether they share a machine or not. A cluster that already shows each
/// process its own GPU needs no choice here, and a process that is alone on its machine uses all GPUs.
pub fn options(place: &Place, visible: Option<&str>) -> Vec<Named> {
    let mut options = vec![
        ("node_id".to_owned(), Value::Int(i64::from(place.rank))),
        ("num_nodes".to_owned(), Value::Int(i64::from(place.size))),
    ];
    let is_alone = place.local_size == Some(1);
    let has_one = visible.is_some_and(|list| !list.trim().is_empty() && !list.contains(','));
    if let Some(rank) = place.local_rank.filter(|_| !is_alone && !has_one) {
        options.push(("visible_devices".to_owned(), Value::Ints(vec![i64::from(rank)])));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(local: (Option<u32>, Option<u32>), visible: Option<&str>, expect: Option<i64>) {
        let (local_rank, local_size) = local;
        let coordinator = "gpu-0:61440".to_owned();
        let place = Place { rank: 5, size: 8, coordinator, local_rank, local_size, slice: (0, 1) };
        let mut expected =
            vec![("node_id".to_owned(), Value::Int(5)), ("num_nodes".to_owned(), Value::Int(8))];
        expected.extend(expect.map(|gpu| ("visible_devices".to_owned(), Value::Ints(vec![gpu]))));
        assert_eq!(options(&place, visible), expected, "{local:?} {visible:?}");
    }

    #[test]
    fn a_process_uses_its_gpu_or_all_of_its_machine() {
        // One process for each of four GPUs.
        check((Some(1), Some(4)), None, Some(1));
        check((Some(1), Some(4)), Some("0,1,2,3"), Some(1));
        // The cluster shows each process one GPU.
        check((Some(1), Some(4)), Some("1"), None);
        // One process per machine.
        check((Some(0), Some(1)), None, None);
        check((None, None), None, None);
        check((Some(3), None), None, Some(3));
    }
}
