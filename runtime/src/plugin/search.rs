//! The search for plugins.

use super::install::{CPU, install, installed, verify};
use crate::{Error, Result};
use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// A platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// The CPU plugin, with any number of virtual devices.
    Cpu,
    /// CUDA or ROCm.
    Gpu,
    /// libtpu.
    Tpu,
}

impl Platform {
    /// All platforms.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Gpu, Self::Tpu];

    /// Returns the platform of a target such as `cpu`, `gpu` or `tpu:v5e:2x4`.
    ///
    /// # Errors
    /// The target is unknown.
    pub fn of_target(target: &str) -> Result<Self> {
        match target.split(':').next() {
            Some("cpu") => Ok(Self::Cpu),
            Some("gpu" | "cuda") => Ok(Self::Gpu),
            Some("tpu") => Ok(Self::Tpu),
            _ => Err(Error::input(
                format!("unknown target `{target}`"),
                "targets are cpu, gpu and tpu:GENERATION:SHAPE such as tpu:v5e:2x4",
            )),
        }
    }

    /// Returns the paths of plugins in Python wheels, relative to site-packages, preferred ones first.
    fn wheel_paths(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => {
                &["lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so", "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"]
            }
            Self::Gpu => &[
                "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
                "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
                "jax_plugins/xla_rocm7/xla_rocm_plugin.so",
            ],
            Self::Tpu => &["libtpu/libtpu.so"],
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Tpu => "tpu",
        })
    }
}

/// Paths from the environment that the search looks at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SearchPaths {
    /// `MESH_PJRT_PLUGIN`.
    pub plugin: Option<PathBuf>,
    /// `TPU_LIBRARY_PATH`.
    pub tpu_library: Option<PathBuf>,
    /// The folders in which Python finds packages.
    pub site_packages: Vec<PathBuf>,
    /// The cache folder.
    pub cache: PathBuf,
}

impl SearchPaths {
    /// Reads the paths of this process's environment. Runs Python, if installed, to find its folders.
    ///
    /// # Errors
    /// No cache folder can be determined.
    pub fn from_environment() -> Result<Self> {
        let path = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let cache = path("MESH_CACHE")
            .or_else(|| path("XDG_CACHE_HOME").map(|p| p.join("mesh")))
            .or_else(|| path("HOME").map(|p| p.join(".cache/mesh")))
            .ok_or_else(|| {
                Error::input(
                    "there is no folder for the cache: MESH_CACHE, XDG_CACHE_HOME and HOME are not set",
                    "set MESH_CACHE to a folder",
                )
            })?;
        Ok(Self {
            plugin: path("MESH_PJRT_PLUGIN"),
            tpu_library: path("TPU_LIBRARY_PATH"),
            site_packages: site_packages(path("VIRTUAL_ENV")),
            cache,
        })
    }
}

/// Returns the package folders of an active virtual environment and of `python3`.
fn site_packages(active: Option<PathBuf>) -> Vec<PathBuf> {
    let code = "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))";
    let interpreters = active.map(|v| v.join("bin/python")).into_iter().chain([PathBuf::from("python3")]);
    let mut folders: Vec<PathBuf> = Vec::new();
    for python in interpreters {
        let Ok(output) = Command::new(&python).args(["-c", code]).output() else { continue };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if !folders.iter().any(|f| f == Path::new(line)) {
                folders.push(line.into());
            }
        }
    }
    folders
}

/// The source of plugins that meshc has installed.
const CACHE: &str = "cache";

/// A plugin that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PluginFile {
    /// The shared library.
    pub path: PathBuf,
    /// The reason for looking there.
    pub source: String,
}

