//! Media workers: the sandbox as units of the service manager (`systemd/mantel-media-worker@.service`), for a gateway whose
//! own unit may make no namespaces. Each connection to their socket is a worker, which ends with it.
//!
//! The gateway first says what the worker is for: [`ORDER_BYTES`] of JSON, filled up with spaces. To a tool's order
//! belong three files (`SCM_RIGHTS`, unix(7)): what it reads, what it prints into, what it complains into. When the tool
//! has ended, the worker answers with one byte: 0 for success. A decoder speaks on the connection itself
//! ([`mantel_peripherals::decode::worker`]). The worker makes the tool's arguments itself, from the closed set of
//! [`Operation`]s.

use super::sandbox::{Failure, Operation, heard, refused};
use mantel_peripherals::decode::{Worker, worker};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The argument that makes this program a media worker; its connection is standard input.
pub const WORKER_COMMAND: &str = "media-worker";
/// Length of an order, bytes.
const ORDER_BYTES: usize = 128;
/// Files that come with an order at most.
const FILES: usize = 3;

/// What a worker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Decodes one file of sound.
    Decode,
    /// Runs one tool once.
    Tool(Operation),
}

/// Gets a worker and gives it its order.
fn hire(socket: &Path, order: Order, files: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    let mut words = serde_json::to_vec(&order)?;
    words.resize(ORDER_BYTES, b' ');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files for an order"));
    }
    let sent = sendmsg(
        &stream,
        &[IoSlice::new(&words)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent != ORDER_BYTES {
        return Err(io::Error::other("the order was sent in part only"));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Runs one tool in a worker; what it prints, at most so many bytes. The worker and its tool end when this is dropped.
pub(super) async fn run(
    socket: &Path,
    operation: Operation,
    input: Option<&File>,
    output: Option<&File>,
    output_bytes: u64,
) -> Result<Vec<u8>, Failure> {
    let (mut stream, printed, complained) = (|| {
        let (printed, stdout) = io::pipe()?;
        let (complained, stderr) = io::pipe()?;
        let nothing = File::open("/dev/null")?;
        let files = [
            input.unwrap_or(&nothing).as_fd(),
            output.map_or(stdout.as_fd(), AsFd::as_fd),
            stderr.as_fd(),
        ];
        let stream = hire(socket, Order::Tool(operation), &files)?;
        io::Result::Ok((
            tokio::net::UnixStream::from_std(stream)?,
            pipe::Receiver::from_owned_fd(printed.into())?,
            pipe::Receiver::from_owned_fd(complained.into())?,
        ))
    })()
    .map_err(refused)?;
    let said = heard(Some(printed), Some(complained), output_bytes).await?;
    let status = stream.read_u8().await.map_err(refused)?;
    said.judged(status == 0, "the tool failed")
}

/// Starts a decoder of sound.
pub(super) fn decoder(socket: &Path) -> io::Result<Worker> {
    let stream = tokio::net::UnixStream::from_std(hire(socket, Order::Decode, &[])?)?;
    let (output, input) = stream.into_split();
    Ok(Worker {
        input: Box::new(input),
        output: Box::new(output),
        guard: Box::new(()),
    })
}

/// The worker itself: takes its order from the connection and carries it out.
pub fn serve(connection: UnixStream) -> io::Result<()> {
    let (order, files) = taken(&connection)?;
    match order {
        Order::Decode => worker::serve(connection.try_clone()?, connection),
        Order::Tool(operation) => carry_out(operation, files, connection),
    }
}

fn taken(connection: &UnixStream) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut words = [0; ORDER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut words)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(come) = message {
            files.extend(come);
        }
    }
    if got.bytes != ORDER_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&words)?, files))
}

