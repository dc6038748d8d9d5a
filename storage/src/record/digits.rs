//! Numbers, dates and times as digits.
//!
//! Eight digits are made at once, in the bytes of one register, by splitting it in halves: no table, no branch and no
//! loop over digits, since how many there are changes from record to record and would be guessed wrongly.
//!
//! A word of digits holds the first one in its lowest byte, as it stands in memory.

use larder_types::time::year_month_day;

use super::json_out::Room;

const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
const TEN_TO_8: u64 = 100_000_000;
/// Seconds of a day.
const DAY: u32 = 86_400;
const TEN_TO: [u32; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Splits each of four numbers below 100, 16 bits apart, into its two digits, 8 bits apart.
fn split_in_two(numbers: u64) -> u64 {
    let tens = ((numbers * 103) >> 10) & 0x000f_000f_000f_000f;
    tens + ((numbers - tens * 10) << 8)
}

/// The eight digits of a number below 10^8, with zeros before it.
fn eight(number: u32) -> u64 {
    let number = u64::from(number);
    let (high, low) = (number / 10_000, number % 10_000);
    let pair = high | low << 32;
    let hundreds = ((pair * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let quarters = hundreds + ((pair - hundreds * 100) << 16);
    split_in_two(quarters) + ZEROS
}

/// How many digits a number below 10^8 has.
fn count(number: u32) -> usize {
    // Zero has one digit, as one has.
    let number = number | 1;
    // 1233 / 4096 is the logarithm of 2 to the base 10, nearly: what this gives is right or one too few.
    let about = ((32 - number.leading_zeros() as usize) * 1233) >> 12;
    about + usize::from(number >= TEN_TO[about])
}

/// The eight digits of a date: year, month, day.
fn date_digits(days: i64) -> u64 {
    let [year, month, day] = year_month_day(days);
    let [century, year, month, day] = [year / 100, year % 100, month, day].map(u64::from);
    split_in_two(century | year << 16 | month << 32 | day << 48) + ZEROS
}

/// The number of ten thousandths that a double was written as, if it was. Most doubles of a warehouse were: scores, rates,
/// coordinates, money.
///
/// Two decimals of at most 15 digits are never the nearest to the same double. So if one with four decimals is, then it
/// is the shortest form, but for the zeros at its end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, and checked by the way back")]
#[allow(clippy::float_cmp, clippy::cast_precision_loss, reason = "a double that is the same is wanted")]
fn in_ten_thousandths(double: f64) -> Option<u64> {
    // Below this, four decimals make 14 digits.
    if !(0.0..1e10).contains(&double) {
        return None;
    }
    let number = (double * 10_000.0 + 0.5) as u64;
    (number as f64 / 10_000.0 == double).then_some(number)
}

/// Writes eight bytes into the room.
#[inline(always)]
fn write(room: &mut Room, at: usize, word: u64) {
    room[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// Writes a minus, if the number is negative. Returns where what is left goes, and what that is.
#[inline(always)]
fn sign(number: i64, room: &mut Room) -> (usize, u64) {
    room[0] = b'-';
    (usize::from(number < 0), number.unsigned_abs())
}

/// Writes a number at a place of the room. Returns where it ends.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "below 10^8")]
fn write_number(number: u64, room: &mut Room, at: usize) -> usize {
    if number >= TEN_TO_8 {
        return write_long(number, room, at);
    }
    let (count, digits) = (count(number as u32), eight(number as u32));
    write(room, at, digits >> (64 - 8 * count));
    at + count
}

#[inline(never)]
#[allow(clippy::cast_possible_truncation, reason = "below 10^8")]
fn write_long(number: u64, room: &mut Room, at: usize) -> usize {
    let at = write_number(number / TEN_TO_8, room, at);
    write(room, at, eight((number % TEN_TO_8) as u32));
    at + 8
}

/// Writes the digits of a number before its last `PLACES` ones, at least one. Returns where they end, and those last
/// ones.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "below 10^8")]
fn write_whole<const PLACES: usize>(number: u64, room: &mut Room, at: usize) -> (usize, u64) {
    if number >= TEN_TO_8 {
        let unit = u64::from(TEN_TO[PLACES]);
        return (write_number(number / unit, room, at), eight((number % unit) as u32) >> (64 - 8 * PLACES));
    }
    let (count, digits) = (count(number as u32).max(1 + PLACES), eight(number as u32));
    write(room, at, digits >> (64 - 8 * count));
    (at + count - PLACES, digits >> (64 - 8 * PLACES))
}

/// Writes a number at the room's beginning. Returns its length, as all that follow do.
#[inline(always)]
pub(super) fn unsigned(number: u64, room: &mut Room) -> usize {
    write_number(number, room, 0)
}

/// Writes a number.
#[inline(always)]
pub(super) fn signed(number: i64, room: &mut Room) -> usize {
    let (at, number) = sign(number, room);
    write_number(number, room, at)
}

/// Writes a number of hundredths.
#[inline(always)]
pub(super) fn hundredths(number: i64, room: &mut Room) -> usize {
    let (at, number) = sign(number, room);
    let (at, digits) = write_whole::<2>(number, room, at);
    write(room, at, mark(b'.', 0) | digits << 8);
    at + 3
}

/// Writes a finite double in the shortest form that reads back as the same double.
#[inline(always)]
pub(super) fn double(double: f64, room: &mut Room) -> usize {
    let Some(number) = in_ten_thousandths(double.abs()) else {
        return any_double(double, room);
    };
    room[0] = b'-';
    let (at, digits) = write_whole::<4>(number, room, usize::from(double.is_sign_negative()));
    write(room, at, mark(b'.', 0) | digits << 8);
    // The point and at least one digit, but no zeros at the end.
    let zeros = (digits - (ZEROS >> 32)).leading_zeros() as usize / 8;
    at + (9 - zeros).max(2)
}

#[inline(never)]
fn any_double(double: f64, room: &mut Room) -> usize {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(double).as_bytes();
    room[..text.len()].copy_from_slice(text);
    text.len()
}

/// Writes a date in quotes: `"2013-01-01"`.
#[inline(always)]
pub(super) fn date(days: i64, room: &mut Room) -> usize {
    let digits = date_digits(days);
    write(room, 0, date_head(digits));
    write(room, 8, mark(b'-', 0) | digits >> 48 << 8 | mark(b'"', 3));
    12
}

/// Writes a moment in quotes: `"2013-01-01T05:15:00Z"`, with milli- or microseconds only where they are not zero.
/// A moment that has no such form is shown with the nearest date that has.
#[inline(always)]
pub(super) fn moment(seconds: i64, micros: u32, room: &mut Room) -> usize {
    // Nearly all are of the years that 32 bits can count, and much shorter work.
    match u32::try_from(seconds) {
        Ok(seconds) => time_of_day((seconds / DAY).into(), seconds % DAY, micros, room),
        Err(_) => far_moment(seconds, micros, room),
    }
}

#[inline(never)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than a day")]
fn far_moment(seconds: i64, micros: u32, room: &mut Room) -> usize {
    let day = i64::from(DAY);
    time_of_day(seconds.div_euclid(day), seconds.rem_euclid(day) as u32, micros, room)
}

#[inline(always)]
fn time_of_day(days: i64, second: u32, micros: u32, room: &mut Room) -> usize {
    let date = date_digits(days);
    let [hour, minute, second] = [second / 3600, second / 60 % 60, second % 60].map(u64::from);
    let time = split_in_two(hour | minute << 16 | second << 32) + ZEROS;
    let (hour, minute, second) = (time & 0xffff, time >> 16 & 0xffff, time >> 32 & 0xffff);
    write(room, 0, date_head(date));
    write(room, 8, mark(b'-', 0) | date >> 48 << 8 | mark(b'T', 3) | hour << 32 | mark(b':', 6) | minute << 56);
    let tail = minute >> 8 | mark(b':', 1) | second << 16;
    if micros == 0 {
        write(room, 16, tail | mark(b'Z', 4) | mark(b'"', 5));
        return 22;
    }
    write(room, 16, tail | mark(b'.', 4));
    write(room, 21, eight(micros) >> 16);
    let end = if micros.is_multiple_of(1000) { 24 } else { 27 };
    write(room, end, mark(b'Z', 0) | mark(b'"', 1));
    end + 2
}

/// A quote, the year, a hyphen and the month, of the digits of a date.
fn date_head(digits: u64) -> u64 {
    let (year, month) = (digits & 0xffff_ffff, digits >> 32 & 0xffff);
    mark(b'"', 0) | year << 8 | mark(b'-', 5) | month << 48
}

/// A character at a place in a word of digits.
const fn mark(character: u8, at: u32) -> u64 {
    (character as u64) << (8 * at)
}

#[cfg(test)]
mod tests {
    use larder_types::decimal::Decimal;
    use larder_types::value::Value;
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Room) -> usize) -> String {
        let mut room = [0; _];
        let len = write(&mut room);
        String::from_utf8(room[..len].into()).unwrap()
    }

    fn plain(value: &Value) -> String {
        let mut out = String::new();
        value.write_json(&mut out);
        out
    }

    /// Powers of ten and of two and their neighbours, where numbers of digits change.
    fn edges() -> impl Iterator<Item = u64> {
        let tens = (0..20).map(|power| 10u64.pow(power));
        let twos = (0..64).map(|power| 1u64 << power);
        tens.chain(twos).flat_map(|edge| [edge - 1, edge, edge.saturating_add(1)]).chain([u64::MAX])
    }

    #[test]
    fn numbers_are_right_where_their_length_changes() {
        for number in edges() {
            assert_eq!(written(|room| unsigned(number, room)), number.to_string());
            let signed = number.cast_signed();
            for number in [signed, signed.wrapping_neg()] {
                assert_eq!(written(|room| super::signed(number, room)), number.to_string());
                let money = Decimal::new(number.into(), 2).unwrap();
                assert_eq!(written(|room| hundredths(number, room)), money.to_string());
            }
        }
    }

    #[test]
    fn all_short_numbers_are_right() {
        for number in 0..20_000 {
            assert_eq!(written(|room| unsigned(number, room)), number.to_string());
        }
    }

    #[test]
    fn short_doubles_and_their_neighbours_are_right() {
        for number in (0..30_000u32).chain((0..15).map(|power| 3 << (2 * power))) {
            let double = f64::from(number) / 10_000.0;
            for double in [double, -double, double.next_up(), double.next_down(), double * 10_000.0] {
                assert_eq!(written(|room| super::double(double, room)), plain(&Value::Float(double)));
            }
        }
    }

    #[test]
    fn moments_that_have_no_form_are_shown_with_the_nearest_date() {
        for (seconds, shown) in
            [(i64::MIN, "\"0001-01-01T08:29:52Z\""), (i64::MAX / 1_000_000, "\"9999-12-31T04:00:54Z\"")]
        {
            assert_eq!(written(|room| moment(seconds, 0, room)), shown);
        }
        let micros = i64::MIN;
        let (seconds, part) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        let part = u32::try_from(part).unwrap();
        assert_eq!(written(|room| moment(seconds, part, room)), plain(&Value::Timestamp(micros)));
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_the_standard_library_does(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            prop_assert_eq!(written(|room| unsigned(number, room)), number.to_string());
            prop_assert_eq!(written(|room| signed(number.cast_signed(), room)), number.cast_signed().to_string());
        }

        #[test]
        fn doubles_are_written_as_everywhere(
            double in prop_oneof![
                (any::<i64>(), 0u32..64, 0i32..7).prop_map(|(n, shift, scale)| (n >> shift) as f64 / 10f64.powi(scale)),
                proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
            ]
        ) {
            prop_assert_eq!(written(|room| super::double(double, room)), plain(&Value::Float(double)));
        }

        #[test]
        fn moments_are_written_as_everywhere(
            seconds in -62_135_596_800i64..253_402_300_800,
            micros in prop_oneof![Just(0), Just(250_000), 0u32..1_000_000],
        ) {
            let value = Value::Timestamp(seconds * 1_000_000 + i64::from(micros));
            prop_assert_eq!(written(|room| moment(seconds, micros, room)), plain(&value));
        }
    }
}
