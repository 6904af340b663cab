//! Running a program on its devices.

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::event::{About, Event, wait_all};
use crate::executable::LoadedExecutable;
use crate::ffi::calls::LOADED_EXECUTE;
use crate::ffi::structs::{self, Execute};
use crate::ffi::{self, Function, Padded};
use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

/// An argument for one device.
#[derive(Debug)]
pub enum Argument<'a> {
    /// The buffer stays valid. If the program declares that an output reuses it, that output gets a buffer of
    /// its own.
    Borrow(&'a Buffer),
    /// The buffer is consumed: an output may reuse it if the program declares so, and its memory is freed
    /// after the run.
    Donate(Buffer),
}

impl<'a> From<&'a Buffer> for Argument<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Argument::Borrow(buffer)
    }
}

impl From<Buffer> for Argument<'_> {
    fn from(buffer: Buffer) -> Self {
        Argument::Donate(buffer)
    }
}

impl Argument<'_> {
    /// Returns the buffer.
    pub fn buffer(&self) -> &Buffer {
        match self {
            Argument::Borrow(buffer) => buffer,
            Argument::Donate(buffer) => buffer,
        }
    }

    /// Returns true if an output may reuse the buffer.
    fn may_be_overwritten(&self) -> bool {
        match self {
            Argument::Borrow(_) => false,
            Argument::Donate(buffer) => !buffer.borrows_host,
        }
    }
}

/// Options of a run.
#[derive(Clone, Debug, Default)]
pub struct ExecuteOptions {
    /// An id of the run, 0 for none. Platforms use it to detect that hosts start different programs.
    pub launch_id: i32,
    /// The location in the caller's program, for the plugin's messages.
    pub call_location: Option<CString>,
}

/// A run in progress.
#[derive(Debug)]
#[must_use = "the run's error arrives through its events"]
pub struct Execution {
    /// The outputs of each device: `outputs[device][output]`. Their values may not be computed yet.
    pub outputs: Vec<Vec<Buffer>>,
    /// For each device, an event that becomes ready, possibly with an error, when the run ends there.
    pub done: Vec<Event>,
}

impl Execution {
    /// Waits until the run has ended on all devices and returns the outputs.
    ///
    /// # Errors
    /// The first error of any device, after all have ended.
    pub fn wait(self) -> Result<Vec<Vec<Buffer>>> {
        wait_all(self.done)?;
        Ok(self.outputs)
    }
}

/// A run that could not be started.
pub struct ExecuteError<'a> {
    /// The error.
    pub error: Error,
    /// The arguments as they were passed; `None` for a donated buffer that the plugin consumed all the same.
    pub arguments: Vec<Vec<Option<Argument<'a>>>>,
}

impl fmt::Debug for ExecuteError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExecuteError({:?}, {} arguments taken)", self.error, self.taken())
    }
}

impl fmt::Display for ExecuteError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for ExecuteError<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl ExecuteError<'_> {
    /// Returns the number of donated buffers that are lost.
    pub fn taken(&self) -> usize {
        self.arguments.iter().flatten().filter(|argument| argument.is_none()).count()
    }
}

impl From<ExecuteError<'_>> for Error {
    fn from(failure: ExecuteError<'_>) -> Self {
        failure.error
    }
}

impl LoadedExecutable {
    /// Starts a run on all devices of this process. `arguments[device][parameter]` lists the devices in the
    /// order of [`LoadedExecutable::devices`]. Every device must donate the same parameters.
    ///
    /// # Errors
    /// The arguments do not fit the program, or the plugin reports an error. Donated buffers are lost; use
    /// [`LoadedExecutable::try_execute`] to get them back.
    pub fn execute(&self, arguments: Vec<Vec<Argument<'_>>>, options: &ExecuteOptions) -> Result<Execution> {
        self.try_execute(arguments, options).map_err(|failure| failure.error)
    }

