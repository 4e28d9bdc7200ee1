//! Frames to bytes and back. Pure: no I/O, no time.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const HEADER_LENGTH: usize = 8;
/// kubectl sends at most 32 KiB in one frame; more than this is an attack.
const DATA_MAX: usize = 1024 * 1024;
const CONTROL_MAX: usize = 64 * 1024;
/// Of the headers of one frame, unpacked.
const HEADERS_MAX: usize = 64 * 1024;
/// What a header costs besides its text, as HTTP/2 counts it.
const HEADER_OVERHEAD: usize = 32;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
/// The id of SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Why a stream of bytes is not SPDY.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another version of the protocol.
    #[error("unsupported SPDY version {0}")]
    Version(u16),
    /// A frame longer than anything a client needs.
    #[error("frame of {0} bytes is too long")]
    TooLong(usize),
    /// A frame that does not hold what its type requires.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// Headers that zlib cannot unpack, or that unpack to too much.
    #[error("headers cannot be unpacked")]
    Headers,
}

/// Is this the sender's last frame of the stream?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// More may come.
    None,
    /// The sender sends no more.
    Fin,
}

impl Flag {
    fn from_bits(bits: u8) -> Self {
        if bits & FLAG_FIN == 0 { Self::None } else { Self::Fin }
    }

    fn bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Fin => FLAG_FIN,
        }
    }
}

/// Why a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetStatus(pub u32);

impl ResetStatus {
    /// The peer broke a rule.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// A frame for a stream that does not exist.
    pub const INVALID_STREAM: Self = Self(2);
    /// Refused before anything was done for it.
    pub const REFUSED_STREAM: Self = Self(3);
    /// No longer wanted.
    pub const CANCEL: Self = Self(5);
    /// Something failed here.
    pub const INTERNAL_ERROR: Self = Self(6);
}

/// Headers of a stream. Names are lower case on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header, its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What the two ends say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The stream's number, odd from clients.
        id: u32,
        /// What it is for.
        headers: Headers,
        /// Is the opener done already?
        flag: Flag,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream's number.
        id: u32,
        /// Anything to say about it.
        headers: Headers,
        /// Is the accepter done already?
        flag: Flag,
    },
    /// Cuts a stream.
    RstStream {
        /// The stream's number.
        id: u32,
        /// Why.
        status: ResetStatus,
    },
    /// Tells how many bytes may be sent on a new stream.
    Settings {
        /// Absent: not mentioned.
        initial_window: Option<u32>,
    },
    /// To be sent back.
    Ping(u32),
    /// No new streams, please.
    GoAway {
        /// The last stream that was looked at.
        last_id: u32,
    },
    /// More headers.
    Headers {
        /// The stream's number.
        id: u32,
        /// The headers.
        headers: Headers,
        /// Is the sender done?
        flag: Flag,
    },
    /// So many more bytes may be sent.
    WindowUpdate {
        /// The stream's number, 0 for the connection.
        id: u32,
        /// How many bytes.
        delta: u32,
    },
    /// Bytes.
    Data {
        /// The stream's number.
        id: u32,
        /// The bytes.
        bytes: Bytes,
        /// Is the sender done?
        flag: Flag,
    },
}

/// Writes frames. One per direction: headers share a compression context.
#[derive(Debug)]
pub struct Encoder {
    compress: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        Self { compress }
    }
}

