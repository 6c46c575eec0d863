//! Which fault meets which request: a pure function of a seed, so that a failure can be had again.
//!
//! Requests in flight side by side arrive in any order. So a fault does not depend on how many
//! requests there were, but on the request's own kind and on how often that kind was asked before.

use std::collections::HashMap;

/// Numbers that look random: SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// What is done to one request. Places are fractions of 1024 of what is cut or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The connection is reset before the request is looked at.
    Reset,
    /// So much of the body arrives, then the connection is reset.
    CutRequest(u64),
    /// The registry does as it is told, and its answer is lost.
    LoseAnswer,
    /// So much of the answer's body arrives; then the connection ends, or is reset.
    CutAnswer(u64, bool),
    /// Answered by the proxy, with a Retry-After if there is a number.
    Refuse(u16, Option<u8>),
    /// The registry does as it is told, and its answer is replaced by this status.
    Replace(u16),
    /// A pause before the answer, in milliseconds.
    Delay(u64),
    /// Nothing is answered until the client gives up.
    Stall,
    /// Nothing comes after so much of the answer's body.
    StallBody(u64),
    /// The token that was sent is accepted no more.
    Expire,
    /// HTTP/1.0 without a length: the connection's end is the answer's.
    Old,
    /// The answer's Location becomes relative.
    Relative,
    /// A blob, or the upload that begins, is to be had at another host.
    Elsewhere,
    /// A range is answered with 416.
    NoRange,
    /// A range is answered with all of it.
    IgnoreRange,
    /// A range is answered with another.
    WrongRange,
    /// What is there is said to be missing.
    Missing,
    /// One bit of the answer's body is another.
    Corrupt(u64),
    /// One bit of what is sent is another.
    Spoil(u64),
    /// The length is stated too large, or too small.
    Longer,
    Shorter,
}

impl Fault {
    /// Whether it is gone when the request comes again.
    pub fn passes(self) -> bool {
        !matches!(self, Self::Corrupt(_) | Self::Spoil(_) | Self::Longer | Self::Shorter)
    }

    /// Whether the client has to come again because of it.
    pub fn costs_a_try(self) -> bool {
        !matches!(
            self,
            Self::None | Self::Delay(_) | Self::Old | Self::Relative | Self::Elsewhere | Self::IgnoreRange
        )
    }
}

