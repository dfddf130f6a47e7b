//! Packets by UDP (RFC 2326 §12.39), for cameras that do nothing else: the relay asks the camera for UDP where retina
//! asks for interleaved packets, and puts the datagrams into the connection to retina. So bounds and errors are the
//! same for both ways, datagrams are taken from the camera's own address only, and packets that come late are left out.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::meter::{Ended, MAX_SETUP_BYTES, Meter};

/// Largest head of a message, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most streams of one session.
pub const MAX_LANES: usize = 4;
/// Datagrams waiting for the relay.
const DATAGRAM_QUEUE: usize = 64;
/// Largest datagram.
const DATAGRAM_BYTES: usize = 65_507;
/// How often a pair of adjacent ports is tried for.
const PORT_TRIES: usize = 16;

/// A message of RTSP: its head with the empty line, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Start line and headers.
    pub head: String,
    /// As long as `Content-Length` says.
    pub body: Bytes,
}

/// The bytes are no RTSP, or beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the camera's answer is no RTSP")]
pub struct NoRtsp;

/// Takes the first message out of `bytes`; `None`: it is not whole yet.
pub fn take_message(bytes: &mut BytesMut) -> Result<Option<Message>, NoRtsp> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD_BYTES {
            Err(NoRtsp)
        } else {
            Ok(None)
        };
    };
    let head = std::str::from_utf8(&bytes[..end + 4]).map_err(|_| NoRtsp)?;
    if head.len() > MAX_HEAD_BYTES {
        return Err(NoRtsp);
    }
    let length = match header(head, "Content-Length") {
        Some(text) => text.parse().map_err(|_| NoRtsp)?,
        None => 0_usize,
    };
    if length as u64 > MAX_SETUP_BYTES {
        return Err(NoRtsp);
    }
    if bytes.len() < end + 4 + length {
        return Ok(None);
    }
    let head = head.to_owned();
    bytes.advance(head.len());
    let body = bytes.split_to(length).freeze();
    Ok(Some(Message { head, body }))
}

/// The value of a header, whatever the case of its name.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The head with another `Transport`.
fn with_transport(head: &str, transport: &str) -> String {
    let mut out = String::with_capacity(head.len() + transport.len());
    // At the same places as `header` does: a device may leave out the carriage return.
    for line in head.split_inclusive('\n') {
        let name = line.split(':').next().unwrap_or_default();
        if name.trim().eq_ignore_ascii_case("Transport") {
            out.push_str("Transport: ");
            out.push_str(transport);
            out.push_str("\r\n");
        } else {
            out.push_str(line);
        }
    }
    out
}

/// The value of a parameter of a `Transport`, such as `server_port`.
fn parameter<'a>(transport: &'a str, name: &str) -> Option<&'a str> {
    transport
        .split(';')
        .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The first number of a parameter that is a pair.
