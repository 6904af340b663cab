//! Loading a plugin, and its properties.

use crate::api::Api;
use crate::error::{Error, Result, optional};
use crate::ffi::calls::{PLUGIN_ATTRIBUTES, PLUGIN_INITIALIZE};
use crate::ffi::structs::{Nothing, PluginAttributes};
use crate::ffi::{Function, Padded, TABLE_EXTENSIONS, TABLE_HEAD, TABLE_MAJOR, TABLE_MINOR};
use crate::value::{Named, from_ffi};
use crate::version::{ApiVersion, OLDEST};
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Required functions: without them errors could not be read and events not waited for.
const REQUIRED: [Function; 6] = [
    Function::ErrorDestroy,
    Function::ErrorMessage,
    Function::ErrorGetCode,
    Function::EventDestroy,
    Function::EventAwait,
    Function::EventOnReady,
];

/// The initialized plugins of this process. A plugin may be initialized only once, even if it is loaded
/// several times.
static INITIALIZED: Mutex<Vec<Arc<Api>>> = Mutex::new(Vec::new());

/// A PJRT plugin: a shared library with a function table. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) api: Arc<Api>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({}, API {})", self.api.path.display(), self.api.version)
    }
}

impl Plugin {
    /// Loads and initializes the plugin at `path`. Loading the same file again returns the same plugin.
    ///
    /// This executes code of the file, so the file must be trusted. An initialized plugin is never unloaded,
    /// because plugins start threads that they do not stop.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::NotAPlugin`], [`Error::Version`] (major version not 0, or older than
    /// [`OLDEST`]), [`Error::MissingFunction`] (a required function), or an error of the plugin's
    /// initialization.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let load_error = |reason: String| Error::Load { path: path.to_owned(), reason };
        // With an absolute path, the system's library search path is not used.
        let full = path.canonicalize().map_err(|error| load_error(error.to_string()))?;
        if full.is_dir() {
            return Err(load_error("it is a directory".to_owned()));
        }
        // SAFETY: the caller asks to run the library's constructors.
        let library = unsafe { Library::new(&full) }.map_err(|error| load_error(with_source(&error)))?;
        let api = table_of(&library, &full)?;
        api.require(&REQUIRED)?;

        let mut initialized = INITIALIZED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = initialized.iter().find(|known| known.table() == api.table()) {
            return Ok(Plugin { api: Arc::clone(known) });
        }
        // From here on, code of the plugin may run on its own threads.
        std::mem::forget(library);
        let api = Arc::new(api);
        if api.pointer(Function::PluginInitialize).is_some() {
            let mut args = Padded::<Nothing>::new(|_| ());
            // SAFETY: the function takes no arguments besides the head.
            unsafe { api.call(PLUGIN_INITIALIZE, &mut args)? };
        }
        initialized.push(Arc::clone(&api));
        Ok(Plugin { api })
    }

    /// Returns the absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.api.path
    }

    /// Returns the version of the C API that the plugin was built with.
    pub fn version(&self) -> ApiVersion {
        self.api.version
    }

    /// Returns true if the plugin's table has the function. The function may still return UNIMPLEMENTED.
    pub fn has(&self, function: Function) -> bool {
        self.api.pointer(function).is_some()
    }

    /// Returns the functions that this crate knows and the plugin lacks.
    pub fn missing_functions(&self) -> Vec<Function> {
        Function::ALL.iter().copied().filter(|function| !self.has(*function)).collect()
    }

    /// Returns the plugin's attributes, such as `xla_version` or `stablehlo_current_version`. Empty if it has
    /// none.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn attributes(&self) -> Result<Vec<Named>> {
        let mut args = Padded::<PluginAttributes>::new(|_| ());
        // SAFETY: the function takes no arguments besides the head; the attributes live as long as the
        // plugin.
        unsafe {
            match optional(self.api.call(PLUGIN_ATTRIBUTES, &mut args))? {
                Some(()) => from_ffi(&self.api, Function::PluginAttributes, args.items, args.len),
                None => Ok(Vec::new()),
            }
        }
    }

    /// Returns the numbers of the C API extensions that the plugin offers.
    pub fn extensions(&self) -> Vec<i32> {
        // SAFETY: see `heads`.
        self.heads().map(|head| unsafe { (*head.as_ptr()).kind }).collect()
    }

    /// Returns the extension number `kind`, which is a `T`. `None` means that the plugin lacks it, or that it
    /// is smaller than a `T`.
    pub(crate) fn extension<T>(&self, kind: c_int) -> Option<NonNull<T>> {
        // SAFETY: see `heads`.
        let found = self.heads().find(|head| unsafe { (*head.as_ptr()).kind } == kind)?;
        // SAFETY: as above.
        let size = unsafe { (*found.as_ptr()).struct_size };
        (size >= size_of::<T>()).then(|| found.cast())
    }

    /// Returns the heads of all extensions. They are immutable and live as long as the plugin, which is never
    /// unloaded.
    fn heads(&self) -> impl Iterator<Item = NonNull<Extension>> {
        // SAFETY: the table has at least its header, which contains this pointer.
        let first = unsafe {
            self.api.table().as_ptr().add(TABLE_EXTENSIONS).cast::<*mut Extension>().read_unaligned()
        };
        // SAFETY: every extension begins with a head; the list belongs to the table, is immutable, and ends
        // with null.
        let next = |head: &NonNull<Extension>| NonNull::new(unsafe { (*head.as_ptr()).next });
        // The bound guards against a cyclic list.
        std::iter::successors(NonNull::new(first), next).take(1000)
    }
}

/// The head of every extension.
#[repr(C)]
struct Extension {
    struct_size: usize,
    kind: c_int,
    next: *mut Extension,
}

/// Finds the function table and checks that it is supported.
fn table_of(library: &Library, path: &Path) -> Result<Api> {
    let not_a_plugin = |reason: String| Error::NotAPlugin { path: path.to_owned(), reason };
    // SAFETY: the C API defines the type of this symbol.
    let entry = unsafe { library.get::<unsafe extern "C" fn() -> *mut c_void>(c"GetPjrtApi") }
        .map_err(|_| not_a_plugin("it does not export GetPjrtApi".to_owned()))?;
    // SAFETY: the function takes nothing and returns a table that lives as long as the library.
    let table = NonNull::new(unsafe { entry() }.cast::<u8>())
        .ok_or_else(|| not_a_plugin("its GetPjrtApi returned no function table".to_owned()))?;
    // SAFETY: a table begins with its size.
    let table_size = unsafe { table.as_ptr().cast::<usize>().read_unaligned() };
    if table_size < TABLE_HEAD {
        return Err(not_a_plugin(format!(
            "its function table has {table_size} bytes, less than the {TABLE_HEAD} of the header alone"
        )));
    }
    // SAFETY: the header is complete, as just checked.
    let version = unsafe {
        ApiVersion {
            major: table.as_ptr().add(TABLE_MAJOR).cast::<c_int>().read_unaligned(),
            minor: table.as_ptr().add(TABLE_MINOR).cast::<c_int>().read_unaligned(),
        }
    };
    if version.major != OLDEST.major || version < OLDEST {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
            needed: format!("this program needs {OLDEST} or newer with major version {}", OLDEST.major),
        });
    }
    // SAFETY: size and version are checked; the owner of the `Api` keeps the library loaded.
    Ok(unsafe { Api::new(table, table_size, version, path.to_owned()) })
}

/// Returns the operating system's message, which libloading stores in the error's source.
fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
