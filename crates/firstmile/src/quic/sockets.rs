//! The sockets of a link that has gone on from another port: it sends from the newest, and hears all.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

use super::runtime::Tokio;
use super::socket::socket_towards;

/// Sockets that are still listened to beside the newest one.
const MOST_FORMER: usize = 8;

/// A dialled link's UDP sockets.
///
/// A mobile network keeps what comes for a studio while its radio is away, and brings all of it
/// afterwards: to the port from which the studio was heard last, not the one that it tries now.
#[derive(Debug)]
pub(super) struct Sockets {
    current: Socket,
    /// The latest last.
    former: Vec<Socket>,
    /// To which something has come last.
    heard: Arc<Mutex<Socket>>,
}

type Socket = Arc<dyn AsyncUdpSocket>;

impl Sockets {
    /// A socket for calls to this address.
    ///
    /// # Errors
    ///
    /// If there is none to be had, or this is no asynchronous runtime.
    pub(super) fn towards(address: SocketAddr) -> anyhow::Result<Arc<Self>> {
        let current = open(address)?;
        let heard = Arc::new(Mutex::new(current.clone()));
        Ok(Arc::new(Self { current, former: Vec::new(), heard }))
    }

    /// Another socket for calls to this address; what comes to these is heard, too, from the one on
    /// that was heard last.
    ///
    /// # Errors
    ///
    /// If there is none to be had.
    pub(super) fn and_another(&self, address: SocketAddr) -> anyhow::Result<Arc<Self>> {
        let current = open(address)?;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.former.iter().chain([&self.current]);
        let mut former: Vec<_> =
            all.skip_while(|socket| !Arc::ptr_eq(socket, &heard)).cloned().collect();
        if former.len() > MOST_FORMER {
            former.remove(1);
        }
        Ok(Arc::new(Self { current, former, heard: self.heard.clone() }))
    }
}

fn open(address: SocketAddr) -> anyhow::Result<Socket> {
    Ok(Tokio.wrap_udp_socket(socket_towards(address)?)?)
}

impl AsyncUdpSocket for Sockets {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.current.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.current.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for socket in [&self.current].into_iter().chain(&self.former) {
            let is_current = Arc::ptr_eq(socket, &self.current);
            match socket.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(received)) => {
                    *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = socket.clone();
                    return Poll::Ready(Ok(received));
                }
                Poll::Ready(Err(error)) if is_current => return Poll::Ready(Err(error)),
                // What is wrong with one that is no longer used is no harm.
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.current.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.current.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.current.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.current.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket;

    use super::*;

    async fn receive(sockets: &Sockets) -> Vec<u8> {
        let (mut bytes, mut meta) = ([0; 64], [RecvMeta::default()]);
        let received =
            poll_fn(|cx| sockets.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut meta));
        assert_eq!(received.await.unwrap(), 1);
        bytes[..meta[0].len].to_vec()
    }

    #[tokio::test]
    async fn the_port_that_was_heard_last_is_kept_and_those_before_are_not() {
        let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
        let home = relay.local_addr().unwrap();
        let port = |sockets: &Sockets| -> SocketAddr {
            ([127, 0, 0, 1], sockets.local_addr().unwrap().port()).into()
        };
        let mut sockets = Sockets::towards(home).unwrap();
        let first = port(&sockets);
        for _ in 0..3 * MOST_FORMER {
            sockets = sockets.and_another(home).unwrap();
        }
        assert_eq!(sockets.former.len(), MOST_FORMER);
        for address in [first, port(&sockets)] {
            relay.send_to(address.to_string().as_bytes(), address).unwrap();
            assert_eq!(receive(&sockets).await, address.to_string().as_bytes());
        }
        let second = port(&sockets);
        sockets = sockets.and_another(home).unwrap();
        assert_eq!(sockets.former.len(), 1, "the one that was heard last");
        relay.send_to(b"late", first).unwrap();
        relay.send_to(b"held", second).unwrap();
        assert_eq!(receive(&sockets).await, b"held");
    }
}
