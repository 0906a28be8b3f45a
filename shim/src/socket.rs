//! The socket at which a pod's server listens: by its path containerd's next start of the pod finds the server.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Longest that a start or a delete waits for its turn: each takes far less than a millisecond.
const TURN: Duration = Duration::from_secs(5);

/// The path in an address that containerd is told.
///
/// # Errors
/// When it is no unix socket's.
pub(crate) fn path_of(address: &str) -> Result<PathBuf> {
    let path = address.strip_prefix("unix://").context("the socket's address is not unix://")?;
    Ok(PathBuf::from(path))
}

/// Binds the socket, or finds that a server answers there already.
///
/// # Errors
/// When it cannot be bound, or the folder cannot be locked.
pub(crate) fn listen(path: &Path) -> Result<Option<UnixListener>> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    }
    let _lock = lock_folder_of(path)?;
    match UnixListener::bind(path) {
        Ok(listener) => Ok(Some(listener)),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
            if !remove_if_dead(path)? {
                return Ok(None);
            }
            let listener = UnixListener::bind(path).with_context(|| format!("cannot listen at {path:?}"))?;
            Ok(Some(listener))
        }
        Err(err) => Err(err).with_context(|| format!("cannot listen at {path:?}")),
    }
}

/// Removes the socket of a server that died, unless another delete of its pod did, or a start has a new server there.
///
/// # Errors
/// When it stays, or the folder cannot be locked.
pub(crate) fn remove_dead(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock_folder_of(path)?;
    remove_if_dead(path).map(drop)
}

/// Whether the socket was dead, and is gone now. For who holds the folder's lock.
fn remove_if_dead(path: &Path) -> Result<bool> {
    let dead = is_dead(path);
    if dead {
        std::fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {path:?}"))?;
    }
    Ok(dead)
}

/// Removes the socket of this server, which is about to end.
///
/// # Errors
/// When it stays.
pub(crate) fn remove_own(path: &Path) -> Result<()> {
    let _lock = lock_folder_of(path)?;
    std::fs::remove_file(path).with_context(|| format!("cannot remove the socket {path:?}"))
}

/// Whether a socket is there and nobody listens. Does not wait for a server whose queue is full: it lives.
fn is_dead(path: &Path) -> bool {
    let connected = UnixAddr::new(path).and_then(|address| {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &address)
    });
    connected == Err(Errno::ECONNREFUSED)
}

/// Only one start or delete at a time looks whether a socket is dead: between its look and the socket's removal, another
/// might remove it or listen there, and a socket that is bound and does not listen yet looks dead as well.
fn lock_folder_of(socket: &Path) -> Result<File> {
    let folder = socket.parent().context("the socket's path has no folder")?;
    let file = File::open(folder).with_context(|| format!("cannot open {folder:?}"))?;
    let deadline = Instant::now() + TURN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(err) => return Err(err).with_context(|| format!("cannot lock {folder:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;
    use std::thread;

    use nix::sys::socket::{Backlog, bind, listen as listen_raw};

    use super::*;

    /// Calls `act` from several threads at the same moment, with the path of a dead server's socket.
    fn at_once<T: Send>(act: impl Fn(&Path) -> T + Sync) -> Vec<T> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let start = Barrier::new(4);
        let act = || {
            start.wait();
            act(&path)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(act)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn deletes_of_one_pod_do_not_stumble_over_its_dead_socket() {
        for _ in 0..200 {
            for removed in at_once(remove_dead) {
                removed.unwrap();
            }
        }
    }

    #[test]
    fn a_server_whose_queue_is_full_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let server = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(server.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen_raw(&server, Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        assert!(!is_dead(&path));
        drop(server);
        assert!(is_dead(&path));
    }

    #[test]
    fn of_several_starts_of_one_pod_exactly_one_listens_and_no_delete_removes_its_socket() {
        for _ in 0..200 {
            let kept = at_once(|path| {
                remove_dead(path).unwrap();
                let listener = listen(path).unwrap();
                remove_dead(path).unwrap();
                assert!(path.exists());
                listener
            });
            assert_eq!(kept.iter().flatten().count(), 1);
        }
    }
}