/// What a request is, as far as faults are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub kind: Kind,
    pub has_range: bool,
    pub has_token: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/v2/`.
    Base,
    Token,
    GetManifest,
    HeadManifest,
    PutManifest,
    GetBlob,
    HeadBlob,
    BeginUpload,
    SendUpload,
    EndUpload,
    AskUpload,
    Other,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Base,
        Self::Token,
        Self::GetManifest,
        Self::HeadManifest,
        Self::PutManifest,
        Self::GetBlob,
        Self::HeadBlob,
        Self::BeginUpload,
        Self::SendUpload,
        Self::EndUpload,
        Self::AskUpload,
    ];

    pub fn of(method: &str, path: &str) -> Self {
        let path = path.split('?').next().unwrap_or(path);
        match method {
            _ if path == "/token" => Self::Token,
            _ if path == "/v2/" => Self::Base,
            "GET" if path.contains("/manifests/") => Self::GetManifest,
            "HEAD" if path.contains("/manifests/") => Self::HeadManifest,
            "PUT" if path.contains("/manifests/") => Self::PutManifest,
            "POST" if path.contains("/blobs/uploads") => Self::BeginUpload,
            "PATCH" => Self::SendUpload,
            "PUT" if path.contains("/blobs/uploads") => Self::EndUpload,
            "GET" if path.contains("/blobs/uploads") => Self::AskUpload,
            "GET" if path.contains("/blobs/") => Self::GetBlob,
            "HEAD" if path.contains("/blobs/") => Self::HeadBlob,
            _ => Self::Other,
        }
    }

    fn has_body(self) -> bool {
        matches!(self, Self::PutManifest | Self::SendUpload | Self::EndUpload)
    }

    fn is_answered_with_a_body(self) -> bool {
        matches!(self, Self::Token | Self::GetManifest | Self::GetBlob)
    }
}

/// What a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// Faults that pass, fewer for each request than it has tries: all must end well.
    Passing,
    /// Anything at any time.
    Wild,
    /// One kind of request fails each time in the same way.
    Lasting(Kind, Fault),
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    Basic,
    Bearer,
}

/// The most faults that one request meets where all must end well.
const PASSING_LIMIT: u64 = 2;

/// All that a seed decides.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub seed: u64,
    pub temper: Temper,
    pub door: Door,
    pub tls: bool,
    /// Nobody listens for so many milliseconds before push and before pull.
    pub refuse: u64,
    /// Uploads go in pieces of 64 KiB.
    pub pieces: bool,
    /// The client soon gives up on silence.
    pub stalls: bool,
    /// How many of 256 requests meet a fault.
    rate: u64,
}

impl Schedule {
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let stalls = random.below(8) == 0;
        let temper = match random.below(10) {
            0..5 => Temper::Passing,
            5..8 => Temper::Wild,
            _ => {
                let kind = random.pick(&Kind::ALL);
                let shape = Shape { kind, has_range: false, has_token: true };
                Temper::Lasting(kind, draw(&mut random, shape, stalls, false))
            }
        };
        Self {
            seed,
            temper,
            door: random.pick(&[Door::Open, Door::Basic, Door::Bearer, Door::Bearer]),
            tls: random.below(5) == 0,
            refuse: if random.below(6) == 0 { random.below(40) } else { 0 },
            pieces: random.below(2) == 0,
            stalls,
            rate: random.pick(&[24, 64, 100, 140]),
        }
    }

    /// The fault for a request, `key` being what makes it the same request when it comes again, and
    /// `met` what was done to it before.
    pub fn fault(&self, shape: Shape, key: &str, asked: u64, met: u64) -> Fault {
        match self.temper {
            Temper::Lasting(kind, fault) if kind == shape.kind => fault,
            Temper::Lasting(..) => Fault::None,
            Temper::Passing | Temper::Wild => {
                let mut random = Random::new(self.seed ^ hash(key).wrapping_add(asked << 32));
                if random.below(256) >= self.rate {
                    return Fault::None;
                }
                let passing = self.temper == Temper::Passing;
                let fault = draw(&mut random, shape, self.stalls, passing);
                let lasts = match fault {
                    // These two mean what they say when they come twice in a row.
                    Fault::Missing | Fault::Expire => asked > 0,
                    fault => fault.costs_a_try() && met >= PASSING_LIMIT,
                };
                if passing && lasts { Fault::None } else { fault }
            }
        }
    }

    /// How many requests a new token is good for.
    pub fn life_of_token(&self, number: u64) -> u64 {
        let mut random = Random::new(self.seed ^ number << 40);
        if random.below(3) == 0 { 4 + random.below(12) } else { u64::MAX }
    }
}

/// A fault that can happen to such a request.
fn draw(random: &mut Random, shape: Shape, stalls: bool, passing: bool) -> Fault {
    let place = random.below(1024);
    let mut faults = vec![
        Fault::Reset,
        Fault::LoseAnswer,
        Fault::Refuse(random.pick(&[500, 502, 503, 504, 408]), None),
        Fault::Refuse(429, Some(0)),
        Fault::Replace(random.pick(&[500, 502, 504])),
        Fault::Delay(random.below(30)),
        Fault::Old,
    ];
    if random.below(40) == 0 {
        faults = vec![Fault::Refuse(random.pick(&[429, 503]), Some(1))];
    }
    if stalls && random.below(4) == 0 {
        faults = vec![Fault::Stall];
    }
    if shape.kind.has_body() {
        faults.extend([Fault::CutRequest(place), Fault::CutRequest(1023)]);
        if !passing {
            faults.push(Fault::Spoil(place));
        }
    }
    if shape.kind.is_answered_with_a_body() {
        faults.extend([
            Fault::CutAnswer(place, false),
            Fault::CutAnswer(place, true),
            Fault::CutAnswer(0, true),
        ]);
        if stalls {
            faults.push(Fault::StallBody(place));
        }
        if !passing {
            faults.extend([Fault::Corrupt(place), Fault::Longer, Fault::Shorter]);
        }
    }
    if shape.has_token {
        faults.push(Fault::Expire);
    }
    match shape.kind {
        Kind::GetBlob => faults.extend([Fault::Elsewhere, Fault::Missing]),
        Kind::BeginUpload => faults.extend([Fault::Relative, Fault::Elsewhere]),
        Kind::SendUpload => faults.push(Fault::Relative),
        Kind::EndUpload => faults.push(Fault::Replace(409)),
        _ => {}
    }
    if shape.has_range {
        faults.extend([Fault::NoRange, Fault::IgnoreRange, Fault::WrongRange]);
    }
    random.pick(&faults)
}

fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// How often which request came, and what it met.
#[derive(Debug, Default)]
pub struct Met(HashMap<String, (u64, u64)>);

impl Met {
    /// The fault for the next request of this key.
    pub fn next(&mut self, schedule: &Schedule, shape: Shape, key: &str) -> Fault {
        let (asked, met) = self.0.entry(key.to_owned()).or_default();
        let fault = schedule.fault(shape, key, *asked, *met);
        *asked += 1;
        *met += u64::from(fault.costs_a_try());
        fault
    }
}