impl Encoder {
    /// Appends a frame to `out`.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        match frame {
            Frame::SynStream { id, headers, flag } => {
                let block = self.pack(headers)?;
                control(out, SYN_STREAM, flag.bits(), 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, headers, flag } => {
                self.with_headers(out, SYN_REPLY, *id, headers, *flag)?
            }
            Frame::Headers { id, headers, flag } => self.with_headers(out, HEADERS, *id, headers, *flag)?,
            Frame::RstStream { id, status } => two_words(out, RST_STREAM, *id, status.0),
            Frame::GoAway { last_id } => two_words(out, GOAWAY, *last_id, 0),
            Frame::WindowUpdate { id, delta } => two_words(out, WINDOW_UPDATE, *id, *delta),
            Frame::Ping(id) => {
                control(out, PING, 0, 4);
                out.put_u32(*id);
            }
            Frame::Settings { initial_window } => {
                let entries = usize::from(initial_window.is_some());
                control(out, SETTINGS, 0, 4 + entries * 8);
                out.put_u32(entries as u32);
                if let Some(window) = initial_window {
                    out.put_u32(INITIAL_WINDOW_SIZE);
                    out.put_u32(*window);
                }
            }
            Frame::Data { id, bytes, flag } => {
                out.put_u32(id & 0x7fff_ffff);
                out.put_u32(u32::from(flag.bits()) << 24 | bytes.len() as u32);
                out.put_slice(bytes);
            }
        }
        Ok(())
    }

    fn with_headers(
        &mut self,
        out: &mut BytesMut,
        kind: u16,
        id: u32,
        headers: &Headers,
        flag: Flag,
    ) -> Result<(), Error> {
        let block = self.pack(headers)?;
        control(out, kind, flag.bits(), 4 + block.len());
        out.put_u32(id);
        out.put_slice(&block);
        Ok(())
    }

    fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        let mut put = |text: &[u8]| {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text);
        };
        for (name, value) in &headers.0 {
            put(name.to_ascii_lowercase().as_bytes());
            put(value.as_bytes());
        }
        let mut block = (headers.0.len() as u32).to_be_bytes().to_vec();
        block.append(&mut plain);
        self.deflate(&block)
    }

    fn deflate(&mut self, mut plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut packed = Vec::with_capacity(plain.len() + 64);
        loop {
            let before = self.compress.total_in();
            self.compress
                .compress_vec(plain, &mut packed, FlushCompress::Sync)
                .map_err(|_| Error::Headers)?;
            plain = &plain[(self.compress.total_in() - before) as usize..];
            // Spare room left means that the flush is complete.
            if plain.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(256);
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

fn two_words(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, 0, 8);
    out.put_u32(first);
    out.put_u32(second);
}

/// Reads frames. One per direction.
#[derive(Debug)]
pub struct Decoder {
    decompress: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { decompress: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes the next whole frame from `input`; `None` when more bytes are
    /// needed. Frames of unknown types are skipped. After an error the
    /// connection is of no more use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Error> {
        while input.len() >= HEADER_LENGTH {
            let first = u32::from_be_bytes([input[0], input[1], input[2], input[3]]);
            let second = u32::from_be_bytes([input[4], input[5], input[6], input[7]]);
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            let is_control = first & 0x8000_0000 != 0;
            if length > if is_control { CONTROL_MAX } else { DATA_MAX } {
                return Err(Error::TooLong(length));
            }
            if input.len() < HEADER_LENGTH + length {
                return Ok(None);
            }
            input.advance(HEADER_LENGTH);
            let body = input.split_to(length).freeze();
            if !is_control {
                return Ok(Some(Frame::Data { id: first, bytes: body, flag: Flag::from_bits(flags) }));
            }
            let version = (first >> 16) as u16 & 0x7fff;
            if version != VERSION {
                return Err(Error::Version(version));
            }
            if let Some(frame) = self.control(first as u16, flags, body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Option<Frame>, Error> {
        let flag = Flag::from_bits(flags);
        let frame = match kind {
            SYN_STREAM => {
                let id = stream_id(&mut body, "SYN_STREAM")?;
                if body.len() < 6 {
                    return Err(Error::Malformed("SYN_STREAM"));
                }
                // The associated stream, priority and slot mean nothing here.
                body.advance(6);
                Frame::SynStream { id, headers: self.unpack(&body)?, flag }
            }
            SYN_REPLY => {
                let id = stream_id(&mut body, "SYN_REPLY")?;
                Frame::SynReply { id, headers: self.unpack(&body)?, flag }
            }
            HEADERS => {
                let id = stream_id(&mut body, "HEADERS")?;
                Frame::Headers { id, headers: self.unpack(&body)?, flag }
            }
            RST_STREAM => {
                let id = stream_id(&mut body, "RST_STREAM")?;
                Frame::RstStream { id, status: ResetStatus(word(&mut body, "RST_STREAM")?) }
            }
            SETTINGS => settings(body)?,
            PING => Frame::Ping(word(&mut body, "PING")?),
            GOAWAY => Frame::GoAway { last_id: word(&mut body, "GOAWAY")? & 0x7fff_ffff },
            WINDOW_UPDATE => {
                let id = word(&mut body, "WINDOW_UPDATE")? & 0x7fff_ffff;
                Frame::WindowUpdate { id, delta: word(&mut body, "WINDOW_UPDATE")? & 0x7fff_ffff }
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let count = word(&mut rest, "headers")?;
        let mut headers = Vec::new();
        // What comes out is counted too: a long name before a thousand empty values unpacks
        // to a thousand long names.
        let mut room = HEADERS_MAX;
        for _ in 0..count {
            let name = text(&mut rest)?;
            // Several values of one header are separated by zeros.
            let values = text(&mut rest)?;
            for value in values.split('\0') {
                let size = name.len() + value.len() + HEADER_OVERHEAD;
                room = room.checked_sub(size).ok_or(Error::Headers)?;
                headers.push((name.clone(), value.to_owned()));
            }
        }
        Ok(Headers(headers))
    }

    fn inflate(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::with_capacity(1024);
        while !packed.is_empty() {
            let (before, written) = (self.decompress.total_in(), plain.len());
            let result = self.decompress.decompress_vec(packed, &mut plain, FlushDecompress::Sync);
            packed = &packed[(self.decompress.total_in() - before) as usize..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress.set_dictionary(&DICTIONARY).map_err(|_| Error::Headers)?;
                    continue;
                }
                Err(_) => return Err(Error::Headers),
                Ok(flate2::Status::StreamEnd) => return Err(Error::Headers),
                Ok(_) => {}
            }
            if plain.len() > HEADERS_MAX {
                return Err(Error::Headers);
            }
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            } else if plain.len() == written && self.decompress.total_in() == before {
                return Err(Error::Headers);
            }
        }
        self.drain(plain)
    }

    /// What zlib still holds when the last input byte came with a full buffer.
    fn drain(&mut self, mut plain: Vec<u8>) -> Result<Vec<u8>, Error> {
        loop {
            plain.reserve(256);
            let before = plain.len();
            // An error here is zlib saying that there is nothing to do.
            let _ = self.decompress.decompress_vec(&[], &mut plain, FlushDecompress::Sync);
            if plain.len() == before {
                return Ok(plain);
            }
            if plain.len() > HEADERS_MAX {
                return Err(Error::Headers);
            }
        }
    }
}

fn settings(mut body: Bytes) -> Result<Frame, Error> {
    let count = word(&mut body, "SETTINGS")?;
    let mut initial_window = None;
    for _ in 0..count {
        let id = word(&mut body, "SETTINGS")? & 0x00ff_ffff;
        let value = word(&mut body, "SETTINGS")?;
        if id == INITIAL_WINDOW_SIZE {
            initial_window = Some(value & 0x7fff_ffff);
        }
    }
    Ok(Frame::Settings { initial_window })
}

fn stream_id(body: &mut Bytes, frame: &'static str) -> Result<u32, Error> {
    match word(body, frame)? & 0x7fff_ffff {
        0 => Err(Error::Malformed(frame)),
        id => Ok(id),
    }
}

fn word(body: &mut impl Buf, frame: &'static str) -> Result<u32, Error> {
    body.try_get_u32().map_err(|_| Error::Malformed(frame))
}

fn text(rest: &mut &[u8]) -> Result<String, Error> {
    let length = word(rest, "headers")? as usize;
    let bytes = rest.split_off(..length).ok_or(Error::Malformed("headers"))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_header_with_many_values_does_not_grow_without_bound() {
        let values = "\0".repeat(30_000);
        let name = "n".repeat(30_000);
        let frame = Frame::SynStream { id: 1, headers: headers(&[(&name, &values)]), flag: Flag::None };
        let mut packed = BytesMut::new();
        Encoder::default().encode(&frame, &mut packed).unwrap();
        assert!(packed.len() < 2_000, "nine hundred megabytes from {} bytes", packed.len());
        assert_eq!(Decoder::default().decode(&mut packed), Err(Error::Headers));
    }

    #[test]
    fn the_first_header_block_announces_the_dictionary_as_every_spdy_peer_does() {
        let mut out = BytesMut::new();
        let frame = Frame::SynStream { id: 1, headers: headers(&[("streamtype", "data")]), flag: Flag::None };
        Encoder::default().encode(&frame, &mut out).unwrap();
        // zlib header with FDICT, then the dictionary's checksum.
        assert_eq!((out[18], out[19] & 0x20, &out[20..24]), (0x78, 0x20, &[0xe3, 0xc6, 0xa7, 0xc2][..]));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = 1u32..0x7fff_ffff;
        let flag = prop_oneof![Just(Flag::None), Just(Flag::Fin)];
        let headers = proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..12).prop_map(Headers);
        let data = proptest::collection::vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), headers.clone(), flag.clone()).prop_map(|(id, headers, flag)| Frame::SynStream {
                id,
                headers,
                flag
            }),
            (id.clone(), headers.clone(), flag.clone()).prop_map(|(id, headers, flag)| Frame::SynReply {
                id,
                headers,
                flag
            }),
            (id.clone(), headers, flag.clone()).prop_map(|(id, headers, flag)| Frame::Headers {
                id,
                headers,
                flag
            }),
            (id.clone(), data, flag).prop_map(|(id, bytes, flag)| Frame::Data { id, bytes, flag }),
            (id.clone(), any::<u32>())
                .prop_map(|(id, status)| Frame::RstStream { id, status: ResetStatus(status) }),
            any::<u32>().prop_map(Frame::Ping),
            proptest::option::of(0u32..0x7fff_ffff)
                .prop_map(|initial_window| Frame::Settings { initial_window }),
            id.clone().prop_map(|last_id| Frame::GoAway { last_id }),
            (id, 0u32..0x7fff_ffff).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_way_there_and_back_however_they_are_cut(
            frames in proptest::collection::vec(any_frame(), 1..12),
            cut in 1usize..700,
        ) {
            let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
            for frame in &frames {
                encoder.encode(frame, &mut bytes).unwrap();
            }
            let (mut decoder, mut input, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut input).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let (mut decoder, mut input) = (Decoder::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
        }

        #[test]
        fn a_damaged_frame_never_panics(
            frame in any_frame(), at in any::<proptest::sample::Index>(), value in any::<u8>(),
        ) {
            let mut bytes = BytesMut::new();
            Encoder::default().encode(&frame, &mut bytes).unwrap();
            let position = at.index(bytes.len());
            bytes[position] = value;
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {}
        }
    }
}
