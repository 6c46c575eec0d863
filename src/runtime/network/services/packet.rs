//! Packets of the domain name system (RFC 1035), as far as a resolver of containers needs them: a question is read,
//! an answer is written. Everything else is passed on as it is.

use std::net::IpAddr;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const IN: u16 = 1;
const HEADER: usize = 12;

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
}

/// A query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub id: u16,
    /// Without the last dot, in small letters. None for one with bytes in it that no name of ours has.
    pub name: Option<String>,
    pub kind: u16,
    /// Where the question ends.
    end: usize,
}

/// Why a packet is no query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Not even an answer is due: too short, or an answer itself.
    Silent,
    Because(Rcode),
}

impl Query {
    pub(super) fn parse(packet: &[u8]) -> Result<Self, Unreadable> {
        let header: &[u8; HEADER] = packet.first_chunk().ok_or(Unreadable::Silent)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if header[2] & 0x80 != 0 {
            return Err(Unreadable::Silent);
        }
        if header[2] >> 3 & 0xf != 0 {
            return Err(Unreadable::Because(Rcode::NotImp));
        }
        let malformed = Unreadable::Because(Rcode::FormErr);
        if number(4) != 1 || number(6) != 0 {
            return Err(malformed);
        }
        let (name, after) = name(packet, HEADER).ok_or(malformed)?;
        let fixed: &[u8; 4] = packet.get(after..).and_then(|rest| rest.first_chunk()).ok_or(malformed)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let class = u16::from_be_bytes([fixed[2], fixed[3]]);
        // What is asked of another class than the internet's is none of our names.
        Ok(Self { id: number(0), name: name.filter(|_| class == IN), kind, end: after + 4 })
    }

    /// Whether a packet is an answer to this query, which was sent under another id.
    pub(super) fn is_answered_by(&self, id: u16, query: &[u8], answer: &[u8]) -> bool {
        let question = query.get(HEADER..self.end);
        answer.len() >= self.end
            && answer[..2] == id.to_be_bytes()
            && answer[2] & 0x80 != 0
            && answer
                .get(HEADER..self.end)
                .zip(question)
                .is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    }

    /// The address that a question for a name of an address is about.
    pub(super) fn reverse(&self) -> Option<IpAddr> {
        let name = self.name.as_deref().filter(|_| self.kind == PTR)?;
        if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
            let parts: Vec<u8> = digits.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
            let mut octets: [u8; 4] = parts.try_into().ok()?;
            octets.reverse();
            return Some(octets.into());
        }
        let digits = name.strip_suffix(".ip6.arpa")?;
        let nibble = |part: &str| (part.len() == 1).then(|| u8::from_str_radix(part, 16).ok()).flatten();
        let nibbles: Vec<u8> = digits.split('.').map(nibble).collect::<Option<_>>()?;
        let nibbles: [u8; 32] = nibbles.try_into().ok()?;
        let mut octets = [0; 16];
        for (place, nibble) in nibbles.iter().rev().enumerate() {
            octets[place / 2] = octets[place / 2] << 4 | nibble;
        }
        Some(octets.into())
    }

    /// An answer with these addresses or names, as many as fit where no more than 512 bytes may be sent.
    pub(super) fn answer(&self, query: &[u8], rcode: Rcode, records: &[Record]) -> Vec<u8> {
        /// Containers come and go: nobody shall remember where one was.
        const TTL: [u8; 4] = 1_u32.to_be_bytes();
        const LIMIT: usize = 512;
        let mut answer = refusal(query, rcode);
        // It was read, so the question is there.
        answer.extend_from_slice(query.get(HEADER..self.end).unwrap_or_default());
        answer[5] = 1;
        let mut count: u16 = 0;
        for record in records {
            let (kind, data) = match record {
                Record::Address(IpAddr::V4(address)) => (A, address.octets().to_vec()),
                Record::Address(IpAddr::V6(address)) => (AAAA, address.octets().to_vec()),
                Record::Name(name) => (PTR, encoded(name)),
            };
            if answer.len() + 12 + data.len() > LIMIT {
                break;
            }
            // The name is that of the question, at its place.
            answer.extend_from_slice(&[0xc0, HEADER as u8]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&IN.to_be_bytes());
            answer.extend_from_slice(&TTL);
            answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
            answer.extend_from_slice(&data);
            count += 1;
        }
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer
    }
}

/// What an answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    Name(String),
}

/// The header of an answer to a packet of at least 12 bytes.
pub(super) fn refusal(query: &[u8], rcode: Rcode) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(&query[..2]);
    // An answer, with the query's own opcode and its wish for recursion, which is to be had.
    answer[2] = 0x80 | (query[2] & 0x79);
    answer[3] = 0x80 | rcode as u8;
    answer
}

/// What an answer says of how it went.
pub(super) fn rcode(answer: &[u8]) -> u8 {
    answer.get(3).map_or(0, |byte| byte & 0xf)
}

