//! Clients at the wrong port: nobody is harmed, and the log says what the mistake is.

use std::net::{SocketAddr, UdpSocket};

use testkit::script::Script;
use testkit::script::handshake::noise;
use testkit::{PATIENCE, wait_until};

use super::{HONEST, House, MIB, attacker};

const HTTP: &[u8] = b"GET /live HTTP/1.1\r\nHost: relay.example\r\nUser-Agent: curl/8\r\n\r\n";
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.6\r\n";

/// A TLS 1.2 record with the start of a ClientHello.
fn client_hello() -> Vec<u8> {
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    hello.extend(&noise(1)[..506]);
    hello
}

fn all() -> Vec<(&'static str, Vec<u8>)> {
    let rtmps = client_hello();
    vec![
        ("this is HTTP, not RTMP", HTTP.to_vec()),
        ("this is TLS, not plain RTMP", rtmps),
        ("this is SSH, not RTMP", SSH.to_vec()),
    ]
}

#[test]
fn the_rtmp_port_says_in_the_log_what_came() {
    for house in [House::studio(), House::relay()] {
        house.survives("other protocols", 8 * MIB, |door| {
            for (words, bytes) in all() {
                // A storm of them is told once a second, so it may take another try.
                wait_until(words, PATIENCE, || {
                    let script = Script::dial_from(attacker(0), door);
                    let mut script = script.expect("the door accepts");
                    script.try_send(&bytes);
                    script.drain();
                    house.front().log().contains(words)
                });
            }
        });
    }
}

/// A scanner by the hundred does not fill the log.
#[test]
fn a_storm_of_mistakes_is_few_lines() {
    let house = House::studio();
    house.survives("a storm of HTTP", 8 * MIB, |door| {
        for _ in 0..300 {
            if let Some(mut script) = Script::dial_from(attacker(0), door) {
                script.try_send(HTTP);
            }
        }
    });
    let lines = house.studio.log().matches("this is HTTP").count();
    assert!((1..100).contains(&lines), "{lines}");
}

#[test]
fn the_http_port_and_the_secure_port_take_anything() {
    let house = House::relay();
    house.survives("other protocols elsewhere", 16 * MIB, |_| {
        for node in [house.front(), &house.studio] {
            for bytes in [client_hello(), SSH.to_vec(), testkit::script::greeting(), vec![0; 9000]]
            {
                let script = Script::dial_from(HONEST, node.address("http"));
                script.expect("the dashboard accepts").try_send(&bytes);
            }
            assert!(node.status().is_ok(), "the dashboard answers");
        }
        garbage(house.front().address("secure"));
        // The studio's link lives.
        house.studio.wait_links(1);
    });
}

/// Whoever comes and goes fills no log, however politely he does.
#[test]
fn a_storm_of_those_who_get_nothing_is_few_lines() {
    let house = House::studio();
    let before = house.studio.log().lines().count();
    for number in 0..100 {
        drop(Script::dial_from(attacker(number), house.door()));
        drop(Script::attempt(attacker(number), house.door(), "play", "nothing"));
    }
    wait_until("they have left", PATIENCE, || {
        house.studio.status().is_ok_and(|status| status["limits"]["unauthenticated"] == 0)
    });
    let lines = house.studio.log().lines().count() - before;
    assert!(lines < 100, "{lines} lines");
}

/// Datagrams that are no QUIC, or nearly, of every size.
fn garbage(address: SocketAddr) {
    let socket = UdpSocket::bind((attacker(0), 0)).unwrap();
    for number in 0..600_usize {
        let mut datagram = noise(number as u8)[..number * 2 + 1].to_vec();
        match number % 4 {
            // A long header of QUIC version 1 with connection ids of 8 bytes.
            0 if datagram.len() > 30 => {
                datagram[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
                datagram[14] = 8;
            }
            // A version that there is not.
            1 if datagram.len() > 6 => datagram[..5].copy_from_slice(&[0xc0, 9, 9, 9, 9]),
            // A short header.
            2 => datagram[0] = 0x40,
            _ => {}
        }
        // A full buffer loses some: that is no matter.
        let _ = socket.send_to(&datagram, address);
    }
}
