//! Connections of the coordinator: accepted whatever fails, and noticed when they end.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::Sender,
};
use tonic::transport::server::Connected;

/// Connections that may wait to be accepted. The processes of a large job connect at once, and those for
/// which there is no room try again only after seconds.
const WAITING: u32 = 4096;

/// The pause after a connection could not be accepted, such as without a free file descriptor.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

/// Called with the number of a connection that has ended.
pub type OnEnd = Arc<dyn Fn(Number) + Send + Sync>;

/// The number of a connection, which its requests carry as an extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number(pub u64);

/// A connection to a process. The system closes it when the process ends for any reason.
pub struct Connection {
    stream: TcpStream,
    number: Number,
    on_end: OnEnd,
}

/// Listens at an address.
///
/// # Errors
/// The system's error if the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The port of a process that has just ended is free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// Sends all connections that `accept` returns, until the receiver is gone. Continues after an error:
/// connections that wait are accepted when a later attempt succeeds.
pub async fn accept_all<F>(
    mut accept: impl FnMut() -> F,
    on_end: OnEnd,
    connections: Sender<io::Result<Connection>>,
) where
    F: Future<Output = io::Result<TcpStream>>,
{
    let mut number = 0;
    while !connections.is_closed() {
        match accept().await {
            Ok(stream) => {
                number += 1;
                // Replies are small, and waited for. An error means that the connection is closed already.
                let _ = stream.set_nodelay(true);
                let connection = Connection { stream, number: Number(number), on_end: on_end.clone() };
                // Without a receiver the loop ends.
                let _ = connections.send(Ok(connection)).await;
            }
            Err(_) => tokio::time::sleep(AFTER_AN_ERROR).await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        (self.on_end)(self.number);
    }
}

impl Connected for Connection {
    type ConnectInfo = Number;

    fn connect_info(&self) -> Number {
        self.number
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::VecDeque, fs, net, sync::Mutex};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn many_processes_may_connect_at_once() {
        let runtime = runtime();
        let _inside = runtime.enter();
        let listener = listen(any()).unwrap();
        let address = listener.local_addr().unwrap();
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let count = 512.min(most.trim().parse().unwrap());
        // Nobody accepts them.
        let connect = |_| net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
        let connected: io::Result<Vec<_>> = (0..count).map(connect).collect();
        connected.unwrap();
    }

    #[test]
    fn an_error_does_not_end_accepting() {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let on_end: OnEnd = {
            let ended = ended.clone();
            Arc::new(move |number| ended.lock().unwrap().push(number))
        };
        runtime().block_on(async {
            let listener = Arc::new(listen(any()).unwrap());
            let address = listener.local_addr().unwrap();
            let mut errors = VecDeque::from([io::Error::from_raw_os_error(24), io::ErrorKind::Other.into()]);
            let accept = move || {
                let (listener, error) = (listener.clone(), errors.pop_front());
                async move {
                    match error {
                        Some(error) => Err(error),
                        None => listener.accept().await.map(|(stream, _)| stream),
                    }
                }
            };
            let (send, mut connections) = tokio::sync::mpsc::channel(1);
            tokio::spawn(accept_all(accept, on_end, send));
            let _client = TcpStream::connect(address).await.unwrap();
            let connection = connections.recv().await.unwrap().unwrap();
            assert_eq!(connection.connect_info(), Number(1));
            assert!(ended.lock().unwrap().is_empty());
            drop(connection);
            assert_eq!(*ended.lock().unwrap(), [Number(1)]);
        });
    }
}
