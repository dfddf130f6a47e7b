//! The packets of PTP/IP (CIPA DC-X005-2005 §2): a length, a type, and what the type asks for; little-endian. Pure.

use crate::ptp::wire::Malformed;

/// Bytes of length and type.
pub const HEAD_BYTES: usize = 8;
/// Most bytes of a packet that carries no file data.
pub const MAX_CONTROL_BYTES: u32 = 1024;
/// The protocol's version, 1.0.
const VERSION: u32 = 0x0001_0000;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first packet of a command connection.
    InitCommandRequest,
    /// Its answer.
    InitCommandAck,
    /// The first packet of an event connection.
    InitEventRequest,
    /// Its answer.
    InitEventAck,
    /// The answer to either where the device refuses.
    InitFail,
    /// A question.
    Request,
    /// The code at its end.
    Response,
    /// Something happened on the device.
    Event,
    /// How much data follows.
    StartData,
    /// Data.
    Data,
    /// A question is taken back.
    Cancel,
    /// The last data.
    EndData,
    /// Are you there?
    ProbeRequest,
    /// Yes.
    ProbeResponse,
}

const KINDS: [Kind; 14] = [
    Kind::InitCommandRequest,
    Kind::InitCommandAck,
    Kind::InitEventRequest,
    Kind::InitEventAck,
    Kind::InitFail,
    Kind::Request,
    Kind::Response,
    Kind::Event,
    Kind::StartData,
    Kind::Data,
    Kind::Cancel,
    Kind::EndData,
    Kind::ProbeRequest,
    Kind::ProbeResponse,
];

/// The head of a packet: its kind, and how many bytes follow the head.
pub fn parse_head(head: [u8; HEAD_BYTES]) -> Result<(Kind, u32), Malformed> {
    let [l0, l1, l2, l3, k0, k1, k2, k3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let kind = u32::from_le_bytes([k0, k1, k2, k3]);
    let body = length.checked_sub(HEAD_BYTES as u32).ok_or(Malformed)?;
    let index = kind.checked_sub(1).ok_or(Malformed)? as usize;
    let kind = *KINDS.get(index).ok_or(Malformed)?;
    let carries_data = matches!(kind, Kind::Data | Kind::EndData);
    if carries_data && body < 4 || !carries_data && body > MAX_CONTROL_BYTES {
        return Err(Malformed);
    }
    Ok((kind, body))
}

fn packet(kind: Kind, body: &[u8]) -> Vec<u8> {
    let number = KINDS
        .iter()
        .position(|other| *other == kind)
        .map_or(0, |index| index as u32 + 1);
    let length = (HEAD_BYTES + body.len()) as u32;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(number.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// InitCommandRequest: who asks. A camera may remember `guid` and ask its owner once.
pub fn init_command(guid: [u8; 16], name: &str) -> Vec<u8> {
    let mut body = guid.to_vec();
    let units = name.encode_utf16().take(39).chain([0]);
    body.extend(units.flat_map(u16::to_le_bytes));
    body.extend(VERSION.to_le_bytes());
    packet(Kind::InitCommandRequest, &body)
}

/// InitEventRequest: which command connection it belongs to.
pub fn init_event(connection: u32) -> Vec<u8> {
    packet(Kind::InitEventRequest, &connection.to_le_bytes())
}

/// Request without data from us; at most five parameters.
pub fn request(operation: u16, transaction: u32, parameters: &[u32]) -> Vec<u8> {
    let mut body = 1_u32.to_le_bytes().to_vec();
    body.extend(operation.to_le_bytes());
    body.extend(transaction.to_le_bytes());
    let parameters = parameters.iter().take(5);
    body.extend(parameters.flat_map(|parameter| parameter.to_le_bytes()));
    packet(Kind::Request, &body)
}

/// ProbeResponse.
pub fn probe_response() -> Vec<u8> {
    packet(Kind::ProbeResponse, &[])
}

fn u32_at(body: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = body.get(at..at + 4).ok_or(Malformed)?;
    Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

/// The connection number in an InitCommandAck.
pub fn parse_command_ack(body: &[u8]) -> Result<u32, Malformed> {
    u32_at(body, 0)
}

/// The reason in an InitFail.
pub fn parse_fail(body: &[u8]) -> Result<u32, Malformed> {
    u32_at(body, 0)
}

/// Code and transaction of a Response.
pub fn parse_response(body: &[u8]) -> Result<(u16, u32), Malformed> {
    let code = body.get(..2).ok_or(Malformed)?;
    let code = u16::from_le_bytes(code.try_into().map_err(|_| Malformed)?);
    Ok((code, u32_at(body, 2)?))
}

/// Transaction and total of a StartData; `None`: the device does not know how much it will be.
pub fn parse_start(body: &[u8]) -> Result<(u32, Option<u64>), Malformed> {
    let (low, high) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let total = u64::from(high) << 32 | u64::from(low);
    Ok((u32_at(body, 0)?, (total != u64::MAX).then_some(total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_those_of_the_standard() {
        let request = request(0x1002, 0, &[1]);
        assert_eq!(
            request,
            [
                22, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0x02, 0x10, 0, 0, 0, 0, 1, 0, 0, 0
            ]
        );
        let init = init_command([7; 16], "Me");
        assert_eq!(&init[..8], [34, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&init[24..], [b'M', 0, b'e', 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn heads_that_lie_are_refused() {
        let head = |length: u32, kind: u32| {
            let mut head = [0; 8];
            head[..4].copy_from_slice(&length.to_le_bytes());
            head[4..].copy_from_slice(&kind.to_le_bytes());
            parse_head(head)
        };
        assert_eq!(head(8, 13), Ok((Kind::ProbeRequest, 0)));
        assert_eq!(head(u32::MAX, 10), Ok((Kind::Data, u32::MAX - 8)));
        for (length, kind) in [(7, 7), (0, 7), (8, 0), (8, 15), (u32::MAX, 7), (11, 12)] {
            assert_eq!(head(length, kind), Err(Malformed), "{length} {kind}");
        }
        assert_eq!(parse_start(&[0xff; 12]), Ok((u32::MAX, None)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(head in any::<[u8; 8]>(), body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_head(head);
            let _ = (parse_command_ack(&body), parse_fail(&body), parse_response(&body), parse_start(&body));
        }
    }
}
