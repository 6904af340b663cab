//! TPU slices: their names, their composition, and the speed of their parts. The numbers are data, in
//! `tpu.toml`.
//!
//! A slice is named `GENERATION:SHAPE`, such as `v5e:2x4`, with `:megacore` or `:split` for generations whose
//! cores can be presented as one device or two, and `:slices=2` for several slices connected by a data-centre
//! network.

use serde::Deserialize;
use std::fmt;

/// Flags of libtpu that make all-to-alls and all-gathers asynchronous, so that independent work runs
/// meanwhile. (Some generations ignore one of them. Fusing gathers into products exists on v5e only, where it
/// needs no flag.)
pub const OVERLAP: [&str; 2] = ["xla_tpu_enable_async_all_to_all", "xla_enable_async_all_gather"];

/// A generation of TPUs. Fields are explained in `tpu.toml`; all numbers are per chip.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs)] // The data file documents them, beside the numbers.
#[serde(deny_unknown_fields)]
pub struct Generation {
    pub name: String,
    pub kind: String,
    #[serde(default)]
    pub also: Vec<String>,
    pub torus: usize,
    pub cores: usize,
    pub host: Vec<usize>,
    pub wraps: usize,
    pub most: usize,
    pub shapes: Vec<String>,
    pub tflops: f64,
    pub hbm_gb_s: f64,
    pub ici_gb_s: f64,
    pub dcn_gb_s: f64,
    pub mhz: f64,
    pub cloud: Cloud,
    pub modes: Vec<Mode>,
}

/// Google Cloud's names for a generation.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs)] // The data file documents them.
#[serde(deny_unknown_fields)]
pub struct Cloud {
    pub name: String,
    pub counts: String,
    pub runtime: Option<String>,
    pub gke: Option<String>,
    pub machine: Option<String>,
}

/// A way to present the cores of a chip as devices.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// `split`, `megacore` or `single`.
    pub name: String,
    /// Devices of a chip.
    pub devices: usize,
    /// Bytes of memory that a program on one device may use.
    pub hbm: u64,
    /// The number that libtpu reports, where devices share memory.
    pub reported: Option<u64>,
    /// libtpu's `chip_config_name`, if it is not the default.
    pub config: Option<String>,
}

#[derive(Deserialize)]
struct File {
    generation: Vec<Generation>,
}

/// All known generations, the oldest first.
pub fn generations() -> Vec<Generation> {
    let file: File = toml::from_str(include_str!("tpu.toml")).expect("a test reads the file");
    file.generation
}

/// The speed of the parts of one device, per second.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Speed {
    /// bf16 matrix FLOPs.
    pub flops: f64,
    /// Bytes to and from its memory.
    pub hbm: f64,
    /// Bytes of one link of a chip, in one direction.
    pub link: f64,
    /// Bytes to other slices.
    pub dcn: f64,
    /// Cycles of a core.
    pub hertz: f64,
}

/// The difference between libtpu's first device numbers of consecutive slices, which count from 1.
const SLICE_IDS: i64 = 100_000;

/// A slice, or several equal ones.
#[derive(Clone, PartialEq, Debug)]
pub struct Slice {
    /// Its generation.
    pub generation: Generation,
    /// Chips along each dim of the torus.
    pub shape: Vec<usize>,
    /// The way in which cores are presented as devices.
    pub mode: Mode,
    /// True if the slice's name or an option states the mode, false if it is the default.
    pub mode_is_given: bool,
    /// The number of slices.
    pub slices: usize,
}

