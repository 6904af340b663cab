//! Ctrl-C, SIGTERM and SIGHUP during training.
//!
//! The first signal requests a stop, the second one ends the process at once. Until there is state to save,
//! while models are built, programs are compiled and plugins are installed, the first signal ends the process
//! too, and the compilers that it has started. A process started by `nohup` ignores SIGHUP.

use super::stream::errln;
use anyhow::{Context, Result};
use driver::{children, run_folder};
use job::Job;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
    low_level::exit,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// `stop` and `early` of the signals that are watched.
static WATCHED: OnceLock<[Arc<AtomicBool>; 2]> = OnceLock::new();

/// The stop signals of this process.
#[derive(Debug, Default)]
pub struct Signals {
    /// Set by the first Ctrl-C or SIGTERM.
    pub stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
    /// True until there is state to save.
    early: Arc<AtomicBool>,
    /// The job that is told when the process ends before training begins.
    job: Arc<OnceLock<Arc<Job>>>,
    /// The run directory that this process has created.
    reserved: Arc<OnceLock<PathBuf>>,
}

impl Signals {
    /// Starts watching. Call it before a plugin is loaded, whose threads would otherwise receive the signals.
    pub fn watch() -> Result<Self> {
        let signals = Self { early: Arc::new(AtomicBool::new(true)), ..Self::default() };
        let hangup = (!children::is_ignored(SIGHUP)).then_some(SIGHUP);
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
            let context = || format!("watching for signal {signal}");
            // The order matters: the second signal finds the flag of the first, and ends the process.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.stop.clone())
                .with_context(context)?;
            flag::register_usize(signal, signals.number.clone(), signal as usize).with_context(context)?;
            flag::register(signal, signals.stop.clone()).with_context(context)?;
        }
        let _ = WATCHED.set([signals.stop.clone(), signals.early.clone()]); // A process watches once.
        let (stop, number, early) = (signals.stop.clone(), signals.number.clone(), signals.early.clone());
        let (job, reserved) = (signals.job.clone(), signals.reserved.clone());
        thread::spawn(move || {
            while early.load(Ordering::SeqCst) {
                if stop.load(Ordering::SeqCst) {
                    errln!("stopped before training began: there is no state to save");
                    let number = number.load(Ordering::SeqCst) as i32;
                    if let Some(job) = job.get() {
                        job.leave(Some(&format!("stopped by signal {number} before training began")));
                    }
                    children::end();
                    reserved.get().into_iter().for_each(|dir| run_folder::remove_unused(dir));
                    // Skips the destructors of plugin libraries, which may still be running.
                    exit(128 + number);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(signals)
    }

    /// Names the job whose other processes are told if a signal ends this one before training begins.
    pub fn tell(&self, job: &Arc<Job>) {
        let _ = self.job.set(job.clone()); // A process joins one job.
    }

    /// Names a run directory that is removed if a signal ends the process before training begins.
    pub fn reserved(&self, dir: &Path) {
        let _ = self.reserved.set(dir.to_owned()); // A process creates one.
    }

    /// Leaves the first signal to the code that polls [`Signals::stop`].
    pub fn begin(&self) {
        self.early.store(false, Ordering::SeqCst);
    }

    /// Returns [`Signals::begin`] as an action for later.
    pub fn beginning(&self) -> impl FnOnce() + use<> {
        let early = self.early.clone();
        move || early.store(false, Ordering::SeqCst)
    }

    /// Returns the exit code of a process that a signal has stopped: 128 + its number. If only
    /// another process of the job received one, that of SIGTERM.
    pub fn code(&self) -> u8 {
        let number = self.number.load(Ordering::SeqCst);
        let number = if number == 0 { SIGTERM as usize } else { number };
        u8::try_from(128 + number).unwrap_or(u8::MAX)
    }
}

/// Waits for the end of the process if a signal is ending it: an error that follows is that of a compiler
/// which the signal has ended, and neither its message nor its exit code is the user's answer.
pub fn wait_if_ending() {
    while WATCHED.get().is_some_and(|flags| flags.iter().all(|flag| flag.load(Ordering::SeqCst))) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a write beyond the limit of a file's size an error of that write. By default, SIGXFSZ ends the
/// process.
pub fn survive_file_limits() {
    // Without the handler, the process behaves as others do.
    let _ = flag::register(SIGXFSZ, Arc::default());
}
