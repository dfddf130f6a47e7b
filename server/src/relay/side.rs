//! One connection to the relay, from its first byte to `GO`: handshake, admission frame, the wait for the other side.

use super::meeting::{Arrival, Guest, Meeting, Visit};
use super::splice::{self, Stream};
use super::{Admission, Admitted};
use mantel_protocol::chunk::{decode, encode};
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::DeliveryId;
use mantel_protocol::relay::{
    self, GO, JOIN_WAIT_S, MAX_ADMISSION_FRAME, RELAY_PROTOCOL, RelayRefusal, Welcome,
};
use mantel_protocol::restriction::Side;
use mantel_runtime::tls::peer_device;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, broadcast, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::info;

/// How long a side may take to read an answer, and to send `GO`.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What every connection needs.
pub(super) struct Desk<A> {
    pub(super) acceptor: TlsAcceptor,
    pub(super) admission: Arc<A>,
    pub(super) meeting: Arc<Meeting>,
    pub(super) rate_limit: Option<u64>,
    pub(super) limit: Duration,
}

/// What a connection occupies until it has shown a grant.
pub(super) struct Unfinished {
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) _visit: Visit,
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum SideError {
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("no admission came in time")]
    TooSlow,
    #[error("no admission frame")]
    Frame,
    #[error("refused: {0}")]
    Refused(RelayRefusal),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the other side left before the stream began")]
    Alone,
    #[error("a newer connection took its place")]
    Replaced,
}

impl<A: Admission> Desk<A> {
    /// Serves a connection to its end.
    pub(super) async fn serve(
        &self,
        stream: TcpStream,
        unfinished: Unfinished,
    ) -> Result<(), SideError> {
        let entering = async {
            let mut stream = self
                .acceptor
                .accept(stream)
                .await
                .map_err(SideError::Handshake)?;
            let frame = read_frame(&mut stream).await?;
            Ok((stream, frame))
        };
        let (mut stream, frame) = timeout(self.limit, entering)
            .await
            .map_err(|_| SideError::TooSlow)??;
        let device = peer_device(stream.get_ref().1).ok_or(SideError::Frame)?;
        let admission = match decode::<relay::Admission>(&frame) {
            Ok(admission) if admission.version == RELAY_PROTOCOL => admission,
            _ => return refuse(&mut stream, RelayRefusal::Protocol).await,
        };
        // Heard from before the grant is judged, so that no revocation falls between.
        let revoked = self.admission.revocations();
        let admitted = match self.admission.admit(&admission.grant, device).await {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse(&mut stream, refusal).await,
        };
        drop(unfinished);
        let Admitted { grant, side, .. } = admitted;
        let guest = Guest {
            stream,
            device,
            side,
            token: admission.grant,
        };
        let (guest, place, other) = match self.meeting.arrive(grant.id, guest) {
            Arrival::HandedOver => return Ok(()),
            Arrival::Full(mut guest) => return refuse(&mut guest.stream, RelayRefusal::Busy).await,
            Arrival::Waits(guest, place, other) => (guest, place, other),
        };
        let (here, there, revoked) = wait(guest, other, grant.delivery, revoked).await?;
        drop(place);
        self.join(here, there, grant, revoked).await
    }

    /// Both sides are here: judges once more, takes both out of TLS and splices.
    async fn join(
        &self,
        mut here: Guest,
        mut there: Guest,
        grant: Grant,
        revoked: broadcast::Receiver<DeliveryId>,
    ) -> Result<(), SideError> {
        let seat = self.meeting.run(&grant).await;
        // An older stream of this blob has ended and been counted: only now is it known what remains.
        let remaining = match self.admission.admit(&here.token, here.device).await {
            Ok(admitted) if admitted.remaining_bytes > 0 => admitted.remaining_bytes,
            Ok(_) => return refuse_both(&mut here, &mut there, RelayRefusal::Used).await,
            Err(refusal) => return refuse_both(&mut here, &mut there, refusal).await,
        };
        let (sender, receiver) = match here.side {
            Side::Sender => (here, there),
            Side::Receiver => (there, here),
        };
        let (sender, receiver) =
            tokio::try_join!(leave_tls(sender.stream), leave_tls(receiver.stream))?;
        info!(grant = %grant.id, delivery = %grant.delivery, remaining, "joined two homes");
        let stream = Stream {
            sender,
            receiver,
            grant,
            remaining,
            rate_limit: self.rate_limit,
        };
        splice::run(stream, &*self.admission, revoked, &seat.cut).await;
        drop(seat);
        Ok(())
    }
}

