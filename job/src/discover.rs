//! Finds the rank, size and coordinator of this process.
//!
//! Sources, in order: the variables of `meshc train --processes`; flags; GKE's variables; Open MPI; SLURM;
//! the metadata server of a TPU VM (only if the program is for TPUs and the machine has chips). The first
//! source that describes a job of several processes is used; without one the process runs alone.
//!
//! A description must be that of the process itself. A batch job's script sees the job's number of tasks and
//! runs once, and tasks that Open MPI starts see variables of SLURM that describe Open MPI's daemons.

use crate::{Environment, Error, Result, metadata};

/// Port of the coordinator where the cluster does not say one.
pub const PORT: u16 = 8482;

/// Variables with which a process that starts the others tells each of them its place.
pub mod launched {
    /// The rank.
    pub const RANK: &str = "MESH_JOB_RANK";
    /// The number of processes.
    pub const SIZE: &str = "MESH_JOB_SIZE";
    /// The address of rank 0, `HOST:PORT`.
    pub const COORDINATOR: &str = "MESH_JOB_COORDINATOR";
}

/// Options of the command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// `--hosts N`: the number of processes.
    pub hosts: Option<u32>,
    /// `--rank I`.
    pub rank: Option<u32>,
    /// `--coordinator HOST:PORT`.
    pub coordinator: Option<String>,
}

/// The place of a process in a job of several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Rank, below `size`.
    pub rank: u32,
    /// Number of processes.
    pub size: u32,
    /// Address of rank 0's service, `HOST:PORT`.
    pub coordinator: String,
    /// Rank among the processes of the same machine, where the cluster starts several there.
    pub local_rank: Option<u32>,
    /// The number of processes on this machine, where the cluster says it.
    pub local_size: Option<u32>,
    /// The index of the TPU slice and the number of slices; `(0, 1)` elsewhere.
    pub slice: (u32, u32),
}

/// A place, and the source that described it (for the start-up line).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The place.
    pub place: Place,
    /// Such as `SLURM`.
    pub source: &'static str,
}

/// Finds the place of this process. `None` means that it runs alone. `tpu` says that the program is for TPUs
/// and that this machine has chips, so that a metadata server may be asked.
///
/// # Errors
/// [`Error::Place`] if a source is contradictory or incomplete; the message names the flag, variable or
/// metadata entry.
pub fn discover(flags: &Flags, environment: Environment, tpu: bool) -> Result<Option<Found>> {
    if let Some(place) = from_launcher(environment)? {
        return Ok(Some(Found { place, source: "--processes" }));
    }
    if let Some(place) = from_flags(flags)? {
        return Ok(Some(Found { place, source: "flags" }));
    }
    if let Some(place) = from_gke(environment)? {
        return Ok(Some(Found { place, source: "GKE's environment" }));
    }
    if let Some(place) = from_open_mpi(environment)? {
        return Ok(Some(Found { place, source: "Open MPI" }));
    }
    if let Some(place) = from_slurm(environment)? {
        return Ok(Some(Found { place, source: "SLURM" }));
    }
    if tpu && let Some(place) = from_metadata(&metadata::Server::new(environment))? {
        return Ok(Some(Found { place, source: "the TPU VM's metadata" }));
    }
    Ok(None)
}

fn from_launcher(environment: Environment) -> Result<Option<Place>> {
    let Some(rank) = number(environment, launched::RANK)? else { return Ok(None) };
    let size = number(environment, launched::SIZE)?.ok_or_else(|| missing(launched::SIZE, launched::RANK))?;
    let coordinator =
        environment(launched::COORDINATOR).ok_or_else(|| missing(launched::COORDINATOR, launched::RANK))?;
    let place =
        Place { rank, size, coordinator, local_rank: Some(rank), local_size: Some(size), slice: (0, 1) };
    in_range(place, launched::RANK, launched::SIZE)
}

