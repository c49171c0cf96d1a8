//! What the program does besides serving: it tells its version, and whether the gateway on this machine answers.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;

/// How long each step of a health check may take: connect, write, read.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer to a health check that is looked at.
const HEALTH_BYTES: u64 = 4096;

const USAGE: &str = "usage: wa-gateway [--version | --healthcheck]
Without arguments it serves; it is set by environment variables, see .env.example.";

/// Acts on the arguments; the exit code, or `None` when there are none and the gateway is to serve.
pub fn answer(mut arguments: impl Iterator<Item = String>) -> Option<u8> {
    Some(match (arguments.next()?.as_str(), arguments.next()) {
        ("--version", None) => tell(concat!("wa-gateway ", env!("CARGO_PKG_VERSION"))),
        ("--help" | "-h", None) => tell(USAGE),
        ("--healthcheck", None) => match Config::from_env().map_err(io::Error::other).and_then(|config| {
            check_health(local(config.host, config.port))
        }) {
            Ok(()) => 0,
            Err(error) => {
                complain(&error.to_string());
                1
            }
        },
        _ => {
            complain(USAGE);
            64
        }
    })
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    let _closed = writeln!(io::stderr(), "{text}");
}

/// Whether standard output is read by a person.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn tell(text: &str) -> u8 {
    u8::from(writeln!(io::stdout(), "{text}").is_err())
}

/// Where a gateway that listens on this address is reached from the same machine.
fn local(host: IpAddr, port: u16) -> SocketAddr {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(host, port)
}

fn check_health(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(HEALTH_BYTES).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other("the gateway is not healthy")) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn exit(arguments: &[&str]) -> Option<u8> {
        answer(arguments.iter().map(|&argument| argument.to_owned()))
    }

    #[test]
    fn arguments_are_answered_or_refused() {
        assert_eq!(exit(&[]), None);
        assert_eq!(exit(&["--version"]), Some(0));
        assert_eq!(exit(&["--serve"]), Some(64));
        assert_eq!(exit(&["--version", "--healthcheck"]), Some(64));
    }

    #[test]
    fn a_gateway_is_reached_on_its_own_machine() {
        for (host, local_host) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.2.3", "10.1.2.3")] {
            assert_eq!(local(host.parse().unwrap(), 7), SocketAddr::new(local_host.parse().unwrap(), 7));
        }
    }

    #[test]
    fn health_is_a_200_and_nothing_else() {
        for (answer, healthy) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 No\r\n\r\n", false), ("", false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 1024];
                assert!(stream.read(&mut asked).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(check_health(address).is_ok(), healthy, "{answer}");
            server.join().unwrap();
        }
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(check_health(closed).is_err());
    }
}
