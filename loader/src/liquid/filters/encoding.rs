//! Filters that encode and hash text. Hashes are written as hexadecimal digits.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, URL_SAFE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::super::error::Failure;
use super::super::value::Value;
use super::{Call, Definition, Outcome, filter};

pub(super) const FILTERS: &[Definition] = &[
    filter("base64", 0, 0, |input, _| Ok(encoded(&input, &STANDARD))),
    filter("base64_encode", 0, 0, |input, _| Ok(encoded(&input, &STANDARD))),
    filter("base64_url_safe_encode", 0, 0, |input, _| Ok(encoded(&input, &URL_SAFE))),
    filter("base64_decode", 0, 0, |input, call| decoded(&input, &STANDARD, call)),
    filter("base64_url_safe_decode", 0, 0, |input, call| decoded(&input, &URL_SAFE, call)),
    filter("md5", 0, 0, |input, _| Ok(hashed::<Md5>(&input))),
    filter("sha1", 0, 0, |input, _| Ok(hashed::<Sha1>(&input))),
    filter("sha256", 0, 0, |input, _| Ok(hashed::<Sha256>(&input))),
    filter("hmac_sha256", 1, 1, hmac_sha256),
];

fn encoded<'r>(input: &Value<'r>, engine: &GeneralPurpose) -> Value<'r> {
    Value::text_of(engine.encode(input.to_text().as_bytes()))
}

fn decoded<'r>(input: &Value<'r>, engine: &GeneralPurpose, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let bytes = engine.decode(input.to_text().as_bytes());
    let bytes = bytes.map_err(|_| Failure::refused(format!("`{}`: the text is not base64", call.name)))?;
    let text = String::from_utf8(bytes);
    text.map(Value::text_of).map_err(|_| Failure::refused(format!("`{}`: what it holds is no text", call.name)))
}

fn hashed<'r, D: Digest>(input: &Value<'r>) -> Value<'r> {
    hexadecimal(&D::digest(input.to_text().as_bytes()))
}

fn hmac_sha256<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let key = call.text(0);
    if key.is_empty() {
        return Err(Failure::refused("`hmac_sha256` needs a key, and it is empty"));
    }
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes());
    let mut mac = mac.map_err(|_| Failure::refused("`hmac_sha256`: the key has a wrong length"))?;
    mac.update(input.to_text().as_bytes());
    Ok(hexadecimal(&mac.finalize().into_bytes()))
}

fn hexadecimal<'r>(bytes: &[u8]) -> Value<'r> {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    Value::text_of(out)
}