impl Slice {
    /// Parses `v4:8x8x8:megacore:slices=2`. Errors list the valid values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let known = generations();
        let names: Vec<String> = known.iter().map(|g| g.name.clone()).collect();
        let found = known.into_iter().find(|g| g.name == name || g.also.iter().any(|a| a == name));
        let generation = found
            .ok_or_else(|| format!("unknown TPU generation `{name}`: known are {}", names.join(", ")))?;
        let shape = words.next().unwrap_or_default();
        let shape = generation.shape(shape)?;
        let mode = generation.modes[0].clone();
        let mut slice = Self { mode, mode_is_given: false, generation, shape, slices: 1 };
        for word in words {
            slice.set(word)?;
        }
        Ok(slice)
    }

    fn set(&mut self, word: &str) -> Result<(), String> {
        if let Some(count) = word.strip_prefix("slices=") {
            let count = count.parse().ok().filter(|n| (1..=256).contains(n));
            self.slices = count.ok_or_else(|| {
                format!("`{word}` is not a valid number of slices (1 to 256), such as slices=2")
            })?;
            return Ok(());
        }
        let modes = &self.generation.modes;
        match modes.iter().find(|m| m.name == word) {
            Some(mode) => (self.mode, self.mode_is_given) = (mode.clone(), true),
            None => {
                let names: Vec<&str> = modes.iter().map(|m| m.name.as_str()).collect();
                return Err(format!(
                    "`{word}` is not a mode of {}: its modes are {}; several slices are written slices=2",
                    self.generation.name,
                    names.join(" or ")
                ));
            }
        }
        Ok(())
    }

    /// Selects the mode by libtpu's name for it.
    pub fn set_config(&mut self, config: &str) -> Result<(), String> {
        let modes = &self.generation.modes;
        match modes.iter().find(|m| m.config.as_deref().unwrap_or("default") == config) {
            Some(mode) => (self.mode, self.mode_is_given) = (mode.clone(), true),
            None => return Err(format!("{} has no chip_config_name `{config}`", self.generation.name)),
        }
        Ok(())
    }

    /// libtpu's name for the topology of one slice.
    pub fn topology(&self) -> String {
        format!("{}:{}", self.generation.name, self.shape())
    }

    fn shape(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        sizes.join("x")
    }

    /// Chips of one slice.
    pub fn chips(&self) -> usize {
        self.shape.iter().product()
    }

    /// Devices of all slices together.
    pub fn devices(&self) -> usize {
        self.chips() * self.mode.devices * self.slices
    }

    /// libtpu's ids of the devices, in the order of the mesh. `None` for one slice, whose default order is
    /// right; several slices have no default order.
    pub fn device_ids(&self) -> Option<Vec<i64>> {
        let in_slice = (self.devices() / self.slices) as i64;
        let of = |slice: i64| (0..in_slice).map(move |device| (slice + 1) * SLICE_IDS + device);
        (self.slices > 1).then(|| (0..self.slices as i64).flat_map(of).collect())
    }

    /// The number that libtpu gives to the process of each device, in the order of the mesh. A process has
    /// the chips of one host: neighbours in the torus, which are not neighbours in this order.
    pub fn processes(&self) -> Vec<usize> {
        let in_slice = |device: usize| {
            let (mut chip, mut process, mut hosts) = (device / self.mode.devices, 0, 1);
            for (chips, own) in self.shape.iter().zip(&self.generation.host) {
                process += hosts * (chip % chips / own);
                hosts *= chips.div_ceil(*own);
                chip /= chips;
            }
            process
        };
        let devices = self.devices() / self.slices;
        let of = |slice: usize| (0..devices).map(move |device| slice * self.hosts() + in_slice(device));
        (0..self.slices).flat_map(of).collect()
    }

    /// Hosts of one slice.
    pub fn hosts(&self) -> usize {
        let of = |(n, h): (&usize, &usize)| n.div_ceil(*h);
        self.shape.iter().zip(&self.generation.host).map(of).product()
    }

    /// For each dim, true if its links form a ring rather than a line.
    pub fn wraps(&self) -> Vec<bool> {
        let ring = |n: &usize| *n >= self.generation.wraps && n.is_multiple_of(self.generation.wraps);
        self.shape.iter().map(ring).collect()
    }

    /// Bytes that a program on one device may use.
    pub fn hbm(&self) -> u64 {
        self.mode.hbm
    }

    /// The speed of the parts of one device.
    pub fn speed(&self) -> Speed {
        let (g, share) = (&self.generation, self.mode.devices as f64);
        Speed {
            flops: g.tflops * 1e12 / share,
            hbm: g.hbm_gb_s * 1e9 / share,
            link: g.ici_gb_s * 1e9,
            dcn: g.dcn_gb_s * 1e9 / share,
            hertz: g.mhz * 1e6,
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation.name, self.shape())?;
        if self.mode != self.generation.modes[0] {
            write!(f, ":{}", self.mode.name)?;
        }
        if self.slices > 1 {
            write!(f, ":slices={}", self.slices)?;
        }
        Ok(())
    }
}

