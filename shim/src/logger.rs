//! A program that takes a container's output, as `binary://` log URIs name it.
//! Source: containerd, docs of core/runtime/v2, "Logging".

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access, execve, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::{Failure, Kind};

/// Longest that a logging program may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);

/// Descriptors that the program finds: output, errors, and the one that it closes when it is ready.
const NUMBERS: [i32; 3] = [3, 4, 5];

/// A logging program that was started and may not be ready yet.
#[derive(Debug)]
pub(crate) struct Logger {
    uri: String,
    ready: pipe::Receiver,
}

/// The container's ends of a logging program's pipes.
pub(crate) struct Pipes {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Logger {
    /// Starts the program of a `binary://` URI; each key and value of its query is an argument.
    ///
    /// # Errors
    /// When the URI names none, or it cannot be forked.
    pub(crate) fn start(uri: &str, id: &str, namespace: &str) -> Result<(Self, Pipes), Failure> {
        let failed = |err: &(dyn std::error::Error + 'static)| {
            Failure::internal(&format!("cannot start the logger {uri}"), err)
        };
        let invalid = || Failure::new(Kind::Invalid, format!("the log URI {uri:?} holds a NUL byte"));
        let arguments: Vec<CString> =
            arguments(uri).into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|_| invalid())?;
        let environment = [format!("CONTAINER_ID={id}"), format!("CONTAINER_NAMESPACE={namespace}")];
        let environment: Vec<CString> =
            environment.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|_| invalid())?;
        if let Some(program) = arguments.first() {
            access(program.as_c_str(), AccessFlags::X_OK).map_err(|err| failed(&err))?;
        }
        let pair = || pipe2(OFlag::O_CLOEXEC).map_err(|err| failed(&err));
        let (output, stdout) = pair()?;
        let (errors, stderr) = pair()?;
        let (ready, closes) = pair()?;
        let ready = pipe::Receiver::from_owned_fd(ready).map_err(|err| failed(&err))?;
        let theirs = [output, errors, closes];
        let keep = theirs.each_ref().map(AsRawFd::as_raw_fd);
        let child = move || {
            // It is to outlive the shim until it has written what is in its pipes.
            if nix::sys::prctl::set_pdeathsig(None).is_err() {
                return 127;
            }
            let placed = sandbox::process::place(theirs.into_iter().zip(NUMBERS).collect());
            match placed.map(|()| arguments.first().map(|program| execve(program, &arguments, &environment)))
            {
                Ok(_) | Err(_) => 127,
            }
        };
        sandbox::process::spawn(&keep, child).map_err(|err| failed(&err))?;
        Ok((Self { uri: uri.to_owned(), ready }, Pipes { stdout, stderr }))
    }

    /// Waits until the program closed its third descriptor, or wrote to it.
    ///
    /// # Errors
    /// When it takes too long.
    pub(crate) async fn ready(mut self) -> Result<(), Failure> {
        let mut byte = [0];
        match tokio::time::timeout(READY, self.ready.read(&mut byte)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => {
                Err(Failure::internal(&format!("cannot hear from the logger {}", self.uri), &err))
            }
            Err(_) => Err(Failure::new(
                Kind::Deadline,
                format!("the logger {} was not ready within {} s", self.uri, READY.as_secs()),
            )),
        }
    }
}

/// Program and arguments of a `binary://` URI.
fn arguments(uri: &str) -> Vec<String> {
    let rest = uri.strip_prefix("binary://").unwrap_or(uri);
    let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut words = vec![program.to_owned()];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        words.push(key.to_owned());
        if !value.is_empty() {
            words.push(value.to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_binary_uri_is_its_arguments() {
        assert_eq!(
            arguments("binary:///usr/bin/log?-d=/var/log&-v"),
            ["/usr/bin/log", "-d", "/var/log", "-v"]
        );
        assert_eq!(arguments("binary:///usr/bin/log"), ["/usr/bin/log"]);
    }
}
