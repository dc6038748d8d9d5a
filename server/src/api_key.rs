//! The text of API keys: `lk_<id>_<secret><check>`.
//!
//! `id` is 22 base62 characters (131 random bits, no secret), `secret` 43 (256 random bits), `check` 6: the CRC-32C of
//! all before it. The check lets secret scanners and this server tell a mistyped key from a wrong one without asking
//! anybody. Only the SHA-256 of the whole text is ever stored.

use sha2::{Digest as _, Sha256};

const PREFIX: &str = "lk_";
const ID_CHARS: usize = 22;
const SECRET_CHARS: usize = 43;
const CHECK_CHARS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Shortest key that an operator may choose, in characters: enough that it cannot be guessed if it is random.
pub const MIN_CHOSEN: usize = 32;
/// Longest key that an operator may choose, in characters.
pub const MAX_CHOSEN: usize = 256;

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// Why a text cannot be the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChosenKeyError {
    /// Too short or too long.
    #[error("it has {0} characters; {MIN_CHOSEN} to {MAX_CHOSEN} are needed")]
    Length(usize),
    /// A character that is not visible ASCII.
    #[error("it holds a character that is not visible ASCII")]
    Character,
}

/// A new key.
pub struct NewKey {
    /// Its id.
    pub id: String,
    /// The whole text, a secret.
    pub text: String,
}

impl NewKey {
    /// Makes a key from the operating system's random bytes.
    ///
    /// # Errors
    /// When there are none.
    pub fn make() -> Result<Self, NoRandomness> {
        let id = random_text(ID_CHARS)?;
        let mut text = format!("{PREFIX}{id}_{}", random_text(SECRET_CHARS)?);
        text.push_str(&check_of(&text));
        Ok(Self { id, text })
    }
}

/// What a presented key looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape<'a> {
    /// One of ours, whole: its id.
    Made(&'a str),
    /// It begins like one of ours, but its check does not fit: mistyped or cut.
    Broken,
    /// Chosen by somebody else.
    Other,
}

/// Tells which kind of key a text is, without looking anything up.
#[must_use]
pub fn shape_of(text: &str) -> Shape<'_> {
    let Some(rest) = text.strip_prefix(PREFIX) else { return Shape::Other };
    let Some((id, _)) = rest.split_once('_') else { return Shape::Broken };
    let whole = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
    if id.len() != ID_CHARS || text.len() != whole || !text.is_ascii() {
        return Shape::Broken;
    }
    let (body, check) = text.split_at(whole - CHECK_CHARS);
    if check_of(body) == check { Shape::Made(id) } else { Shape::Broken }
}

/// Checks a root key that an operator has chosen.
///
/// # Errors
/// When it is too short, too long, or holds anything but visible ASCII.
pub fn check_chosen(text: &str) -> Result<(), ChosenKeyError> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ChosenKeyError::Character);
    }
    match text.len() {
        MIN_CHOSEN..=MAX_CHOSEN => Ok(()),
        length => Err(ChosenKeyError::Length(length)),
    }
}

/// SHA-256 of a key's text, in hexadecimal: the only form in which keys are kept.
#[must_use]
pub fn sha256(text: &str) -> [u8; 64] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 64];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(Sha256::digest(text.as_bytes())) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    hex
}

/// [`sha256`] as text.
#[must_use]
pub fn sha256_text(text: &str) -> String {
    sha256(text).iter().map(|byte| char::from(*byte)).collect()
}

/// So many random base62 characters.
///
/// # Errors
/// When the operating system has no random bytes.
pub fn random_text(chars: usize) -> Result<String, NoRandomness> {
    // Bytes from 248 up are thrown away, because 248 is the last multiple of 62: every character is equally likely.
    let mut text = String::with_capacity(chars);
    let mut bytes = [0u8; 64];
    while text.len() < chars {
        getrandom::fill(&mut bytes).map_err(NoRandomness)?;
        let fair = bytes.iter().filter(|byte| **byte < 248);
        text.extend(fair.take(chars - text.len()).map(|byte| char::from(BASE62[usize::from(byte % 62)])));
    }
    Ok(text)
}

fn check_of(body: &str) -> String {
    let mut number = crc32c::crc32c(body.as_bytes());
    let mut check = [b'0'; CHECK_CHARS];
    for place in check.iter_mut().rev() {
        *place = BASE62[(number % 62) as usize];
        number /= 62;
    }
    check.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_are_whole_and_differ() {
        let (one, two) = (NewKey::make().unwrap(), NewKey::make().unwrap());
        assert_eq!(shape_of(&one.text), Shape::Made(one.id.as_str()));
        assert_eq!(one.text.len(), 3 + 22 + 1 + 43 + 6);
        assert_ne!(one.text, two.text);
        assert!(check_chosen(&one.text).is_ok());
    }

    #[test]
    fn a_changed_or_cut_key_is_broken() {
        let key = NewKey::make().unwrap().text;
        for at in 3..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(shape_of(std::str::from_utf8(&bytes).unwrap()), Shape::Broken, "at {at}");
            assert_eq!(shape_of(&key[..at]), Shape::Broken, "cut at {at}");
        }
        assert_eq!(shape_of("lk_naïve"), Shape::Broken);
        assert_eq!(shape_of("something else"), Shape::Other);
    }

    #[test]
    fn chosen_keys_have_bounds() {
        assert_eq!(check_chosen(&"k".repeat(MIN_CHOSEN - 1)), Err(ChosenKeyError::Length(31)));
        assert!(check_chosen(&"k".repeat(MIN_CHOSEN)).is_ok());
        assert!(check_chosen(&"k".repeat(MAX_CHOSEN)).is_ok());
        assert_eq!(check_chosen(&"k".repeat(MAX_CHOSEN + 1)), Err(ChosenKeyError::Length(257)));
        assert_eq!(check_chosen(&" ".repeat(40)), Err(ChosenKeyError::Character));
        assert_eq!(check_chosen(&"é".repeat(40)), Err(ChosenKeyError::Character));
    }

    #[test]
    fn hashes_are_sha256_in_hexadecimal() {
        assert_eq!(sha256_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
