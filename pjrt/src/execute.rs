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

/// An argument of a run, on one device.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Is still there after the run. An output that the program would put in its place gets memory of its own.
    Borrow(&'a Buffer),
    /// Is consumed: an output may take its place if the program says so, and its memory is free after the run.
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
    /// The buffer, either way.
    pub fn buffer(&self) -> &Buffer {
        match self {
            Argument::Borrow(buffer) => buffer,
            Argument::Donate(buffer) => buffer,
        }
    }

    /// Whether the plugin may put an output in its place.
    fn may_be_overwritten(&self) -> bool {
        match self {
            Argument::Borrow(_) => false,
            Argument::Donate(buffer) => !buffer.borrows_host,
        }
    }
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct ExecuteOptions {
    /// If not 0, tells runs apart, so that a platform notices hosts that start different ones.
    pub launch_id: i32,
    /// Where in the caller's program the run was started, for the plugin's own messages.
    pub call_location: Option<CString>,
}

/// A run that has been started.
#[derive(Debug)]
#[must_use = "the run's error arrives through its events"]
pub struct Execution {
    /// What each device puts out: `outputs[device][output]`. The arrays may still be on their way.
    pub outputs: Vec<Vec<Buffer>>,
    /// When each device is done, and whether it failed.
    pub done: Vec<Event>,
}

impl Execution {
    /// Waits until all devices are done and returns the outputs.
    ///
    /// # Errors
    /// The first error of any device, after all are done.
    pub fn wait(self) -> Result<Vec<Vec<Buffer>>> {
        wait_all(self.done)?;
        Ok(self.outputs)
    }
}

/// A run that could not be started.
pub struct ExecuteError<'a> {
    /// Why.
    pub error: Error,
    /// The arguments as they were given; `None` stands for a donated buffer that the plugin took all the same.
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
    /// How many donated buffers are lost.
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
    /// Starts a run on all devices of this process: `arguments[device][parameter]`, with the devices in the order of
    /// [`LoadedExecutable::devices`]. Every device must donate the same parameters.
    ///
    /// # Errors
    /// Arguments that do not fit the devices, or the plugin's own. Donated buffers are lost; use
    /// [`LoadedExecutable::try_execute`] to keep them.
    pub fn execute(&self, arguments: Vec<Vec<Argument<'_>>>, options: &ExecuteOptions) -> Result<Execution> {
        self.try_execute(arguments, options).map_err(|failure| failure.error)
    }

    /// Like [`LoadedExecutable::execute`], but a failure gives the arguments back.
    ///
    /// # Errors
    /// As for [`LoadedExecutable::execute`].
    pub fn try_execute<'a>(
        &self,
        arguments: Vec<Vec<Argument<'a>>>,
        options: &ExecuteOptions,
    ) -> std::result::Result<Execution, Box<ExecuteError<'a>>> {
        match self.check(&arguments).and_then(|()| self.start(&arguments, options)) {
            // What was donated is dropped here: the plugin keeps what the run still needs.
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

    /// Refuses what a plugin might answer with a crash.
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
        // SAFETY: the executable and all arguments are alive; every list has the length that is stated, and the lists
        // of outputs have `num_outputs` places each. Donated buffers are not used again, since their owner gave them
        // up and `borrow`ed or host-backed ones are excluded from donation.
        unsafe { api.call(LOADED_EXECUTE, &mut args)? };
        self.collect(outputs, done)
    }

    /// Takes what a run put out. Everything is taken before anything is checked, so that nothing is lost.
    fn collect(&self, outputs: Vec<Vec<*mut ffi::Buffer>>, done: Vec<*mut ffi::Event>) -> Result<Execution> {
        let function = Function::LoadedExecutableExecute;
        let outputs: Vec<Vec<Result<Buffer>>> = outputs
            .into_iter()
            .zip(self.devices())
            .map(|(own, device)| {
                // SAFETY: the run put these buffers out on this device, and they are ours.
                own.into_iter().map(|buffer| unsafe { Buffer::new(device, buffer, function) }).collect()
            })
            .collect();
        let done: Vec<Result<Event>> = done
            .into_iter()
            .zip(self.devices())
            .map(|(event, device)| {
                let executable = Some(Arc::clone(self.executable().shared_name()));
                // SAFETY: the run gave out this event, and it is ours.
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