/// Lists all plugins for `platform`, preferred ones first.
///
/// # Errors
/// A path given by an option or a variable does not exist.
pub fn list(platform: Platform, explicit: Option<&Path>, around: &SearchPaths) -> Result<Vec<PluginFile>> {
    let mut found = Vec::new();
    let named = [
        (explicit, "--plugin"),
        (around.plugin.as_deref(), "MESH_PJRT_PLUGIN"),
        (around.tpu_library.as_deref().filter(|_| platform == Platform::Tpu), "TPU_LIBRARY_PATH"),
    ];
    for (path, source) in named {
        let Some(path) = path else { continue };
        if !path.is_file() {
            return Err(Error::input(
                format!("{source} names the plugin `{}`, but there is no such file", path.display()),
                "give the path of a PJRT plugin's shared library, or leave it out to search for one",
            ));
        }
        found.push(PluginFile { path: path.to_owned(), source: source.to_owned() });
    }
    // The pinned version comes before wheels, which depend on the Python environment that is active.
    if platform == Platform::Cpu {
        let path = installed(&CPU, &around.cache);
        if path.is_file() {
            found.push(PluginFile { path, source: CACHE.to_owned() });
        }
    }
    for folder in &around.site_packages {
        for below in platform.wheel_paths() {
            let path = folder.join(below);
            if path.is_file() {
                found.push(PluginFile { path, source: format!("wheel in {}", folder.display()) });
            }
        }
    }
    Ok(found)
}

/// Returns the preferred plugin for `platform`. Installs the CPU plugin if none is found; `say` receives a
/// line about that.
///
/// # Errors
/// No plugin was found, the installation failed, or the plugin in the cache is altered.
pub fn find(
    platform: Platform,
    explicit: Option<&Path>,
    around: &SearchPaths,
    say: &mut dyn FnMut(&str),
) -> Result<PluginFile> {
    if let Some(found) = list(platform, explicit, around)?.into_iter().next() {
        if found.source == CACHE {
            verify(&CPU, &around.cache)?;
        }
        return Ok(found);
    }
    let help = match platform {
        Platform::Cpu => {
            say(&format!(
                "no CPU plugin found: installing {} {} from PyPI into {}",
                CPU.package,
                CPU.version,
                around.cache.display()
            ));
            let path = install(&CPU, &around.cache)?;
            return Ok(PluginFile { path, source: CACHE.to_owned() });
        }
        Platform::Gpu => {
            "install one with `pip install \"jax-cuda13-plugin[with-cuda]\"` (it brings jax-cuda13-pjrt), or give its path with --plugin"
        }
        Platform::Tpu => {
            "install it with `pip install libtpu`, or give its path with --plugin or TPU_LIBRARY_PATH"
        }
    };
    Err(Error::input(format!("no PJRT plugin for {platform} was found"), help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }

    #[test]
    fn the_order_is_flag_then_environment_then_the_pinned_version_then_wheels() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for file in [
            "flag.so",
            "env.so",
            "site/libtpu/libtpu.so",
            "site/jax_plugins/xla_cuda13/xla_cuda_plugin.so",
            "tpu.so",
        ] {
            touch(&at(file));
        }
        let around = SearchPaths {
            plugin: Some(at("env.so")),
            tpu_library: Some(at("tpu.so")),
            site_packages: vec![at("site")],
            cache: at("cache"),
        };
        let paths = |platform, explicit: Option<&Path>| -> Vec<PathBuf> {
            list(platform, explicit, &around).unwrap().into_iter().map(|f| f.path).collect()
        };
        let flag = at("flag.so");
        assert_eq!(
            paths(Platform::Tpu, Some(&flag)),
            [flag.clone(), at("env.so"), at("tpu.so"), at("site/libtpu/libtpu.so")]
        );
        assert_eq!(
            paths(Platform::Gpu, None),
            [at("env.so"), at("site/jax_plugins/xla_cuda13/xla_cuda_plugin.so")]
        );
        touch(&installed(&CPU, &around.cache));
        let wheel = at("site").join(Platform::Cpu.wheel_paths()[0]);
        touch(&wheel);
        assert_eq!(paths(Platform::Cpu, None), [at("env.so"), installed(&CPU, &around.cache), wheel]);
    }

    #[test]
    fn a_given_path_must_exist_and_errors_tell_how_to_install() {
        let around = SearchPaths { plugin: Some("/nowhere/x.so".into()), ..Default::default() };
        let error = list(Platform::Cpu, None, &around).unwrap_err().to_string();
        assert!(error.contains("MESH_PJRT_PLUGIN") && error.contains("/nowhere/x.so"), "{error}");
        let error = find(Platform::Tpu, None, &SearchPaths::default(), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("pip install libtpu"), "{error}");
    }
}
