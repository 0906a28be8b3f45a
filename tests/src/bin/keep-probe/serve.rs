//! A tiny HTTP server: enough for a readiness probe, and for moves asked of the init process itself.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Answers one request at a time, for ever.
pub(crate) fn forever(port: &str) -> io::Result<()> {
    crate::raw::exit_on_term();
    let port: u16 = port.parse().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on {port}");
    loop {
        let (stream, _) = listener.accept()?;
        // A client that goes away is no reason to end.
        if let Err(error) = answer(stream) {
            eprintln!("keep-probe: {error}");
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0u8; 4096];
    let length = stream.read(&mut buffer)?;
    let request = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    let target = request.split(' ').nth(1).unwrap_or("/");
    let body = match target.strip_prefix("/many?") {
        Some(moves) => {
            moves.split('&').map(|what| format!("{what}: {}\n", crate::outcome(what))).collect::<String>()
        }
        None => "ok\n".to_owned(),
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