/// A name and where it ends. A question is the first name of a packet: there is nothing that it could point to.
fn name(packet: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let start = at;
    let mut text = Some(String::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 || at + length - start > 254 {
            return None;
        }
        let label = packet.get(at..at + length)?;
        at += length;
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
        text = text.filter(|_| label.iter().all(plain)).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            text
        });
    }
    Some((text, at))
}

/// A name as a packet has it. A label that is too long is cut, which no name of a container is.
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        if bytes.len() + label.len() > 250 {
            break;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Nothing that anybody sends may do more than be refused, and an answer is one to the question.
    fn check(packet: &[u8]) {
        if let Ok(query) = Query::parse(packet) {
            let records =
                [Record::Address(IpAddr::from([172, 17, 0, 2])), Record::Name("web.net".to_owned())];
            let answer = query.answer(packet, Rcode::NoError, &records);
            assert!(answer.len() <= 512);
            assert!(query.is_answered_by(query.id, packet, &answer));
            let _ = query.reverse();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_query_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            check(&bytes);
        }

        #[test]
        fn damaged_queries_are_queries_or_refused(
            kind in any::<u16>(),
            damage in prop::collection::vec((0_usize..40, any::<u8>()), 0..4),
            length in 0_usize..60,
        ) {
            let mut packet = query("some.name.example", kind);
            for (at, byte) in damage {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            check(&packet);
            packet.truncate(length);
            check(&packet);
        }
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(encoded(name));
        packet.extend(kind.to_be_bytes());
        packet.extend(IN.to_be_bytes());
        packet
    }

    #[test]
    fn questions_are_read_and_answered() {
        let packet = query("Web.Example", A);
        let read = Query::parse(&packet).unwrap();
        assert_eq!((read.id, read.name.as_deref(), read.kind), (0x1234, Some("web.example"), A));
        let records = [Record::Address(IpAddr::from([172, 17, 0, 2]))];
        let answer = read.answer(&packet, Rcode::NoError, &records);
        assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[packet.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 172, 17, 0, 2]);
        assert!(read.is_answered_by(0x1234, &packet, &answer));
        assert!(!read.is_answered_by(0x1235, &packet, &answer));
        assert!(!read.is_answered_by(0x1234, &packet, &query("other.example", A)));
    }

    #[test]
    fn answers_fit_into_a_datagram() {
        let packet = query("web", AAAA);
        let read = Query::parse(&packet).unwrap();
        let many: Vec<Record> = (0..200).map(|n| Record::Address([0, 0, 0, 0, 0, 0, 0, n].into())).collect();
        let answer = read.answer(&packet, Rcode::NoError, &many);
        assert!(answer.len() <= 512);
        assert_eq!(u16::from_be_bytes([answer[6], answer[7]]), 17);
    }

    #[test]
    fn names_of_addresses() {
        let of = |name: &str| Query::parse(&query(name, PTR)).unwrap().reverse();
        assert_eq!(of("2.0.17.172.in-addr.arpa"), Some("172.17.0.2".parse().unwrap()));
        assert_eq!(of("0.17.172.in-addr.arpa"), None);
        assert_eq!(of("256.0.17.172.in-addr.arpa"), None);
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of(six), Some("fd00::1".parse().unwrap()));
        assert_eq!(of("example"), None);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let because = |packet: &[u8]| Query::parse(packet).unwrap_err();
        assert_eq!(because(b""), Unreadable::Silent);
        assert_eq!(because(&[0; 11]), Unreadable::Silent);
        let good = query("web", A);
        let with = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        assert_eq!(because(&with(2, 0x81)), Unreadable::Silent, "an answer");
        assert_eq!(because(&with(2, 0x29)), Unreadable::Because(Rcode::NotImp));
        assert_eq!(because(&with(5, 2)), Unreadable::Because(Rcode::FormErr), "two questions");
        assert_eq!(because(&with(12, 0xc0)), Unreadable::Because(Rcode::FormErr), "a pointer");
        assert_eq!(because(&with(12, 60)), Unreadable::Because(Rcode::FormErr), "past the end");
        for length in 12..good.len() {
            assert_eq!(because(&good[..length]), Unreadable::Because(Rcode::FormErr), "{length}");
        }
        // Bytes that no name has are somebody else's to answer.
        assert_eq!(Query::parse(&with(13, 0)).unwrap().name, None);
        assert_eq!(Query::parse(&with(13, b'.')).unwrap().name, None);
        let long = ["a"; 130].join(".");
        let mut packet = vec![0; 12];
        packet[5] = 1;
        for label in long.split('.') {
            packet.extend([1, label.as_bytes()[0]]);
        }
        packet.extend([0, 0, 1, 0, 1]);
        assert_eq!(because(&packet), Unreadable::Because(Rcode::FormErr));
    }
}