fn first<N: std::str::FromStr>(transport: &str, name: &str) -> Option<N> {
    parameter(transport, name)?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// retina's `SETUP` as the camera gets it, and the channel that was asked for; `None`: it is another request.
pub fn ask_for_udp(head: &str, rtp_port: u16) -> Option<(String, u8)> {
    if !head.starts_with("SETUP ") {
        return None;
    }
    let channel = first(header(head, "Transport")?, "interleaved")?;
    let last = rtp_port.checked_add(1)?;
    let transport = format!("RTP/AVP;unicast;client_port={rtp_port}-{last}");
    Some((with_transport(head, &transport), channel))
}

/// The camera's answer to a `SETUP` as retina gets it, and the port that packets come from; `None`: it grants no UDP.
pub fn as_interleaved(head: &str, channel: u8) -> Option<(String, u16)> {
    let granted = header(head, "Transport")?;
    let port = first::<u16>(granted, "server_port").filter(|port| (1..u16::MAX).contains(port))?;
    let last = channel.checked_add(1)?;
    let mut transport = format!("RTP/AVP/TCP;unicast;interleaved={channel}-{last}");
    if let Some(ssrc) = parameter(granted, "ssrc") {
        transport.push_str(";ssrc=");
        transport.push_str(ssrc);
    }
    Some((with_transport(head, &transport), port))
}

/// A datagram in the frame of an interleaved packet (RFC 2326 §10.12).
fn framed(channel: u8, datagram: &[u8]) -> Option<Bytes> {
    let length = u16::try_from(datagram.len()).ok()?;
    let mut out = BytesMut::with_capacity(datagram.len() + 4);
    out.put_slice(&[b'$', channel]);
    out.put_u16(length);
    out.put_slice(datagram);
    Some(out.freeze())
}

/// Leaves out packets that come after a later one.
#[derive(Debug, Default)]
struct Order {
    latest: Option<u16>,
}

impl Order {
    fn keeps(&mut self, packet: &[u8]) -> bool {
        let Some(&[high, low]) = packet.get(2..4) else {
            return false;
        };
        let sequence = u16::from_be_bytes([high, low]);
        let ahead = self
            .latest
            .map_or(1, |latest| sequence.wrapping_sub(latest));
        let keeps = (1..0x8000).contains(&ahead);
        if keeps {
            self.latest = Some(sequence);
        }
        keeps
    }
}

/// The two sockets of one stream.
struct Lane {
    channel: u8,
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Lane {
    async fn bind(own: IpAddr) -> io::Result<(Self, u16)> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let rtp = UdpSocket::bind(SocketAddr::new(own, 0)).await?;
            let port = rtp.local_addr()?.port();
            if port % 2 != 0 {
                continue;
            }
            match UdpSocket::bind(SocketAddr::new(own, port + 1)).await {
                Ok(rtcp) => {
                    let lane = Self {
                        channel: 0,
                        rtp,
                        rtcp,
                    };
                    return Ok((lane, port));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no pair of adjacent ports is free")))
    }

    /// Hands datagrams of the camera on, in frames, until nobody takes them.
    async fn run(self, camera: IpAddr, port: u16, frames: mpsc::Sender<Bytes>) {
        let connected = self
            .rtp
            .connect(SocketAddr::new(camera, port))
            .await
            .is_ok()
            && self
                .rtcp
                .connect(SocketAddr::new(camera, port + 1))
                .await
                .is_ok();
        if !connected {
            return;
        }
        let mut order = Order::default();
        let (mut packet, mut report) = (vec![0; DATAGRAM_BYTES], vec![0; DATAGRAM_BYTES]);
        loop {
            // An error tells of an earlier datagram that the camera refused: it is no end.
            let frame = tokio::select! {
                got = self.rtp.recv(&mut packet) => match got {
                    Ok(length) if order.keeps(&packet[..length]) => {
                        framed(self.channel, &packet[..length])
                    }
                    Ok(_) | Err(_) => None,
                },
                got = self.rtcp.recv(&mut report) => match got {
                    Ok(length) => framed(self.channel.saturating_add(1), &report[..length]),
                    Err(_) => None,
                },
            };
            if let Some(frame) = frame
                && frames.send(frame).await.is_err()
            {
                return;
            }
        }
    }
}

/// Relays one session until either side ends it; see [`super::meter::relay`].
pub(super) async fn relay(ours: TcpStream, camera: TcpStream, meter: &Meter) {
    let (Ok(own), Ok(peer)) = (camera.local_addr(), camera.peer_addr()) else {
        return meter.tell(Ended::ByCamera);
    };
    let (ours_read, ours_write) = ours.into_split();
    let (camera_read, camera_write) = camera.into_split();
    let (frames, coming) = mpsc::channel(DATAGRAM_QUEUE);
    let mut session = Session {
        own: own.ip(),
        camera: peer.ip(),
        ours: ours_write,
        to_camera: camera_write,
        asked: VecDeque::new(),
        lanes: JoinSet::new(),
        frames,
    };
    let ended = session
        .run(ours_read, camera_read, coming, meter)
        .await
        .err()
        .unwrap_or(Ended::ByUs);
    // Told before our side sees the end, so that whoever sees it can ask why.
    meter.tell(ended);
}

struct Session {
    own: IpAddr,
    camera: IpAddr,
    ours: OwnedWriteHalf,
    to_camera: OwnedWriteHalf,
    /// Lanes asked for and not granted yet.
    asked: VecDeque<Lane>,
    lanes: JoinSet<()>,
    frames: mpsc::Sender<Bytes>,
}

impl Session {
    async fn run(
        &mut self,
        mut ours: OwnedReadHalf,
        mut camera: OwnedReadHalf,
        mut coming: mpsc::Receiver<Bytes>,
        meter: &Meter,
    ) -> Result<(), Ended> {
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        loop {
            tokio::select! {
                read = ours.read_buf(&mut up) => {
                    if !matches!(read, Ok(1..)) {
                        return Ok(());
                    }
                    while let Some(message) = take_message(&mut up).map_err(|_| Ended::ByUs)? {
                        self.send_up(message).await?;
                    }
                }
                read = camera.read_buf(&mut down) => {
                    let Ok(length @ 1..) = read else {
                        return Err(Ended::ByCamera);
                    };
                    meter.count(length)?;
                    while let Some(message) = take_message(&mut down).map_err(|_| Ended::NoRtsp)? {
                        self.send_down(message).await?;
                    }
                }
                Some(frame) = coming.recv() => {
                    meter.count(frame.len())?;
                    self.ours.write_all(&frame).await.map_err(|_| Ended::ByUs)?;
                }
            }
        }
    }

    async fn send_up(&mut self, message: Message) -> Result<(), Ended> {
        let mut head = message.head;
        if head.starts_with("SETUP ") && self.asked.len() + self.lanes.len() < MAX_LANES {
            let (mut lane, port) = Lane::bind(self.own).await.map_err(|_| Ended::ByUs)?;
            if let Some((asking, channel)) = ask_for_udp(&head, port) {
                lane.channel = channel;
                self.asked.push_back(lane);
                head = asking;
            }
        }
        let whole = [head.as_bytes(), &message.body].concat();
        let sent = self.to_camera.write_all(&whole).await;
        sent.map_err(|_| Ended::ByCamera)
    }

    async fn send_down(&mut self, message: Message) -> Result<(), Ended> {
        let mut head = message.head;
        // A challenge to a SETUP grants nothing: it is asked again with a lane of its own.
        let refused = header(&head, "Transport").is_none() && head.starts_with("RTSP/1.0 4");
        if refused {
            self.asked.pop_front();
        } else if header(&head, "Transport").is_some()
            && let Some(lane) = self.asked.pop_front()
        {
            let (granted, port) = as_interleaved(&head, lane.channel).ok_or(Ended::NoRtsp)?;
            head = granted;
            self.lanes
                .spawn(lane.run(self.camera, port, self.frames.clone()));
        }
        let whole = [head.as_bytes(), &message.body].concat();
        self.ours.write_all(&whole).await.map_err(|_| Ended::ByUs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETUP: &str = "SETUP rtsp://10.0.0.4/x RTSP/1.0\r\nTransport: RTP/AVP/TCP;unicast;interleaved=2-3\r\n\
                         CSeq: 3\r\n\r\n";

    #[test]
    fn interleaved_is_asked_for_as_udp_and_granted_as_interleaved() {
        let (asked, channel) = ask_for_udp(SETUP, 50_000).expect("a SETUP");
        assert_eq!(channel, 2);
        assert_eq!(
            header(&asked, "transport"),
            Some("RTP/AVP;unicast;client_port=50000-50001")
        );
        assert!(asked.ends_with("CSeq: 3\r\n\r\n"));
        let granted = "RTSP/1.0 200 OK\r\nCSeq: 3\r\nTransport: RTP/AVP;unicast;client_port=50000-50001;\
                       server_port=6000-6001;ssrc=0A0B0C0D;source=8.8.8.8\r\n\r\n";
        let (told, port) = as_interleaved(granted, 2).expect("granted");
        assert_eq!(port, 6000);
        let transport = header(&told, "Transport");
        assert_eq!(
            transport,
            Some("RTP/AVP/TCP;unicast;interleaved=2-3;ssrc=0A0B0C0D")
        );
        // A camera that leaves out carriage returns is rewritten where it was read.
        let bare =
            "RTSP/1.0 200 OK\r\nSession: 1\nTransport: RTP/AVP;server_port=6000-6001\r\n\r\n";
        let (told, _) = as_interleaved(bare, 2).expect("granted");
        assert_eq!(
            header(&told, "Transport"),
            Some("RTP/AVP/TCP;unicast;interleaved=2-3")
        );
        assert_eq!(ask_for_udp("PLAY x RTSP/1.0\r\n\r\n", 50_000), None);
        for port in ["0", "65535", "70000", "x", ""] {
            let text = format!("RTSP/1.0 200 OK\r\nTransport: RTP/AVP;server_port={port}\r\n\r\n");
            assert_eq!(as_interleaved(&text, 0), None, "{port}");
        }
    }

    #[test]
    fn messages_are_taken_whole_and_too_large_ones_refused() {
        let mut bytes = BytesMut::from("RTSP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nab");
        assert_eq!(take_message(&mut bytes), Ok(None));
        bytes.extend_from_slice(b"cRTSP");
        let message = take_message(&mut bytes).expect("sound").expect("whole");
        assert_eq!(
            (message.body.as_ref(), bytes.as_ref()),
            (&b"abc"[..], &b"RTSP"[..])
        );
        let mut huge = BytesMut::from("RTSP/1.0 200 OK\r\nContent-Length: 4000000000\r\n\r\n");
        assert_eq!(take_message(&mut huge), Err(NoRtsp));
        let mut endless = BytesMut::from(&vec![b'a'; MAX_HEAD_BYTES + 1][..]);
        assert_eq!(take_message(&mut endless), Err(NoRtsp));
    }

    #[test]
    fn late_and_repeated_packets_are_left_out() {
        let mut order = Order::default();
        let packet = |sequence: u16| {
            let [high, low] = sequence.to_be_bytes();
            [0x80, 96, high, low]
        };
        let kept: Vec<u16> = [65_534, 65_535, 65_535, 1, 0, 2]
            .into_iter()
            .filter(|sequence| order.keeps(&packet(*sequence)))
            .collect();
        assert_eq!(kept, [65_534, 65_535, 1, 2]);
        assert!(!order.keeps(&[0x80]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String, channel: u8, port: u16) {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_message(&mut bytes) {}
            let _ = as_interleaved(&text, channel);
            let _ = as_interleaved(&format!("RTSP/1.0 200 OK\r\nTransport: {text}\r\n\r\n"), channel);
            let _ = ask_for_udp(&format!("SETUP x\r\nTransport: {text}\r\n\r\n"), port);
        }
    }
}
