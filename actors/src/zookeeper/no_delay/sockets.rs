//! Finds all sockets of this process, and sets the option on one of them.
//!
//! An option is set through a duplicate of the descriptor, which is closed at once: a duplicate that is kept would keep
//! the connection open after its owner has closed it.
//!
//! Duplicating is done with `fcntl`, as the standard library's `try_clone` does it. `pidfd_getfd` could do the same, but
//! container runtimes and systemd count it among the calls of debuggers: they refuse it, or kill the process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::{fs, io, mem};

use filedescriptor::FileDescriptor;
use rustix::fs::{FileType, fstat};
use rustix::net::{getpeername, sockopt};

/// A socket that was open at some time, and may have been closed since.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Tells the socket from another one that has its descriptor later.
    inode: u64,
    /// More than one while somebody duplicates it, which other sessions do when they look for their connection. Some
    /// of them may be closed at once.
    descriptors: Vec<RawFd>,
}

/// All sockets that are open, each once.
pub fn all() -> io::Result<Vec<Socket>> {
    let mut descriptors: HashMap<u64, Vec<RawFd>> = HashMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(inode) = inode(descriptor) {
            descriptors.entry(inode).or_default().push(descriptor);
        }
    }
    Ok(descriptors.into_iter().map(|(inode, descriptors)| Socket { inode, descriptors }).collect())
}

/// `None` if the descriptor is closed or belongs to something else than a socket.
fn inode(descriptor: RawFd) -> Option<u64> {
    let target = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

impl Socket {
    /// No two open sockets have the same.
    pub fn id(&self) -> u64 {
        self.inode
    }

    /// The address that it is connected to. An IPv4 address is not written as an IPv6 address.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        let peer = getpeername(self.duplicate()?)?.ok_or(io::ErrorKind::NotConnected)?;
        let mut peer = SocketAddr::try_from(peer)?;
        peer.set_ip(peer.ip().to_canonical());
        Ok(peer)
    }

    /// Sets `TCP_NODELAY`. Switching it on sends what has waited.
    pub fn set_no_delay(&self, on: bool) -> io::Result<()> {
        Ok(sockopt::set_tcp_nodelay(self.duplicate()?, on)?)
    }

    fn duplicate(&self) -> io::Result<FileDescriptor> {
        let duplicate = self.descriptors.iter().find_map(|descriptor| self.duplicate_of(*descriptor).ok());
        duplicate.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn duplicate_of(&self, descriptor: RawFd) -> io::Result<FileDescriptor> {
        if inode(descriptor) != Some(self.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.check(FileDescriptor::dup(&descriptor).map_err(io::Error::other)?)
    }

    /// The descriptor may have been closed and given to something else just before it was duplicated.
    fn check(&self, duplicate: FileDescriptor) -> io::Result<FileDescriptor> {
        let stat = fstat(&duplicate)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            // A file's duplicate is never closed, because closing any descriptor of a file gives up the process's POSIX
            // locks on it.
            mem::forget(duplicate);
            return Err(io::ErrorKind::NotFound.into());
        }
        match stat.st_ino == self.inode {
            true => Ok(duplicate),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    use super::*;

    /// The socket that has this descriptor.
    fn socket(of: &impl AsRawFd) -> Socket {
        let found = all().expect("readable").into_iter().find(|it| it.descriptors.contains(&of.as_raw_fd()));
        found.expect("a socket")
    }

    #[test]
    fn a_socket_gets_the_option_and_is_closed_by_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).expect("connected");
        let found = socket(&stream);
        assert_eq!(found.peer().expect("connected"), address);
        for on in [true, false] {
            found.set_no_delay(on).expect("should be set");
            assert_eq!(stream.nodelay().expect("an option"), on);
        }
        drop(stream);
        // Reads the end of the stream: no duplicate is left.
        let (mut accepted, _) = listener.accept().expect("a connection");
        assert_eq!(io::Read::read(&mut accepted, &mut [0]).expect("the end"), 0);
    }

    /// Whoever looks for another connection duplicates all sockets for a moment.
    #[test]
    fn a_socket_that_is_duplicated_is_one_and_does_not_depend_on_the_duplicate() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let copies = [stream.try_clone().expect("a duplicate"), stream];
        let found = socket(&copies[0]);
        assert!(copies.iter().all(|copy| found.descriptors.contains(&copy.as_raw_fd())));
        assert_eq!(all().expect("readable").iter().filter(|it| it.id() == found.id()).count(), 1);
        for left in 0..2 {
            let [first, second] = copies.each_ref().map(|copy| copy.try_clone().expect("a duplicate"));
            let found =
                Socket { inode: found.inode, descriptors: vec![first.as_raw_fd(), second.as_raw_fd()] };
            let (kept, closed) = if left == 0 { (first, second) } else { (second, first) };
            drop(closed);
            let on = left == 0;
            found.set_no_delay(on).expect("the other descriptor is left");
            assert_eq!(kept.nodelay().expect("an option"), on);
        }
    }

    #[test]
    fn a_descriptor_that_belongs_to_something_else_by_now_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let former = Socket { inode: u64::MAX, ..socket(&stream) };
        former.set_no_delay(true).expect_err("another socket");
        assert!(!stream.nodelay().expect("an option"));

        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let file = File::open(&path).expect("readable");
        let open = || {
            let entries = fs::read_dir("/proc/self/fd").expect("readable").flatten();
            entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path)).count()
        };
        let former = Socket { inode: u64::MAX, descriptors: vec![file.as_raw_fd()] };
        let before = open();
        former.set_no_delay(true).expect_err("a file");
        assert_eq!(open(), before, "a file is not duplicated");
        former.check(FileDescriptor::dup(&file).expect("a duplicate")).expect_err("a file");
        assert_eq!(
            open(),
            before + 1,
            "a duplicate that was made by mistake stays open, so that the file keeps its locks"
        );
    }
}
