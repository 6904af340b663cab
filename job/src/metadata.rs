//! The metadata server of a Google Cloud VM: attributes of the instance, by HTTP.

use crate::{Environment, Error, Result};
use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Time for each of connecting, sending and receiving.
const LIMIT: Duration = Duration::from_secs(2);
/// Largest answer that is read.
const LARGEST: u64 = 1 << 20;

/// The server, by address.
#[derive(Clone, Debug)]
pub struct Server {
    address: String,
}

impl Server {
    /// The server that every VM sees, or that of `GCE_METADATA_IP` (an address, with or without a port).
    pub fn new(environment: Environment) -> Self {
        let host = environment("GCE_METADATA_IP").filter(|host| !host.is_empty());
        let host = host.unwrap_or_else(|| "metadata.google.internal".into());
        Self { address: if host.contains(':') { host } else { format!("{host}:80") } }
    }

    /// An attribute of the instance; `None` if it has none of that name or there is no server.
    ///
    /// # Errors
    /// [`Error::Place`] if a server answers, but with something else than the attribute or "not found".
    pub fn attribute(&self, key: &str) -> Result<Option<String>> {
        let Some(answer) = self.ask(key) else { return Ok(None) };
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        match head.split(' ').nth(1) {
            Some("200") => Ok(Some(body.to_owned())),
            Some("404") => Ok(None),
            _ => {
                let line = head.lines().next().unwrap_or_default();
                Err(Error::Place(format!(
                    "the metadata server at {} answered `{line}` for attribute `{key}`",
                    self.address
                )))
            }
        }
    }

    /// The raw answer. HTTP 1.0, so that the server closes the connection behind an unchunked body.
    fn ask(&self, key: &str) -> Option<Vec<u8>> {
        let address = self.address.to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.set_write_timeout(Some(LIMIT)).ok()?;
        let request = format!(
            "GET /computeMetadata/v1/instance/attributes/{key} HTTP/1.0\r\nHost: metadata.google.internal\r\n\
             Metadata-Flavor: Google\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer).ok()?;
        Some(answer)
    }
}

#[cfg(test)]
pub mod tests {
    //! A metadata server on loopback.
    use super::*;
    use std::net::TcpListener;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    /// A server with given attributes.
    pub struct Fake {
        address: String,
        asked: Arc<AtomicUsize>,
    }

    impl Fake {
        /// Serves on a free port until the process ends.
        pub fn start(answer: fn(&str) -> Option<&'static str>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let asked = Arc::new(AtomicUsize::new(0));
            let count = asked.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut request = [0; 1024];
                    let len = stream.read(&mut request).unwrap();
                    let request = String::from_utf8_lossy(&request[..len]).into_owned();
                    assert!(request.contains("Metadata-Flavor: Google"), "{request}");
                    let path = request.split(' ').nth(1).unwrap();
                    let key = path.rsplit('/').next().unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    let reply = match answer(key) {
                        Some("") => "HTTP/1.0 500 Broken\r\n\r\n".to_owned(),
                        Some(value) => format!("HTTP/1.0 200 OK\r\n\r\n{value}"),
                        None => "HTTP/1.0 404 Not Found\r\n\r\n".to_owned(),
                    };
                    stream.write_all(reply.as_bytes()).unwrap();
                }
            });
            Self { address, asked }
        }

        /// Its address, for `GCE_METADATA_IP`.
        pub fn address(&self) -> String {
            self.address.clone()
        }

        /// Number of answered requests.
        pub fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn attributes_come_or_do_not_exist() {
        let fake = Fake::start(|key| match key {
            "there" => Some("value"),
            "broken" => Some(""),
            _ => None,
        });
        let server = Server { address: fake.address() };
        assert_eq!(server.attribute("there").unwrap().as_deref(), Some("value"));
        assert_eq!(server.attribute("absent").unwrap(), None);
        let error = server.attribute("broken").unwrap_err().to_string();
        assert!(error.contains("500 Broken") && error.contains("`broken`"), "{error}");
        let nobody = Server { address: "127.0.0.1:1".into() };
        assert_eq!(nobody.attribute("there").unwrap(), None);
    }
}
