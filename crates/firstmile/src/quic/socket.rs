//! UDP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};

use crate::platform;

/// A UDP socket with room for bursts: a keyframe arrives as some hundred packets at once.
pub(super) fn udp_socket(address: SocketAddr) -> Result<UdpSocket> {
    let is_any = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let socket = match bind_udp(address) {
        Err(error) if is_any && platform::has_no_ipv6(&error) => {
            bind_udp((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        socket => socket,
    };
    socket.with_context(|| format!("cannot listen on UDP {address}"))
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    const BUFFER: usize = 4 << 20;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // Dual stack where the system can; a host without IPv4 mapping serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    // The system may grant less.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Any free port, for calls to this address.
pub(super) fn socket_towards(address: SocketAddr) -> Result<UdpSocket> {
    udp_socket(match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    })
}
