//! Decompressing a batch's body under caps that are checked while it is read.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;
use larder_types::error::ErrorCode;
use larder_types::limits::MAX_BATCH_BYTES;

use crate::body::token;
use crate::error::ApiError;

/// Up to this size a body may swell by any factor: small bodies are harmless however well they compress.
const FREE_BYTES: usize = 1 << 20;
/// Beyond it a body may be so many times as large as it was sent.
const MAX_RATIO: usize = 100;
/// Largest window of a Zstandard frame, as a power of two: 16 MiB. More is of no use to bodies of 64 MiB at most, and
/// the window is memory that the sender makes us hold.
const MAX_WINDOW_LOG: u32 = 24;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// What the headers say.
    ///
    /// # Errors
    /// `unsupported_media_type` for any other encoding, or several.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match token(headers, &CONTENT_ENCODING).as_deref() {
            None | Some("identity") => Ok(Self::Identity),
            Some("gzip") => Ok(Self::Gzip),
            Some("zstd") => Ok(Self::Zstd),
            Some(_) => {
                let message = "Content-Encoding may be zstd or gzip, once";
                Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
            }
        }
    }

    /// The body as it was before it was compressed.
    ///
    /// # Errors
    /// `payload_too_large` as soon as the result passes a cap, `invalid_encoding` when the body is not so compressed or
    /// is cut short.
    pub(crate) fn decode(self, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Identity if body.len() > MAX_BATCH_BYTES => Err(too_large()),
            Self::Identity => Ok(body),
            Self::Gzip => inflate(MultiGzDecoder::new(body.as_slice()), body.len()),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body.as_slice()).map_err(damaged)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(damaged)?;
                inflate(decoder, body.len())
            }
        }
    }
}

fn inflate(mut from: impl Read, sent: usize) -> Result<Vec<u8>, ApiError> {
    let most = MAX_BATCH_BYTES.min(FREE_BYTES.max(sent.saturating_mul(MAX_RATIO)));
    let mut out = Vec::new();
    // One byte more than allowed tells a body at the cap from one beyond it.
    from.by_ref().take(most as u64 + 1).read_to_end(&mut out).map_err(damaged)?;
    if out.len() > most {
        return Err(too_large());
    }
    Ok(out)
}

fn too_large() -> ApiError {
    let message = format!(
        "decompressed, the body may have {MAX_BATCH_BYTES} bytes, and beyond {FREE_BYTES} bytes {MAX_RATIO} times as \
         many as were sent"
    );
    ApiError::new(ErrorCode::PayloadTooLarge, message)
}

fn damaged(_: io::Error) -> ApiError {
    let message = "the body is not compressed as Content-Encoding says, is cut short, or needs too large a window";
    ApiError::new(ErrorCode::InvalidEncoding, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hyper::header::HeaderValue;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn bodies_come_back() {
        let body = noise(10_000);
        assert_eq!(Encoding::Gzip.decode(gzip(&body)).unwrap(), body);
        assert_eq!(Encoding::Zstd.decode(zstd::encode_all(body.as_slice(), 3).unwrap()).unwrap(), body);
        assert_eq!(Encoding::Identity.decode(body.clone()).unwrap(), body);
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(Encoding::Gzip.decode(two).unwrap(), b"onetwo");
    }

    #[test]
    fn a_cut_or_foreign_body_is_damaged() {
        let body = noise(3000);
        for (encoding, packed) in
            [(Encoding::Gzip, gzip(&body)), (Encoding::Zstd, zstd::encode_all(body.as_slice(), 3).unwrap())]
        {
            for cut in 1..packed.len() {
                let error = encoding.decode(packed[..cut].to_vec()).unwrap_err();
                assert_eq!(error.code, ErrorCode::InvalidEncoding, "{encoding:?} cut at {cut}");
            }
            assert!(encoding.decode(body.clone()).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused_while_it_is_read() {
        let zeros = vec![0; FREE_BYTES + 1];
        for (encoding, bomb) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd::encode_all(zeros.as_slice(), 3).unwrap())]
        {
            assert!(bomb.len() * MAX_RATIO < zeros.len() || bomb.len() < 11_000);
            assert_eq!(encoding.decode(bomb).unwrap_err().code, ErrorCode::PayloadTooLarge, "{encoding:?}");
        }
        let free = zstd::encode_all(&zeros[..FREE_BYTES], 3).unwrap();
        assert_eq!(Encoding::Zstd.decode(free).unwrap().len(), FREE_BYTES);
    }

    #[test]
    fn the_cap_on_size_is_exact() {
        let most = noise(MAX_BATCH_BYTES + 1);
        let packed = zstd::encode_all(&most[..MAX_BATCH_BYTES], 1).unwrap();
        assert_eq!(Encoding::Zstd.decode(packed).unwrap().len(), MAX_BATCH_BYTES);
        let packed = zstd::encode_all(most.as_slice(), 1).unwrap();
        assert_eq!(Encoding::Zstd.decode(packed).unwrap_err().code, ErrorCode::PayloadTooLarge);
        assert!(Encoding::Identity.decode(most).is_err());
    }

    #[test]
    fn a_frame_with_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&noise(3000)).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(Encoding::Zstd.decode(packed).unwrap_err().code, ErrorCode::InvalidEncoding);
    }

    #[test]
    fn only_single_known_encodings_are_taken() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            Encoding::of(&headers).map_err(|e| e.code)
        };
        assert_eq!(with(&[]), Ok(Encoding::Identity));
        assert_eq!(with(&["GZip"]), Ok(Encoding::Gzip));
        assert_eq!(with(&["zstd"]), Ok(Encoding::Zstd));
        for bad in [&["br"][..], &["gzip, zstd"], &["gzip", "gzip"], &[""]] {
            assert_eq!(with(bad), Err(ErrorCode::UnsupportedMediaType), "{bad:?}");
        }
    }
}
