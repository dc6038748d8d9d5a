//! Reading untrusted bytes from front to back, and the variable-length numbers in them.
//!
//! A varint is LEB128: seven bits a byte, lowest first, the top bit set on all but the last byte. A signed number is
//! folded first (0, -1, 1, -2, … become 0, 1, 2, 3, …), so that small numbers of either sign are short.
//!
//! Invariants: nothing here panics, whatever the bytes; a number has one form only, so that equal contents are equal
//! bytes.

/// Bytes that break a format, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What is left to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed("the bytes end too early"))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed("the bytes end too early"))?;
        self.rest = rest;
        Ok(byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed("the bytes end too early"))?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed("the bytes end too early"))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*head))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut number = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte == 0 {
                return Err(Malformed("a number is not in its shortest form"));
            }
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("a number exceeds 64 bits"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number exceeds 32 bits"))
    }

    /// A varint that counts bytes of what follows, and these bytes.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed("a length exceeds the address space"))?;
        self.take(count)
    }
}

/// Appends a varint.
pub(crate) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// The bytes that [`put_varint`] appends.
pub(crate) fn varint_len(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Folds a signed number.
pub(crate) fn fold(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// Undoes [`fold`].
pub(crate) fn unfold(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(Cursor::new(&[0x80, 0x00]).varint(), Err(Malformed("a number is not in its shortest form")));
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Cursor::new(&largest).varint(), Ok(u64::MAX));
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Cursor::new(&beyond).varint(), Err(Malformed("a number exceeds 64 bits")));
        assert_eq!(Cursor::new(&[0x80]).varint(), Err(Malformed("the bytes end too early")));
    }

    proptest! {
        #[test]
        fn numbers_survive(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            prop_assert_eq!(bytes.len(), varint_len(number));
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.varint(), Ok(number));
            prop_assert!(cursor.is_empty());
            prop_assert_eq!(fold(unfold(number)), number);
        }

        #[test]
        fn whatever_is_read_is_written_alike(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = Cursor::new(&bytes);
            if let Ok(number) = cursor.varint() {
                let mut again = Vec::new();
                put_varint(number, &mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - cursor.rest().len()]);
            }
        }
    }
}