impl Generation {
    /// Parses `8x8x8`. Missing dims have size 1.
    fn shape(&self, text: &str) -> Result<Vec<usize>, String> {
        let wrong = |why: String| {
            format!("`{}:{text}` is not a valid slice: {why}; shapes: {}", self.name, self.shapes.join(", "))
        };
        let sizes: Option<Vec<usize>> =
            text.split('x').map(|n| n.parse().ok().filter(|n| (1..=65536).contains(n))).collect();
        let mut sizes =
            sizes.ok_or_else(|| wrong(format!("write it as tpu:{}:{}", self.name, self.shapes[2])))?;
        if sizes.len() > self.torus {
            return Err(wrong(format!("its chips form a torus of {} dims", self.torus)));
        }
        sizes.resize(self.torus, 1);
        for (n, h) in sizes.iter().zip(&self.host) {
            if *n > 1 && !n.is_multiple_of(*h) {
                let host: Vec<String> = self.host.iter().map(usize::to_string).collect();
                return Err(wrong(format!(
                    "hosts have {} chips, of which {n} is no multiple",
                    host.join("x")
                )));
            }
        }
        let chips: usize = sizes.iter().product();
        if chips > self.most {
            return Err(wrong(format!("{chips} chips are more than the {} there are in one", self.most)));
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_is_consistent() {
        let all = generations();
        assert_eq!(all.len(), 7);
        for g in &all {
            assert_eq!(g.host.len(), g.torus, "{}", g.name);
            assert!(["cores", "chips"].contains(&g.cloud.counts.as_str()), "{}", g.name);
            assert!(g.modes.iter().all(|m| m.devices <= g.cores), "{}", g.name);
            for shape in &g.shapes {
                let slice = Slice::parse(&format!("{}:{shape}", g.name)).unwrap();
                assert_eq!(slice.to_string(), format!("{}:{shape}", g.name));
                assert_eq!(slice.devices(), slice.chips() * g.modes[0].devices);
            }
            // One core's peak is its clock times a whole number of multiplier arrays, of 128² or 256².
            let macs = g.tflops * 1e12 / 2.0 / (g.mhz * 1e6) / g.cores as f64 / (128.0 * 128.0);
            assert!((macs - macs.round()).abs() < 0.02 * macs, "{}: {macs}", g.name);
        }
    }

    #[test]
    fn several_slices_say_which_devices_are_meant() {
        let ids = |text: &str| Slice::parse(text).expect("a slice").device_ids();
        assert_eq!(ids("v4:2x2x1"), None);
        assert_eq!(ids("v5e:1x2:slices=2"), Some(vec![100_000, 100_001, 200_000, 200_001]));
    }

    #[test]
    fn a_process_has_chips_that_are_no_neighbours_in_the_mesh() {
        let of = |text: &str, process: usize| -> Vec<i64> {
            let slice = Slice::parse(text).expect("a slice");
            let ids = slice.device_ids().unwrap_or_else(|| (0..slice.devices() as i64).collect());
            let all = ids.into_iter().zip(slice.processes());
            all.filter(|(_, owner)| *owner == process).map(|(id, _)| id).collect()
        };
        assert_eq!(of("v3:4x4", 0), [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(of("v3:4x4", 3), [20, 21, 22, 23, 28, 29, 30, 31]);
        assert_eq!(of("v4:4x4x4", 15), [116, 117, 118, 119, 124, 125, 126, 127]);
        assert_eq!(of("v4:8x8x8:megacore", 1), [2, 3, 10, 11]);
        assert_eq!(of("v4:8x8x8:megacore", 127), [502, 503, 510, 511]);
        assert_eq!(of("v5e:2x4", 1), [4, 5, 6, 7]);
        assert_eq!(of("tpu7x:2x2x2", 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(of("v5e:4x8:slices=2", 15), [200_026, 200_027, 200_030, 200_031]);
    }

    #[test]
    fn slices_are_read_and_printed() {
        let slice = |text| Slice::parse(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(slice("v3:32x32").devices(), 2048);
        assert_eq!(slice("v4:8x8x8").devices(), 1024);
        let mega = slice("v4:8x8x8:megacore:slices=2");
        assert_eq!((mega.devices(), mega.topology()), (1024, "v4:8x8x8".to_owned()));
        assert_eq!(mega.to_string(), "v4:8x8x8:megacore:slices=2");
        assert_eq!(slice("v4:8x8x8:slices=2:megacore"), mega);
        assert_eq!(slice("v4:8x8x8:split").to_string(), "v4:8x8x8");
        assert_eq!(slice("v7x:2x2x1").to_string(), "tpu7x:2x2x1");
        assert_eq!(slice("v4:2x2").shape, [2, 2, 1]);
        assert_eq!(slice("v5e:16x8").wraps(), [true, false]);
        assert_eq!(slice("v4:2x4x8").wraps(), [false, true, true]);
        assert_eq!((slice("v5e:1x8").hosts(), slice("v4:2x2x1").hosts()), (4, 1));
        let mut other = slice("v4:2x2x1");
        other.set_config("megacore").unwrap();
        assert_eq!(other.hbm(), mega.hbm());
    }

    #[test]
    fn mistakes_list_what_there_is() {
        let says = |text: &str, parts: &[&str]| {
            let error = Slice::parse(text).unwrap_err();
            assert!(parts.iter().all(|p| error.contains(p)), "{text}: {error}");
        };
        says("v9:2x2", &["`v9`", "v2, v3, v4, v5e, v5p, v6e, tpu7x"]);
        says("v5e:3x5", &["2x2 chips", "3 is no multiple", "2x4, 4x4"]);
        says("v5e:2x2x2", &["torus of 2 dims"]);
        says("v5e:2x", &["write it as tpu:v5e:2x4"]);
        says("v5e", &["write it as"]);
        says("v5e:0x4", &["write it as"]);
        says("v5e:32x32", &["1024 chips", "256"]);
        says("v5e:2x4:megacore", &["`megacore`", "single"]);
        says("v4:2x2x1:slices=0", &["slices=2"]);
    }
}
