//! `wa-gateway --healthcheck`: what the image's HEALTHCHECK runs.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::store::reachable;

/// A gateway that takes longer to say that it is well is not well.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the gateway on this machine whether it is well.
pub(super) fn ask(host: IpAddr, port: u16) -> ExitCode {
    if ask_health(host, port).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn ask_health(host: IpAddr, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::from((reachable(host), port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}
