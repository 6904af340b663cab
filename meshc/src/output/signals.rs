//! Ctrl-C and SIGTERM while training.
//!
//! The first one asks for an end, the second one ends the process at once. Before there is anything that could be
//! saved, while models are built, programs are lowered and plugins are installed, the first one ends it as well.

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::exit,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What asks for an end.
#[derive(Debug)]
pub struct Signals {
    /// Set by the first Ctrl-C or SIGTERM.
    pub stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
    /// Whether there is nothing to be saved yet.
    early: Arc<AtomicBool>,
}

impl Signals {
    /// From here on. Call it before a plugin is loaded: its threads must not take the signals' first meaning.
    pub fn watch() -> Result<Self> {
        let signals =
            Self { stop: Arc::default(), number: Arc::default(), early: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            let context = || format!("watching for signal {signal}");
            // In this order: the second signal finds what the first has set, and ends the process.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.stop.clone())
                .with_context(context)?;
            flag::register_usize(signal, signals.number.clone(), signal as usize).with_context(context)?;
            flag::register(signal, signals.stop.clone()).with_context(context)?;
        }
        let (stop, number, early) = (signals.stop.clone(), signals.number.clone(), signals.early.clone());
        thread::spawn(move || {
            while early.load(Ordering::SeqCst) {
                if stop.load(Ordering::SeqCst) {
                    eprintln!("stopped before training began: there is nothing to save");
                    // Without the destructors of plugins' libraries, which may be at work.
                    exit(128 + number.load(Ordering::SeqCst) as i32);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(signals)
    }

    /// From now on whoever looks at [`Signals::stop`] sees to the end.
    pub fn begin(&self) {
        self.early.store(false, Ordering::SeqCst);
    }

    /// The exit code of a process that the signal ended, so that scripts do not go on.
    pub fn code(&self) -> u8 {
        u8::try_from(128 + self.number.load(Ordering::SeqCst)).unwrap_or(u8::MAX)
    }
}