fn from_flags(flags: &Flags) -> Result<Option<Place>> {
    let Flags { hosts, rank, coordinator } = flags;
    match (hosts, rank, coordinator) {
        (None, None, None) => Ok(None),
        (Some(size), Some(rank), Some(coordinator)) => {
            // Port 0 takes a free port, which the other hosts could not know.
            let port = coordinator.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(Error::Place(format!("`--coordinator` must be HOST:PORT (got {coordinator})")));
            }
            let place = Place {
                rank: *rank,
                size: *size,
                coordinator: coordinator.clone(),
                local_rank: None,
                local_size: None,
                slice: (0, 1),
            };
            in_range(place, "--rank", "--hosts")
        }
        _ => Err(Error::Place("`--hosts`, `--rank` and `--coordinator` go together: give all three".into())),
    }
}

fn from_gke(environment: Environment) -> Result<Option<Place>> {
    let Some(worker) = number(environment, "TPU_WORKER_ID")? else { return Ok(None) };
    let (name, hosts) = match environment("TPU_PROCESS_ADDRESSES") {
        Some(list) => ("TPU_PROCESS_ADDRESSES", list),
        None => match environment("TPU_WORKER_HOSTNAMES") {
            Some(list) => ("TPU_WORKER_HOSTNAMES", list),
            None => return Ok(None),
        },
    };
    let slices = number(environment, "MEGASCALE_NUM_SLICES")?;
    let slice = number(environment, "MEGASCALE_SLICE_ID")?;
    let coordinator = environment("MEGASCALE_COORDINATOR_ADDRESS");
    sliced(&Slices { worker, hosts: host_names(&hosts), slice, slices, coordinator }, name)
}

/// A host's view of its slice.
struct Slices {
    /// The host's index in its slice.
    worker: u32,
    /// The hosts of the slice.
    hosts: Vec<String>,
    slice: Option<u32>,
    slices: Option<u32>,
    /// Address of the first slice's coordinator, with several slices.
    coordinator: Option<String>,
}

/// Rank = worker + slice × hosts of a slice.
fn sliced(found: &Slices, source: &str) -> Result<Option<Place>> {
    let per_slice = u32::try_from(found.hosts.len()).unwrap_or(u32::MAX);
    let slices = found.slices.unwrap_or(1);
    if found.worker >= per_slice.max(1) {
        return Err(Error::Place(format!(
            "worker {} is not among the {per_slice} hosts of {source}: {}",
            found.worker,
            found.hosts.join(",")
        )));
    }
    let (slice, first) = if slices > 1 {
        let slice = found.slice.ok_or_else(|| missing("MEGASCALE_SLICE_ID", "MEGASCALE_NUM_SLICES"))?;
        if slice >= slices {
            return Err(Error::Place(format!(
                "MEGASCALE_SLICE_ID={slice} is not below MEGASCALE_NUM_SLICES={slices}"
            )));
        }
        let address = (found.coordinator.clone())
            .ok_or_else(|| missing("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES"))?;
        (slice, without_port(&address).to_owned())
    } else {
        (0, found.hosts.first().cloned().unwrap_or_default())
    };
    let size = per_slice.saturating_mul(slices);
    if size <= 1 {
        return Ok(None);
    }
    Ok(Some(Place {
        rank: found.worker + slice * per_slice,
        size,
        coordinator: format!("{first}:{PORT}"),
        local_rank: None,
        local_size: None,
        slice: (slice, slices),
    }))
}

fn from_open_mpi(environment: Environment) -> Result<Option<Place>> {
    let rank = number(environment, "OMPI_COMM_WORLD_RANK")?;
    let (Some(rank), Some(size)) = (rank, number(environment, "OMPI_COMM_WORLD_SIZE")?) else {
        return Ok(None);
    };
    if size <= 1 {
        return Ok(None);
    }
    let variables = ["OMPI_MCA_orte_hnp_uri", "PMIX_SERVER_URI3", "PMIX_SERVER_URI2"];
    let uri = variables.iter().find_map(|name| environment(name));
    let uri = uri.ok_or_else(|| missing("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK"))?;
    let host = launcher_host(&uri).ok_or_else(|| {
        Error::Place(format!("Open MPI's launcher address `{uri}` has no tcp:// host; give --coordinator"))
    })?;
    let id = uri
        .split(['.', ';', '@'])
        .next()
        .map(|id| id.bytes().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b))));
    let place = Place {
        rank,
        size,
        coordinator: format!("{host}:{}", job_port(id.unwrap_or(0))),
        local_rank: number(environment, "OMPI_COMM_WORLD_LOCAL_RANK")?,
        local_size: number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")?,
        slice: (0, 1),
    };
    in_range(place, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
}

