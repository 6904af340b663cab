//! A TCP connection to every other process of a job, for the operands of collectives.

use crate::{Error, Result};
use std::{
    io::{self, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Time for all connections to be made.
const CONNECT: Duration = Duration::from_secs(120);
/// Largest operand.
const LARGEST: u64 = 8 << 30;

/// One operand on its way between processes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operand {
    /// The execution of a collective that it belongs to.
    pub key: Key,
    /// The device it comes from, by its position in the mesh.
    pub device: usize,
    /// Its bytes, dense and row-major.
    pub bytes: Vec<u8>,
}

/// One execution of a collective by one group. The same in all processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The run of a program, counted over the session.
    pub run: u64,
    /// The call's number in the rewritten programs.
    pub call: i64,
    /// Counts the executions of the call in the run: iterations of a loop.
    pub occurrence: u64,
    /// The group's index in the collective.
    pub group: usize,
}

/// The means by which connections report: operands that arrive, and processes that are gone.
pub trait Receiver: Send + Sync {
    /// Takes an operand.
    fn receive(&self, operand: Operand);
    /// Notes that a process is gone.
    fn gone(&self, rank: u32, reason: &str);
}

/// Connections by rank. Sending never blocks: each connection has a thread that writes.
#[derive(Debug)]
pub struct Connections {
    writers: Vec<Option<mpsc::Sender<Arc<[u8]>>>>,
}

impl Connections {
    /// Listens on a free port of `ip`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn listen(ip: IpAddr) -> Result<(TcpListener, SocketAddr)> {
        let bound = TcpListener::bind((ip, 0)).and_then(|l| Ok((l.local_addr()?, l)));
        let (address, listener) = bound.map_err(|e| {
            Error::input(
                format!("no port on {ip} for the collectives of this process: {e}"),
                "free a port, or give another address with --coordinator",
            )
        })?;
        Ok((listener, address))
    }

    /// Connects to all ranks: to lower ones by their address, higher ones connect to `listener`. `token`
    /// keeps other jobs out.
    ///
    /// # Errors
    /// A rank does not connect in time, or is of another job.
    pub fn connect(
        rank: u32,
        addresses: &[SocketAddr],
        listener: TcpListener,
        token: &[u8; 32],
        receiver: &Arc<dyn Receiver>,
    ) -> Result<Self> {
        let deadline = Instant::now() + CONNECT;
        let mut writers: Vec<Option<mpsc::Sender<Arc<[u8]>>>> = addresses.iter().map(|_| None).collect();
        let failed = |other: u32, e: &io::Error| {
            Error::input(
                format!("rank {rank} has no connection to rank {other} for collectives: {e}"),
                "all processes of a job must reach each other",
            )
        };
        for (other, address) in addresses.iter().enumerate().take(rank as usize) {
            let mut stream =
                TcpStream::connect_timeout(address, CONNECT).map_err(|e| failed(other as u32, &e))?;
            let hello = [&token[..], &rank.to_le_bytes()].concat();
            stream.write_all(&hello).map_err(|e| failed(other as u32, &e))?;
            writers[other] = Some(start(stream, other as u32, receiver)?);
        }
        listener.set_nonblocking(true).map_err(|e| failed(rank, &e))?;
        while let Some(missing) = writers.iter().skip(rank as usize + 1).position(Option::is_none) {
            let missing = rank + 1 + missing as u32;
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some((other, stream)) = greet(stream, token)
                        && other > rank
                        && writers.get(other as usize).is_some_and(Option::is_none)
                    {
                        writers[other as usize] = Some(start(stream, other, receiver)?);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(e) => return Err(failed(missing, &e)),
            }
        }
        Ok(Self { writers })
    }

    /// Sends an operand to some ranks.
    pub fn send(&self, ranks: impl Iterator<Item = usize>, operand: &Operand) {
        let mut frame: Option<Arc<[u8]>> = None;
        for rank in ranks {
            if let Some(writer) = self.writers.get(rank).and_then(Option::as_ref) {
                let frame = frame.get_or_insert_with(|| encode(operand).into());
                // A writer that has ended has reported that its process is gone.
                let _ = writer.send(frame.clone());
            }
        }
    }
}

/// Reads the greeting of a connection. `None` if it is not of this job.
fn greet(mut stream: TcpStream, token: &[u8; 32]) -> Option<(u32, TcpStream)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut hello = [0; 36];
    stream.read_exact(&mut hello).ok()?;
    stream.set_read_timeout(None).ok()?;
    // blake3's comparison takes the same time for all values.
    let given = blake3::Hash::from_bytes(hello[..32].try_into().ok()?);
    (given == blake3::Hash::from_bytes(*token))
        .then(|| (u32::from_le_bytes([hello[32], hello[33], hello[34], hello[35]]), stream))
}

/// Starts the threads that read from and write to a process.
fn start(stream: TcpStream, rank: u32, receiver: &Arc<dyn Receiver>) -> Result<mpsc::Sender<Arc<[u8]>>> {
    let failed = |e: io::Error| {
        Error::input(format!("no connection to rank {rank}: {e}"), "free threads and file descriptors")
    };
    stream.set_nodelay(true).map_err(failed)?;
    let reading = stream.try_clone().map_err(failed)?;
    let (send, frames) = mpsc::channel::<Arc<[u8]>>();
    let spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name).spawn(run).map(drop).map_err(failed)
    };
    let (to_reader, to_writer) = (receiver.clone(), receiver.clone());
    spawn(
        format!("from rank {rank}"),
        Box::new(move || {
            let mut reading = BufReader::with_capacity(1 << 16, reading);
            let reason = loop {
                match decode(&mut reading) {
                    Ok(operand) => to_reader.receive(operand),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        break "its connection closed".to_owned();
                    }
                    Err(e) => break e.to_string(),
                }
            };
            to_reader.gone(rank, &reason);
        }),
    )?;
    spawn(
        format!("to rank {rank}"),
        Box::new(move || {
            let mut stream = stream;
            for frame in frames {
                if let Err(e) = stream.write_all(&frame) {
                    to_writer.gone(rank, &e.to_string());
                    return;
                }
            }
        }),
    )?;
    Ok(send)
}

/// Bytes of a frame's head: run, call, occurrence, group, device, length.
const HEAD: usize = 6 * 8;

fn encode(operand: &Operand) -> Vec<u8> {
    let Operand { key: Key { run, call, occurrence, group }, device, bytes } = operand;
    let head = [*run, *call as u64, *occurrence, *group as u64, *device as u64, bytes.len() as u64];
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    head.iter().for_each(|number| frame.extend_from_slice(&number.to_le_bytes()));
    frame.extend_from_slice(bytes);
    frame
}

fn decode(from: &mut impl Read) -> io::Result<Operand> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let number = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[8 * i..8 * i + 8]);
        u64::from_le_bytes(bytes)
    };
    let len = number(5);
    if len > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it sent an operand of {len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    let key =
        Key { run: number(0), call: number(1) as i64, occurrence: number(2), group: number(3) as usize };
    Ok(Operand { key, device: number(4) as usize, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_survive_the_wire() {
        let key = Key { run: 3, call: 17, occurrence: 1 << 40, group: 2 };
        let operand = Operand { key, device: 511, bytes: vec![1, 2, 3] };
        let frame = encode(&operand);
        assert_eq!(decode(&mut &frame[..]).unwrap(), operand);
        assert_eq!(decode(&mut &frame[..HEAD + 2]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut huge = frame.clone();
        huge[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(decode(&mut &huge[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
