//! Frames: what a worker writes to its standard output.
//!
//! ```text
//! frame   = kind: u8, length: u32, checksum: u64 (xxh3 of kind, length and payload), payload; little-endian
//! session = connected? data* (done | fault)
//! ```
//!
//! The payloads of the `data` frames, put together, are one Arrow IPC stream. `done` and `fault` end the session:
//! whatever ends before one of them was cut off, and that is never taken for the end of the data. The checksum is there
//! because the reader of Arrow trusts what it reads, and foreign code shares the worker's memory.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest payload. Data are cut into frames far shorter than this.
const MAX_PAYLOAD: u32 = 16 << 20;
/// Data are sent when so many bytes have come together.
const SEND_AT: usize = 256 << 10;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The database took the login. Empty.
    Connected,
    /// A piece of the Arrow IPC stream.
    Data,
    /// Everything was done: `request::Done` as JSON.
    Done,
    /// Something failed: `fault::Fault` as JSON.
    Fault,
}

const KINDS: [(u8, Kind); 4] = [(b'C', Kind::Connected), (b'D', Kind::Data), (b'.', Kind::Done), (b'!', Kind::Fault)];

/// Bytes before the payload.
pub(super) const HEAD: usize = 13;

/// Writes a frame.
pub(super) fn write(out: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let byte = KINDS.iter().find(|(_, other)| *other == kind).map_or(0, |(byte, _)| *byte);
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MAX_PAYLOAD);
    let length = length.ok_or_else(|| io::Error::other("a frame would be too long"))?;
    let mut head = [byte; HEAD];
    head[1..5].copy_from_slice(&length.to_le_bytes());
    head[5..].copy_from_slice(&checksum(byte, length, payload).to_le_bytes());
    out.write_all(&head)?;
    out.write_all(payload)
}

/// Reads the next frame into `payload`. An end between frames is an error too: a session ends with a frame.
pub(super) fn read(input: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Kind> {
    let mut head = [0; HEAD];
    input.read_exact(&mut head)?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let [byte, a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    let kind = KINDS.iter().find(|(known, _)| *known == byte).map(|(_, kind)| *kind);
    let kind = kind.filter(|_| length <= MAX_PAYLOAD).ok_or_else(|| bad("it is no frame"))?;
    payload.clear();
    // Grows as bytes arrive, whatever length was announced.
    if input.take(u64::from(length)).read_to_end(payload)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if checksum(byte, length, payload) == u64::from_le_bytes(sum) { Ok(kind) } else { Err(bad("a frame is damaged")) }
}

fn checksum(kind: u8, length: u32, payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, u64::from(length) << 8 | u64::from(kind))
}

/// Writes bytes as data frames.
pub(super) struct DataWriter<W: Write> {
    out: W,
    waiting: Vec<u8>,
}

impl<W: Write> DataWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, waiting: Vec::with_capacity(SEND_AT) }
    }
}

impl<W: Write> Write for DataWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SEND_AT - self.waiting.len();
        let taken = bytes.len().min(room);
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() == SEND_AT {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            write(&mut self.out, Kind::Data, &self.waiting)?;
            self.waiting.clear();
        }
        self.out.flush()
    }
}

/// Reads the bytes of data frames up to the frame that ends the session, which is kept.
pub(super) struct DataReader<R: Read> {
    input: R,
    payload: Vec<u8>,
    at: usize,
    /// True once a frame could not be read.
    is_broken: bool,
    /// The frame that ended the session, and its payload.
    end: Option<(Kind, Vec<u8>)>,
}

impl<R: Read> DataReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, payload: Vec::new(), at: 0, is_broken: false, end: None }
    }

    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The frame that ends the session, if it has been read.
    pub(super) fn end(&self) -> Option<&(Kind, Vec<u8>)> {
        self.end.as_ref()
    }

    /// Waits for the first frame and tells whether it says that the database took the login. Another frame is kept.
    pub(super) fn connected(&mut self) -> io::Result<bool> {
        match read(&mut self.input, &mut self.payload)? {
            Kind::Connected => return Ok(true),
            Kind::Data => return Err(io::Error::new(io::ErrorKind::InvalidData, "data came before the login")),
            end => self.end = Some((end, std::mem::take(&mut self.payload))),
        }
        Ok(false)
    }

    /// Waits until there are data, or the session has ended. After an error there is nothing more, whatever is asked.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        while self.at == self.payload.len() && self.end.is_none() {
            if self.is_broken {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at = 0;
            // Until a frame is whole, what has come of it is nothing.
            let read = read(&mut self.input, &mut self.payload).and_then(|kind| match kind {
                Kind::Connected => Err(io::Error::new(io::ErrorKind::InvalidData, "a second login was announced")),
                kind => Ok(kind),
            });
            match read {
                Ok(Kind::Data) => {}
                Ok(end) => self.end = Some((end, std::mem::take(&mut self.payload))),
                Err(error) => {
                    self.payload.clear();
                    self.is_broken = true;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Reads on to the end of the session, in which there must be no more data.
    pub(super) fn read_end(&mut self) -> io::Result<&(Kind, Vec<u8>)> {
        let mut byte = [0];
        if self.end.is_none() && self.read(&mut byte)? > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "data follow the end of the rows"));
        }
        self.end.as_ref().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl<R: Read> Read for DataReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        let count = buffer.len().min(self.payload.len() - self.at);
        buffer[..count].copy_from_slice(&self.payload[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut out = Vec::new();
        let mut writer = DataWriter::new(&mut out);
        writer.write_all(&bytes).unwrap();
        writer.flush().unwrap();
        write(&mut out, Kind::Done, b"{}").unwrap();
        let mut reader = DataReader::new(out.as_slice());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        assert_eq!(reader.read_end().unwrap(), &(Kind::Done, b"{}".to_vec()));
    }

    #[test]
    fn session_without_its_last_frame_is_cut_off() {
        let mut out = Vec::new();
        write(&mut out, Kind::Data, b"abc").unwrap();
        let mut whole = out.clone();
        write(&mut whole, Kind::Done, b"{}").unwrap();
        for length in 0..whole.len() {
            let mut reader = DataReader::new(&whole[..length]);
            assert!(reader.read_to_end(&mut Vec::new()).is_err(), "{length}");
            assert!(reader.read(&mut [0]).is_err() && reader.read_end().is_err(), "{length}");
        }
        // An empty frame of data is not the end of them.
        let mut out = Vec::new();
        [&b""[..], b"x"].iter().for_each(|data| write(&mut out, Kind::Data, data).unwrap());
        write(&mut out, Kind::Done, b"{}").unwrap();
        assert_eq!(DataReader::new(out.as_slice()).read_end().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut connected = Vec::new();
        write(&mut connected, Kind::Connected, &[]).unwrap();
        let mut damaged = Vec::new();
        write(&mut damaged, Kind::Data, b"abc").unwrap();
        for at in 0..damaged.len() {
            let mut bytes = damaged.clone();
            bytes[at] ^= 1;
            assert!(DataReader::new(bytes.as_slice()).read(&mut [0; 8]).is_err(), "{at}");
        }
        for bytes in [&b"X\0\0\0\0........"[..], b"D\xff\xff\xff\xff........", b"hello world, hello", &connected] {
            let error = DataReader::new(bytes).read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        assert!(write(&mut Vec::new(), Kind::Data, &vec![0; (16 << 20) + 1]).is_err());
    }
}
