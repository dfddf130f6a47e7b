//! Two TCP connections to a camera: one for questions and answers, one for what it tells unasked (CIPA DC-X005 §2.2).

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::wire::{self, HEAD_BYTES, Kind};
use super::{GUID, NAME, PtpIpAccess};
use crate::ptp::LinkError;
use crate::ptp::wire::{operation, response};

/// Bytes of file data handed on at once.
const PIECE: usize = 64 * 1024;
/// Packets without data that may come within one answer.
const MAX_IDLE_PACKETS: u32 = 64;

/// A camera on the LAN with an open session.
#[derive(Debug)]
pub(crate) struct IpLink {
    command: TcpStream,
    /// Reads what the camera tells and answers its probes; ends with this.
    _events: JoinSet<()>,
    transaction: u32,
    answer: Option<Answer>,
}

/// An answer being read.
#[derive(Debug, Default)]
struct Answer {
    total: Option<u64>,
    received: u64,
    /// Bytes left in the data packet that is being read.
    left: u32,
    idle: u32,
}

impl IpLink {
    /// Connects and opens a session.
    pub(crate) async fn open(access: &PtpIpAccess) -> Result<Self, LinkError> {
        let mut command = connect(access.address).await?;
        send(&mut command, &wire::init_command(GUID, NAME)).await?;
        let connection = match control(&mut command).await? {
            (Kind::InitCommandAck, body) => wire::parse_command_ack(&body)?,
            (Kind::InitFail, body) => return Err(refused(&body)),
            (kind, _) => return Err(unexpected(kind)),
        };
        let mut event = connect(access.address).await?;
        send(&mut event, &wire::init_event(connection)).await?;
        match control(&mut event).await? {
            (Kind::InitEventAck, _) => {}
            (Kind::InitFail, body) => return Err(refused(&body)),
            (kind, _) => return Err(unexpected(kind)),
        }
        let mut events = JoinSet::new();
        events.spawn(listen(event));
        let mut link = Self {
            command,
            _events: events,
            transaction: 0,
            answer: None,
        };
        link.begin(operation::OPEN_SESSION, &[1]).await?;
        match link.next().await {
            Ok(None) | Err(LinkError::Refused(response::SESSION_ALREADY_OPEN)) => Ok(link),
            Ok(Some(_)) => Err(LinkError::TooMuch),
            Err(error) => Err(error),
        }
    }

    /// Whether the last answer was read to its end.
    pub(crate) fn is_ready(&self) -> bool {
        self.answer.is_none()
    }

    /// Asks a question.
    pub(crate) async fn begin(
        &mut self,
        operation: u16,
        parameters: &[u32],
    ) -> Result<(), LinkError> {
        if self.answer.is_some() {
            return Err(LinkError::Closed);
        }
        // OpenSession is number 0 (ISO 15740 §10.5.2), the others follow.
        if operation != operation::OPEN_SESSION {
            self.transaction = self.transaction.checked_add(1).unwrap_or(1);
        }
        self.answer = Some(Answer::default());
        let packet = wire::request(operation, self.transaction, parameters);
        send(&mut self.command, &packet).await
    }