fn from_slurm(environment: Environment) -> Result<Option<Place>> {
    // `srun` sets the variables of a step. A batch script has a rank and the job's number of tasks
    // (SLURM_NTASKS) as well, but is one process.
    let size = number(environment, "SLURM_STEP_NUM_TASKS")?;
    let (Some(rank), Some(size)) = (number(environment, "SLURM_PROCID")?, size) else { return Ok(None) };
    // `mpirun` starts its daemons by `srun`, one for each node, and the tasks inherit the daemons' variables.
    if size <= 1 || environment("OMPI_COMM_WORLD_RANK").is_some() {
        return Ok(None);
    }
    let nodes = environment("SLURM_STEP_NODELIST")
        .ok_or_else(|| missing("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"))?;
    let first = first_node(&nodes)
        .ok_or_else(|| Error::Place(format!("SLURM_STEP_NODELIST={nodes} names no host")))?;
    let id = number(environment, "SLURM_JOB_ID")?.unwrap_or(0);
    let place = Place {
        rank,
        size,
        coordinator: format!("{first}:{}", job_port(id)),
        local_rank: number(environment, "SLURM_LOCALID")?,
        local_size: tasks_here(environment)?,
        slice: (0, 1),
    };
    in_range(place, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
}

fn from_metadata(server: &metadata::Server) -> Result<Option<Place>> {
    let Some(worker) = server.attribute("agent-worker-number")? else { return Ok(None) };
    let Some(endpoints) = server.attribute("worker-network-endpoints")? else { return Ok(None) };
    let worker = worker.trim().parse().map_err(|_| {
        Error::Place(format!("metadata `agent-worker-number` is no number: `{}`", worker.trim()))
    })?;
    let settings = server.attribute("tpu-env")?.unwrap_or_default();
    let setting = |key: &str| tpu_setting(&settings, key);
    let whole = |key: &str| -> Result<Option<u32>> {
        let Some(text) = setting(key) else { return Ok(None) };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|_| Error::Place(format!("metadata `tpu-env`: {key} is no number: `{text}`")))
    };
    let found = Slices {
        worker,
        hosts: host_names(&endpoints),
        slice: whole("MEGASCALE_SLICE_ID")?,
        slices: whole("MEGASCALE_NUM_SLICES")?,
        coordinator: setting("MEGASCALE_COORDINATOR_ADDRESS"),
    };
    sliced(&found, "worker-network-endpoints")
}

/// The value of `KEY: 'value'` in the metadata entry `tpu-env`.
fn tpu_setting(settings: &str, key: &str) -> Option<String> {
    settings.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().trim_matches('\'').trim_matches('"');
        (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
    })
}

/// Host names of a list whose entries are `host`, `host:port` or the metadata server's `name:id:ip`.
fn host_names(list: &str) -> Vec<String> {
    let host = |entry: &str| {
        let parts: Vec<&str> = entry.split(':').collect();
        match parts[..] {
            [_, _, ip] => ip.to_owned(),
            _ => without_port(entry).to_owned(),
        }
    };
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(host).collect()
}

fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => address,
    }
}

/// The first host of a SLURM node list such as `gpu[003-005,9],login-1`.
fn first_node(list: &str) -> Option<String> {
    let list = list.trim();
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (prefix, rest) = list.split_at(end);
    let host = match rest.strip_prefix('[') {
        None => prefix.to_owned(),
        Some(rest) => {
            let (ranges, suffix) = rest.split_once(']')?;
            let first = ranges.split(['-', ',']).next()?;
            let suffix = suffix.split(',').next().unwrap_or_default();
            format!("{prefix}{first}{suffix}")
        }
    };
    (!host.is_empty()).then_some(host)
}