fn carry_out(operation: Operation, files: Vec<OwnedFd>, mut gateway: UnixStream) -> io::Result<()> {
    let Ok([input, output, complaint]) = <[OwnedFd; FILES]>::try_from(files) else {
        return Err(io::Error::other("an order without its files"));
    };
    let (program, arguments) = operation.program_and_arguments();
    let mut tool = Command::new(program);
    tool.args(arguments)
        .env_clear()
        .stdin(input)
        .stdout(output)
        .stderr(complaint);
    let mut child = tool.spawn()?;
    // Its streams are the child's alone, so that the gateway sees their end.
    drop(tool);
    let child_ends = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut either = [
        PollFd::new(&child_ends, PollFlags::IN),
        // The gateway says nothing more: this is it hanging up.
        PollFd::new(&gateway, PollFlags::IN),
    ];
    while let Err(rustix::io::Errno::INTR) = poll(&mut either, None) {}
    if either[0].revents().is_empty() {
        child.kill()?;
    }
    let status = child.wait()?;
    gateway.write_all(&[u8::from(!status.success())])
}

#[cfg(test)]
mod tests {
    use super::super::sandbox::SandboxError;
    use super::*;
    use std::os::unix::net::UnixListener;

    /// The socket of as many workers as there are orders, without their units.
    fn workers(
        folder: &Path,
        orders: usize,
    ) -> (std::path::PathBuf, std::thread::JoinHandle<usize>) {
        let socket = folder.join("socket");
        let listener = UnixListener::bind(&socket).expect("bound");
        let serving = std::thread::spawn(move || {
            let connections = listener.incoming().take(orders);
            let served = connections.map(|connection| serve(connection.expect("accepted")));
            served.flatten().count()
        });
        (socket, serving)
    }

    #[tokio::test]
    async fn a_tool_prints_refuses_and_is_cut_short() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, serving) = workers(folder.path(), 3);
        let version = run(&socket, Operation::Version, None, None, 10_000).await;
        let version = String::from_utf8(version.expect("ffprobe")).expect("text");
        assert!(version.contains("ffprobe version"), "{version}");
        let mut rubbish = tempfile::tempfile().expect("a file");
        rubbish.write_all(&[7; 10_000]).expect("written");
        let run_it = run(&socket, Operation::Describe, Some(&rubbish), None, 10_000);
        let (error, complaint) = run_it.await.expect_err("rubbish");
        assert_eq!(error, SandboxError::Refused);
        assert!(!complaint.is_empty());
        let cut = run(&socket, Operation::Version, None, None, 10).await;
        assert_eq!(cut.expect_err("too much").0, SandboxError::Limit);
        // The third worker's gateway had hung up before it could answer.
        assert!(serving.join().expect("served") >= 2);
    }

    #[test]
    fn a_tool_ends_when_the_gateway_hangs_up() {
        let (gateway, worker) = UnixStream::pair().expect("a pair");
        let (reader, writer) = io::pipe().expect("a pipe");
        // A tool that reads a pipe to which nobody writes.
        let files = vec![
            reader.into(),
            writer.try_clone().expect("cloned").into(),
            writer.into(),
        ];
        drop(gateway);
        let ended = carry_out(Operation::Describe, files, worker);
        assert!(ended.is_err(), "nobody was there to be told");
    }

    #[test]
    fn orders_have_their_length_and_rubbish_is_none() {
        for order in [
            Order::Decode,
            Order::Tool(Operation::Frame { at_ms: u64::MAX }),
            Order::Tool(Operation::Clip {
                picture: super::super::ClipPicture::CopyH265,
                sound: super::super::ClipSound::Encode,
            }),
        ] {
            let words = serde_json::to_vec(&order).expect("words");
            assert!(words.len() <= ORDER_BYTES, "{words:?}");
            assert_eq!(
                serde_json::from_slice::<Order>(&words).expect("order"),
                order
            );
        }
        let (mut gateway, worker) = UnixStream::pair().expect("a pair");
        gateway.write_all(&[b'{'; ORDER_BYTES]).expect("written");
        assert!(serve(worker).is_err());
    }
}
