//! The sockets of a link that has gone on from another port: it sends from the newest, and hears all.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::socket::socket_towards;

/// Sockets that are still listened to: those of the first seconds of an outage.
const MOST_FORMER: usize = 8;

/// A dialled link's UDP sockets.
///
/// A mobile network keeps what comes for a studio while its radio is away, and brings all of it
/// afterwards: to the port from which the studio was heard last, not the one that it tries now.
#[derive(Debug)]
pub(super) struct Sockets {
    current: Arc<dyn AsyncUdpSocket>,
    /// The latest last.
    former: Vec<Arc<dyn AsyncUdpSocket>>,
}

impl Sockets {
    /// A socket for calls to this address.
    ///
    /// # Errors
    ///
    /// If there is none to be had, or this is no asynchronous runtime.
    pub(super) fn towards(address: SocketAddr) -> anyhow::Result<Arc<Self>> {
        Self::with(address, Vec::new())
    }

    /// Another socket for calls to this address; what comes to these is heard, too.
    ///
    /// # Errors
    ///
    /// If there is none to be had.
    pub(super) fn and_another(&self, address: SocketAddr) -> anyhow::Result<Arc<Self>> {
        let former = self.former.iter().chain([&self.current]).cloned();
        let skip = (self.former.len() + 1).saturating_sub(MOST_FORMER);
        Self::with(address, former.skip(skip).collect())
    }

    fn with(
        address: SocketAddr,
        former: Vec<Arc<dyn AsyncUdpSocket>>,
    ) -> anyhow::Result<Arc<Self>> {
        let runtime = quinn::default_runtime().context("no async runtime")?;
        let current = runtime.wrap_udp_socket(socket_towards(address)?)?;
        Ok(Arc::new(Self { current, former }))
    }
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
        if let Poll::Ready(received) = self.current.poll_recv(cx, bufs, meta) {
            return Poll::Ready(received);
        }
        for socket in &self.former {
            // What is wrong with one that is no longer used is no harm.
            if let Poll::Ready(Ok(received)) = socket.poll_recv(cx, bufs, meta) {
                return Poll::Ready(Ok(received));
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
    async fn what_comes_to_a_port_of_before_is_heard() {
        let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
        let home = relay.local_addr().unwrap();
        let mut sockets = Sockets::towards(home).unwrap();
        let port = |sockets: &Sockets| -> SocketAddr {
            ([127, 0, 0, 1], sockets.local_addr().unwrap().port()).into()
        };
        let first = port(&sockets);
        for _ in 0..MOST_FORMER {
            sockets = sockets.and_another(home).unwrap();
        }
        for address in [first, port(&sockets)] {
            relay.send_to(address.to_string().as_bytes(), address).unwrap();
            assert_eq!(receive(&sockets).await, address.to_string().as_bytes());
        }
        // One more, and the first is let go.
        sockets = sockets.and_another(home).unwrap();
        assert_eq!(sockets.former.len(), MOST_FORMER);
        relay.send_to(b"late", first).unwrap();
        relay.send_to(b"now", port(&sockets)).unwrap();
        assert_eq!(receive(&sockets).await, b"now");
    }
}