/// The number of SLURM's tasks on this node, from a list such as `4(x2),3` with a number for each node.
fn tasks_here(environment: Environment) -> Result<Option<u32>> {
    let list = environment("SLURM_STEP_TASKS_PER_NODE").or_else(|| environment("SLURM_TASKS_PER_NODE"));
    let (Some(list), Some(node)) = (list, number(environment, "SLURM_NODEID")?) else { return Ok(None) };
    let wrong = || Error::Place(format!("SLURM_TASKS_PER_NODE={list} is no list such as 4(x2),3"));
    let mut first = 0u32;
    for entry in list.trim().split(',') {
        let (tasks, nodes) = match entry.split_once("(x") {
            Some((tasks, rest)) => {
                (tasks, rest.strip_suffix(')').ok_or_else(wrong)?.parse().map_err(|_| wrong())?)
            }
            None => (entry, 1),
        };
        first = first.saturating_add(nodes);
        if node < first {
            return tasks.parse().map(Some).map_err(|_| wrong());
        }
    }
    Ok(None)
}

/// The host in a launcher's address such as `1531576320.0;tcp://10.0.0.5,10.1.0.5:34911`.
fn launcher_host(uri: &str) -> Option<String> {
    let (_, rest) = uri.split_once("tcp://").or_else(|| uri.split_once("tcp4://"))?;
    let host = rest.split([',', ':']).next()?;
    (!host.is_empty()).then(|| host.to_owned())
}

/// One of the highest 4,096 ports, by the job's number: two jobs on a machine rarely share one.
fn job_port(id: u32) -> u16 {
    let offset = u16::try_from(id % 4096).expect("a remainder of 4096 fits u16");
    u16::MAX - 4095 + offset
}

fn in_range(place: Place, rank: &str, size: &str) -> Result<Option<Place>> {
    if place.size == 0 {
        return Err(Error::Place(format!("`{size}` must be at least 1 (got 0)")));
    }
    if place.rank >= place.size {
        return Err(Error::Place(format!(
            "`{rank}` must be below `{size}` (got {} of {})",
            place.rank, place.size
        )));
    }
    Ok(Some(place))
}