    /// Like [`LoadedExecutable::execute`], but an error returns the arguments.
    ///
    /// # Errors
    /// As for [`LoadedExecutable::execute`].
    pub fn try_execute<'a>(
        &self,
        arguments: Vec<Vec<Argument<'a>>>,
        options: &ExecuteOptions,
    ) -> std::result::Result<Execution, Box<ExecuteError<'a>>> {
        match self.check(&arguments).and_then(|()| self.start(&arguments, options)) {
            // Donated buffers are dropped here: the plugin keeps what the run still needs.
            Ok(execution) => Ok(execution),
            Err(error) => {
                let keep = |argument: Argument<'a>| match &argument {
                    Argument::Donate(buffer) if buffer.is_deleted().unwrap_or(true) => None,
                    Argument::Donate(_) | Argument::Borrow(_) => Some(argument),
                };
                let arguments =
                    arguments.into_iter().map(|own| own.into_iter().map(keep).collect()).collect();
                Err(Box::new(ExecuteError { error: error.with_executable(self.name()), arguments }))
            }
        }
    }

    /// Refuses arguments on which some plugins crash.
    fn check(&self, arguments: &[Vec<Argument<'_>>]) -> Result<()> {
        let devices = self.devices();
        if arguments.len() != devices.len() {
            return Err(run_error(format!(
                "there are arguments for {} devices, but it runs on {}; give one list for each device",
                arguments.len(),
                devices.len()
            )));
        }
        let wanted = self.parameters().map_or_else(|| arguments.first().map_or(0, Vec::len), <[_]>::len);
        for (index, own) in arguments.iter().enumerate() {
            if own.len() != wanted {
                return Err(run_error(format!(
                    "device {index} gets {} arguments, but needs {wanted}",
                    own.len()
                )));
            }
            for (parameter, argument) in own.iter().enumerate() {
                self.check_argument(index, parameter, argument.buffer())?;
                if argument.may_be_overwritten() != arguments[0][parameter].may_be_overwritten() {
                    return Err(run_error(format!(
                        "argument {parameter} is donated on some devices and kept on others; all run the same program"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_argument(&self, index: usize, parameter: usize, buffer: &Buffer) -> Result<()> {
        let (actual, device) = (buffer.device(), &self.devices()[index]);
        if actual != device {
            let whose = if actual.client() == device.client() { "" } else { " of another client" };
            return Err(run_error(format!(
                "argument {parameter} of device {index} must be on {device:?} of its client, but is on {actual:?}{whose}"
            )));
        }
        if let Some(wanted) = self.parameters().map(|parameters| &parameters[parameter])
            && (wanted.dims != buffer.dims()? || wanted.element_type != buffer.element_type()?)
        {
            let actual = buffer.array_type()?;
            return Err(run_error(format!(
                "argument {parameter} of device {index} is {actual}, but the program takes {wanted}"
            )));
        }
        Ok(())
    }

    fn start(&self, arguments: &[Vec<Argument<'_>>], options: &ExecuteOptions) -> Result<Execution> {
        let (num_devices, num_outputs) = (self.devices().len(), self.executable().num_outputs());
        let api = self.client().api();
        api.require(&[Function::BufferDestroy])?;

        let inputs: Vec<Vec<*mut ffi::Buffer>> = arguments
            .iter()
            .map(|own| own.iter().map(|argument| argument.buffer().ptr().as_ptr()).collect())
            .collect();
        let input_lists: Vec<*const *mut ffi::Buffer> = inputs.iter().map(Vec::as_ptr).collect();
        let mut outputs = vec![vec![std::ptr::null_mut::<ffi::Buffer>(); num_outputs]; num_devices];
        let output_lists: Vec<*mut *mut ffi::Buffer> = outputs.iter_mut().map(Vec::as_mut_ptr).collect();
        let mut done = vec![std::ptr::null_mut::<ffi::Event>(); num_devices];
        let kept: Vec<i64> = match arguments.first() {
            Some(own) => (0i64..)
                .zip(own)
                .filter(|(_, argument)| !argument.may_be_overwritten())
                .map(|(i, _)| i)
                .collect(),
            None => Vec::new(),
        };

        let mut execute_options = Padded::<structs::ExecuteOptions>::new(|args| {
            args.launch_id.value = options.launch_id;
            args.non_donatable = kept.as_ptr();
            args.num_non_donatable = kept.len();
            args.call_location =
                options.call_location.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        });
        let mut args = Padded::<Execute>::new(|args| {
            args.executable = self.inner.handle.ptr.as_ptr();
            args.options = execute_options.as_ptr().cast();
            args.arguments = input_lists.as_ptr();
            args.num_devices = num_devices;
            args.num_args = inputs.first().map_or(0, Vec::len);
            args.outputs = output_lists.as_ptr();
            args.done = done.as_mut_ptr();
        });
        // SAFETY: the executable and all arguments are alive; every list has the stated length, and the
        // output lists have room for `num_outputs` entries. Donated buffers are not used again, because the
        // caller gave them up; borrowed and host-backed buffers are excluded from donation.
        unsafe { api.call(LOADED_EXECUTE, &mut args)? };
        self.collect(outputs, done)
    }

    /// Takes ownership of the outputs of a run. All are taken before any is checked, so that none leaks.
    fn collect(&self, outputs: Vec<Vec<*mut ffi::Buffer>>, done: Vec<*mut ffi::Event>) -> Result<Execution> {
        let function = Function::LoadedExecutableExecute;
        let outputs: Vec<Vec<Result<Buffer>>> = outputs
            .into_iter()
            .zip(self.devices())
            .map(|(own, device)| {
                // SAFETY: the run returned these buffers for this device, and we own them.
                own.into_iter().map(|buffer| unsafe { Buffer::new(device, buffer, function) }).collect()
            })
            .collect();
        let done: Vec<Result<Event>> = done
            .into_iter()
            .zip(self.devices())
            .map(|(event, device)| {
                let executable = Some(Arc::clone(self.executable().shared_name()));
                // SAFETY: the run returned this event, and we own it.
                unsafe {
                    Event::new(
                        self.client().api(),
                        event,
                        About { function, executable, device: Some(device.id()) },
                    )
                }
            })
            .collect();
        done.iter().flatten().for_each(|event| self.client().in_flight().track(event));
        Ok(Execution {
            outputs: outputs.into_iter().map(|own| own.into_iter().collect()).collect::<Result<_>>()?,
            done: done.into_iter().collect::<Result<_>>()?,
        })
    }
}

fn run_error(reason: String) -> Error {
    Error::invalid("running", reason)
}
