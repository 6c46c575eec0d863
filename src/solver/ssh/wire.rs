//! SSH's encoding of values: numbers in network order, strings with their length before them.

/// Reads values off the front of bytes. Whatever is not there is none.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        self.bytes(length)
    }

    /// A number of any length that is not negative, without leading zeros.
    pub(super) fn unsigned(&mut self) -> Option<&'a [u8]> {
        let bytes = self.string()?;
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return None;
        }
        Some(without_zeros(bytes))
    }
}

/// Adds values to the end of bytes.
pub(super) trait Write {
    fn put_string(&mut self, bytes: &[u8]);
    /// A number of any length, from its bytes in network order.
    fn put_unsigned(&mut self, bytes: &[u8]);
}

impl Write for Vec<u8> {
    fn put_string(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("what is sent is shorter than a message may be");
        self.extend_from_slice(&length.to_be_bytes());
        self.extend_from_slice(bytes);
    }

    fn put_unsigned(&mut self, bytes: &[u8]) {
        let bytes = without_zeros(bytes);
        let sign = bytes.first().is_some_and(|first| first & 0x80 != 0);
        self.put_string(&[&[0][..usize::from(sign)], bytes].concat());
    }
}

pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// `number` modulo `modulus`, both in network order, by long division. The modulus is not zero.
pub(super) fn modulo(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    let modulus = without_zeros(modulus);
    // One byte more than the modulus: a rest is doubled before it is made smaller again.
    let mut rest = vec![0_u8; modulus.len() + 1];
    let padded = [&[0], modulus].concat();
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                let doubled = u16::from(*digit) << 1 | u16::from(carry);
                *digit = doubled as u8;
                carry = (doubled >> 8) as u8;
            }
            if rest >= padded {
                subtract(&mut rest, &padded);
            }
        }
    }
    without_zeros(&rest).to_vec()
}

/// `number` less one, in network order. It is odd, as primes are.
pub(super) fn less_one(odd: &[u8]) -> Vec<u8> {
    let mut less = odd.to_vec();
    if let Some(last) = less.last_mut() {
        *last &= 0xfe;
    }
    less
}

fn subtract(from: &mut [u8], what: &[u8]) {
    let mut borrow = 0;
    for (digit, take) in from.iter_mut().zip(what).rev() {
        let (less, first) = digit.overflowing_sub(*take);
        let (less, second) = less.overflowing_sub(borrow);
        *digit = less;
        borrow = u8::from(first || second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_division() {
        for (number, modulus) in [
            (0_u128, 1_u128),
            (1, 1),
            (255, 256),
            (256, 255),
            (0xffff_ffff_ffff_ffff, 0x1_0001),
            (u128::MAX, u128::MAX),
            (u128::MAX, u128::MAX - 1),
            (0x1234_5678_9abc_def0_0fed_cba9, 0xfedc_ba98_7654_3211),
        ] {
            let got = modulo(&number.to_be_bytes(), &modulus.to_be_bytes());
            assert_eq!(got, without_zeros(&(number % modulus).to_be_bytes()), "{number} {modulus}");
        }
        assert_eq!(less_one(&[1, 1]), [1, 0]);
    }

    #[test]
    fn values_there_and_back() {
        let mut bytes = Vec::new();
        bytes.put_string(b"abc");
        bytes.put_unsigned(&[0, 0, 0x80, 1]);
        bytes.put_unsigned(&[]);
        let mut reader = Reader(&bytes);
        assert_eq!(reader.string(), Some(&b"abc"[..]));
        assert_eq!(reader.unsigned(), Some(&[0x80, 1][..]));
        assert_eq!(reader.unsigned(), Some(&[][..]));
        assert_eq!(reader.number(), None);
        // A length beyond the end, and a negative number.
        assert_eq!(Reader(&[0, 0, 0, 9, 1]).string(), None);
        assert_eq!(Reader(&[0, 0, 0, 1, 0x80]).unsigned(), None);
    }
}