/// Waits for the other side. Nothing may come from this one meanwhile but its end.
async fn wait(
    mut guest: Guest,
    mut other: oneshot::Receiver<Guest>,
    delivery: DeliveryId,
    mut revoked: broadcast::Receiver<DeliveryId>,
) -> Result<(Guest, Guest, broadcast::Receiver<DeliveryId>), SideError> {
    let mut nothing = [0u8; 1];
    let refusal = tokio::select! {
        biased;
        met = &mut other => {
            let there = met.map_err(|_| SideError::Replaced)?;
            return Ok((guest, there, revoked));
        }
        () = ended(&mut revoked, delivery) => RelayRefusal::Revoked,
        read = guest.stream.read(&mut nothing) => match read {
            Ok(0) => return Err(SideError::Alone),
            Ok(_) => RelayRefusal::Protocol,
            Err(error) => return Err(SideError::Broken(error)),
        },
        () = tokio::time::sleep(Duration::from_secs(JOIN_WAIT_S)) => RelayRefusal::NoPeer,
    };
    // The other may have come in this very moment; it is told the same.
    other.close();
    match other.try_recv() {
        Ok(mut there) => refuse_both(&mut guest, &mut there, refusal).await?,
        Err(_) => refuse(&mut guest.stream, refusal).await?,
    }
    Err(SideError::Refused(refusal))
}

/// Returns when `delivery` is revoked, or when it may have been (the list of revocations overran).
pub(super) async fn ended(revoked: &mut broadcast::Receiver<DeliveryId>, delivery: DeliveryId) {
    loop {
        match revoked.recv().await {
            Ok(ended) if ended != delivery => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            // Nobody is left who could revoke: the server is stopping, and the task tree with it.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn read_frame(stream: &mut TlsStream<TcpStream>) -> Result<Vec<u8>, SideError> {
    let len = stream.read_u32_le().await.map_err(SideError::Broken)? as usize;
    if len > MAX_ADMISSION_FRAME {
        return Err(SideError::Frame);
    }
    let mut frame = vec![0; len];
    stream
        .read_exact(&mut frame)
        .await
        .map_err(SideError::Broken)?;
    Ok(frame)
}

async fn answer(stream: &mut TlsStream<TcpStream>, welcome: Welcome) -> Result<(), SideError> {
    let sending = async {
        stream.write_all(&encode(&welcome)).await?;
        stream.flush().await
    };
    timeout(ANSWER_LIMIT, sending)
        .await
        .map_err(|_| SideError::TooSlow)?
        .map_err(SideError::Broken)
}

async fn refuse<T>(
    stream: &mut TlsStream<TcpStream>,
    refusal: RelayRefusal,
) -> Result<T, SideError> {
    answer(stream, Welcome::Refused(refusal)).await?;
    // Waits for the peer to close, so that a reset does not take the answer away from it.
    let _ = timeout(ANSWER_LIMIT, async {
        stream.shutdown().await?;
        let mut rest = [0u8; 64];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    Err(SideError::Refused(refusal))
}

async fn refuse_both<T>(
    here: &mut Guest,
    there: &mut Guest,
    refusal: RelayRefusal,
) -> Result<T, SideError> {
    let (one, _) = tokio::join!(
        refuse::<T>(&mut here.stream, refusal),
        refuse::<T>(&mut there.stream, refusal)
    );
    one
}

/// Says `Joined`, drops TLS and reads `GO` from the socket itself. A gateway sends nothing between its admission and
/// `Joined`, and reads all of `Joined` before `GO`, so no byte of the raw stream is inside TLS' buffers here or there.
async fn leave_tls(mut stream: TlsStream<TcpStream>) -> Result<TcpStream, SideError> {
    answer(&mut stream, Welcome::Joined).await?;
    let (mut stream, _) = stream.into_inner();
    let go = timeout(ANSWER_LIMIT, stream.read_u8())
        .await
        .map_err(|_| SideError::Alone)?;
    match go.map_err(SideError::Broken)? {
        GO => Ok(stream),
        _ => Err(SideError::Frame),
    }
}