fn number(environment: Environment, name: &str) -> Result<Option<u32>> {
    let Some(text) = environment(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let parsed = text.trim().parse();
    parsed.map(Some).map_err(|_| Error::Place(format!("{name} is no number: `{text}`")))
}

fn missing(name: &str, because: &str) -> Error {
    Error::Place(format!("{because} is set, but not {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expect: std::result::Result<Option<(u32, u32, &str)>, &str>) {
        let environment =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let found = discover(&Flags::default(), &environment, false);
        match (found, expect) {
            (Ok(found), Ok(expect)) => {
                let found = found.map(|f| (f.place.rank, f.place.size, f.place.coordinator));
                assert_eq!(found, expect.map(|(rank, size, at)| (rank, size, at.to_owned())));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn flags_go_together_and_hold() {
        let check = |hosts, rank, coordinator: Option<&str>, expect: std::result::Result<u32, &str>| {
            let flags = Flags { hosts, rank, coordinator: coordinator.map(str::to_owned) };
            match (discover(&flags, &|_| None, false), expect) {
                (Ok(Some(found)), Ok(rank)) => assert_eq!(found.place.rank, rank),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expect) => panic!("{found:?}, expected {expect:?}"),
            }
        };
        check(Some(4), Some(3), Some("h0:9000"), Ok(3));
        check(Some(4), Some(4), Some("h0:9000"), Err("`--rank` must be below `--hosts` (got 4 of 4)"));
        check(Some(0), Some(0), Some("h0:9000"), Err("`--hosts` must be at least 1"));
        check(Some(4), None, Some("h0:9000"), Err("go together"));
        check(Some(4), Some(0), Some("h0"), Err("must be HOST:PORT (got h0)"));
        check(Some(4), Some(0), Some("h0:http"), Err("must be HOST:PORT"));
        check(Some(4), Some(0), Some("h0:0"), Err("must be HOST:PORT (got h0:0)"));
    }

    #[test]
    fn a_process_without_a_cluster_is_alone() {
        check(&[], Ok(None));
        check(&[("TPU_WORKER_ID", "0"), ("TPU_WORKER_HOSTNAMES", "localhost")], Ok(None));
        check(&[("TPU_WORKER_ID", "0"), ("TPU_WORKER_HOSTNAMES", "")], Ok(None));
        check(&[("TPU_WORKER_HOSTNAMES", "t-0,t-1")], Ok(None));
        check(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")], Ok(None));
        // The environment of a program that itself starts MPI's processes.
        check(&[("OMPI_MCA_orte_hnp_uri", "0.0;tcp://10.0.0.5:34911")], Ok(None));
    }

    #[test]
    fn gke_says_it_by_variables() {
        let hosts = ("TPU_WORKER_HOSTNAMES", "t-0.svc,t-1.svc,t-2.svc,t-3.svc");
        check(&[("TPU_WORKER_ID", "2"), hosts], Ok(Some((2, 4, "t-0.svc:8482"))));
        let addresses = ("TPU_PROCESS_ADDRESSES", "a:8476,b:8476");
        check(&[("TPU_WORKER_ID", "1"), addresses, hosts], Ok(Some((1, 2, "a:8482"))));
        check(&[("TPU_WORKER_ID", "4"), hosts], Err("worker 4 is not among the 4 hosts"));
        check(&[("TPU_WORKER_ID", "x"), hosts], Err("TPU_WORKER_ID is no number: `x`"));
    }

    #[test]
    fn slices_count_after_one_another() {
        let base = [
            ("TPU_WORKER_ID", "1"),
            ("TPU_WORKER_HOSTNAMES", "s1-0,s1-1"),
            ("MEGASCALE_NUM_SLICES", "2"),
            ("MEGASCALE_SLICE_ID", "1"),
            ("MEGASCALE_COORDINATOR_ADDRESS", "s0-0:8080"),
        ];
        check(&base, Ok(Some((3, 4, "s0-0:8482"))));
        check(&base[..3], Err("MEGASCALE_NUM_SLICES is set, but not MEGASCALE_SLICE_ID"));
        check(&base[..4], Err("but not MEGASCALE_COORDINATOR_ADDRESS"));
    }

    #[test]
    fn slurm_and_open_mpi_start_tasks() {
        let slurm = |nodes| {
            [
                ("SLURM_PROCID", "5"),
                ("SLURM_STEP_NUM_TASKS", "16"),
                ("SLURM_STEP_NODELIST", nodes),
                ("SLURM_JOB_ID", "4097"),
                ("SLURM_LOCALID", "1"),
            ]
        };
        check(&slurm("gpu[003-005,9],login"), Ok(Some((5, 16, "gpu003:61441"))));
        check(&slurm("a-1,a-2"), Ok(Some((5, 16, "a-1:61441"))));
        check(&slurm("r[1-2]n.local"), Ok(Some((5, 16, "r1n.local:61441"))));
        check(&slurm(""), Err("names no host"));
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_MCA_orte_hnp_uri", "0.0;tcp://10.0.0.5,10.1.0.5:34911"),
        ];
        check(&mpi, Ok(Some((1, 2, "10.0.0.5:61488"))));
        check(&mpi[..2], Err("OMPI_COMM_WORLD_RANK is set, but not"));
    }

    #[test]
    fn a_process_of_slurm_that_is_no_task_of_a_step_is_alone() {
        const JOB: [(&str, &str); 7] = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_JOB_NODELIST", "a,b"),
            ("SLURM_TASKS_PER_NODE", "8(x2)"),
            ("SLURM_PROCID", "0"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_NODEID", "0"),
        ];
        let with = |more: &[(&'static str, &'static str)]| [&JOB[..], more].concat();
        // The script of `sbatch`, and the shell of `salloc` without and with an interactive step.
        check(&JOB, Ok(None));
        check(&JOB[..4], Ok(None));
        let step = |tasks, id| {
            [("SLURM_STEP_NUM_TASKS", tasks), ("SLURM_STEP_NODELIST", "b"), ("SLURM_STEP_ID", id)]
        };
        check(&with(&step("1", "4294967290")), Ok(None));
        // `srun -n 2` inside of them, on the second node. The variables of the job come first.
        check(&with(&step("2", "0")), Ok(Some((0, 2, "b:61447"))));
        check(&with(&step("2", "0")[..1]), Err("SLURM_STEP_NUM_TASKS is set, but not SLURM_STEP_NODELIST"));
        // `mpirun` inside of them, for a task that a daemon of Open MPI starts, and for the only task.
        let mpi = |size| {
            let uri = ("PMIX_SERVER_URI3", "0.0;tcp4://10.0.0.5:34911");
            let place = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", size), uri];
            with(&[&step("2", "0")[..], &place].concat())
        };
        check(&mpi("16"), Ok(Some((0, 16, "10.0.0.5:61488"))));
        check(&mpi("1"), Ok(None));
    }

    #[test]
    fn processes_of_a_machine_are_counted() {
        #[track_caller]
        fn check(tasks: &str, node: &str, expect: std::result::Result<Option<u32>, &str>) {
            let get = |name: &str| match name {
                "SLURM_TASKS_PER_NODE" => Some(tasks.to_owned()),
                "SLURM_NODEID" => Some(node.to_owned()),
                _ => None,
            };
            match (tasks_here(&get), expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{tasks}, node {node}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expect) => panic!("{found:?}, expected {expect:?}"),
            }
        }
        check("4", "0", Ok(Some(4)));
        check("4(x2),3", "1", Ok(Some(4)));
        check("4(x2),3", "2", Ok(Some(3)));
        check("4(x2),3", "3", Ok(None));
        check("4(x", "0", Err("SLURM_TASKS_PER_NODE=4(x is no list such as 4(x2),3"));
        check("four", "0", Err("SLURM_TASKS_PER_NODE=four"));
        assert_eq!(tasks_here(&|_| None).unwrap(), None);
    }

    #[test]
    fn a_metadata_server_describes_a_tpu_vm() {
        let answer = |key: &str| match key {
            "agent-worker-number" => Some("3"),
            "worker-network-endpoints" => Some("t:0:10.0.0.1,t:1:10.0.0.2,t:2:10.0.0.3,t:3:10.0.0.4"),
            "tpu-env" => Some("ACCELERATOR_TYPE: 'v4-32'\nMEGASCALE_NUM_SLICES: ''\n"),
            _ => None,
        };
        let fake = metadata::tests::Fake::start(answer);
        let address = fake.address();
        let environment = |name: &str| (name == "GCE_METADATA_IP").then(|| address.clone());
        let found = discover(&Flags::default(), &environment, true).unwrap().unwrap();
        assert_eq!((found.place.rank, found.place.size), (3, 4));
        assert_eq!(found.place.coordinator, "10.0.0.1:8482");
        assert_eq!(found.source, "the TPU VM's metadata");
        assert!(fake.asked() >= 3);
    }

    #[test]
    fn a_metadata_server_describes_several_slices() {
        let answer = |key: &str| match key {
            "agent-worker-number" => Some("0"),
            "worker-network-endpoints" => Some("10.0.1.1,10.0.1.2"),
            "tpu-env" => Some(
                "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'",
            ),
            _ => None,
        };
        let fake = metadata::tests::Fake::start(answer);
        let address = fake.address();
        let environment = |name: &str| (name == "GCE_METADATA_IP").then(|| address.clone());
        let place = discover(&Flags::default(), &environment, true).unwrap().unwrap().place;
        assert_eq!((place.rank, place.size, place.slice), (2, 4, (1, 2)));
        assert_eq!(place.coordinator, "10.0.0.1:8482");
    }
}