    /// The next piece of the answer; `None`: the camera said OK.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        loop {
            let Some(answer) = &mut self.answer else {
                return Ok(None);
            };
            if answer.left > 0 {
                let mut piece = BytesMut::with_capacity(PIECE.min(answer.left as usize));
                let mut limited = (&mut self.command).take(u64::from(answer.left));
                let read = limited
                    .read_buf(&mut piece)
                    .await
                    .map_err(LinkError::broken)?;
                if read == 0 {
                    return Err(LinkError::broken("it closed the connection"));
                }
                answer.left -= read as u32;
                return Ok(Some(piece.freeze()));
            }
            if let Some(code) = self.packet().await? {
                let answer = self.answer.take().unwrap_or_default();
                let short = answer.total.is_some_and(|total| answer.received < total);
                return match code {
                    response::OK if short => Err(LinkError::broken("less came than was told")),
                    response::OK => Ok(None),
                    code => Err(LinkError::Refused(code)),
                };
            }
        }
    }

    /// Reads one packet's head, and what belongs to it but file data; gives the code where it was the response.
    async fn packet(&mut self) -> Result<Option<u16>, LinkError> {
        let (kind, length) = head(&mut self.command).await?;
        let answer = self.answer.as_mut().ok_or(LinkError::Closed)?;
        if matches!(kind, Kind::Data | Kind::EndData) {
            let transaction = self
                .command
                .read_u32_le()
                .await
                .map_err(LinkError::broken)?;
            answer.left = length - 4;
            answer.received += u64::from(answer.left);
            if answer.total.is_some_and(|total| answer.received > total) {
                return Err(LinkError::TooMuch);
            }
            return in_step(transaction, self.transaction).map(|()| None);
        }
        answer.idle += 1;
        if answer.idle > MAX_IDLE_PACKETS {
            return Err(LinkError::broken("it talks without an answer"));
        }
        let body = read(&mut self.command, length).await?;
        match kind {
            Kind::Response => {
                let (code, transaction) = wire::parse_response(&body)?;
                in_step(transaction, self.transaction).map(|()| Some(code))
            }
            Kind::StartData => {
                let (transaction, total) = wire::parse_start(&body)?;
                answer.total = total;
                in_step(transaction, self.transaction).map(|()| None)
            }
            Kind::ProbeRequest => {
                send(&mut self.command, &wire::probe_response()).await?;
                Ok(None)
            }
            Kind::Event => Ok(None),
            kind => Err(unexpected(kind)),
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, LinkError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| LinkError::NotThere(error.into()))?;
    // Questions are small and waited for; a system that cannot send them at once sends them later.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn send(stream: &mut TcpStream, packet: &[u8]) -> Result<(), LinkError> {
    stream.write_all(packet).await.map_err(LinkError::broken)
}

async fn head(stream: &mut TcpStream) -> Result<(Kind, u32), LinkError> {
    let mut head = [0; HEAD_BYTES];
    stream
        .read_exact(&mut head)
        .await
        .map_err(LinkError::broken)?;
    // A stream whose packets cannot be told apart is of no more use.
    wire::parse_head(head).map_err(LinkError::broken)
}

/// The rest of a packet; its length was checked with its head.
async fn read(stream: &mut TcpStream, length: u32) -> Result<Vec<u8>, LinkError> {
    let mut body = vec![0; length as usize];
    stream
        .read_exact(&mut body)
        .await
        .map_err(LinkError::broken)?;
    Ok(body)
}

/// A packet where no data may come.
async fn control(stream: &mut TcpStream) -> Result<(Kind, Vec<u8>), LinkError> {
    let (kind, length) = head(stream).await?;
    if matches!(kind, Kind::Data | Kind::EndData) {
        return Err(unexpected(kind));
    }
    Ok((kind, read(stream, length).await?))
}

/// Reads what the camera tells, and answers its probes.
async fn listen(mut stream: TcpStream) {
    while let Ok((kind, _)) = control(&mut stream).await {
        if kind == Kind::ProbeRequest && send(&mut stream, &wire::probe_response()).await.is_err() {
            return;
        }
    }
}

fn in_step(theirs: u32, ours: u32) -> Result<(), LinkError> {
    if theirs == ours {
        Ok(())
    } else {
        Err(LinkError::broken("it answers another question"))
    }
}

fn unexpected(kind: Kind) -> LinkError {
    LinkError::broken(format!("{kind:?} was not expected"))
}

/// CIPA DC-X005 §2.3.5: 1 rejected, 2 busy, 3 unspecified.
fn refused(body: &[u8]) -> LinkError {
    match wire::parse_fail(body) {
        Ok(2) => LinkError::InUse,
        Ok(1) => LinkError::NotThere(
            "the camera does not know this gateway yet: pair it on the camera's own menu".into(),
        ),
        _ => LinkError::NotThere("the camera refused the connection".into()),
    }
}
