//! The checksums of the house.
//!
//! CRC-64/NVME guards stored payloads (S3 calls it CRC64NVME and verifies it), CRC-64/XZ is what Alibaba OSS computes,
//! CRC-32C is iSCSI's digest (RFC 7143 §13.1) and the cache's per-block sum.

use crc_fast::CrcAlgorithm;

/// CRC-64/NVME of `data`.
pub fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, data)
}

/// CRC-64/NVME of the concatenation of `parts`.
pub fn crc64_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    digest(CrcAlgorithm::Crc64Nvme, parts)
}

/// CRC-64/NVME of A‖B from those of A and B and the length of B.
pub fn crc64_combine(a: u64, b: u64, b_len: u64) -> u64 {
    // Appending zeroes multiplies by a power of x, modulo the polynomial: a few multiplications, where the general
    // way by matrices takes as long as summing the bytes themselves.
    let mut shifted = a;
    let mut bytes = b_len;
    while bytes != 0 {
        shifted = multiply(shifted, SHIFTS[bytes.trailing_zeros() as usize]);
        bytes &= bytes - 1;
    }
    shifted ^ b
}

/// The polynomial of CRC-64/NVME with its bits reversed: the highest bit is the coefficient of 1, as in the sums.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// `SHIFTS[n]`: x to the power of 8 · 2ⁿ, which is what 2ⁿ zero bytes multiply by.
const SHIFTS: [u64; 64] = {
    let mut shifts = [0; 64];
    let mut power = 1 << 62; // x
    let mut n = 0;
    while n < 64 + 3 {
        if n >= 3 {
            shifts[n - 3] = power;
        }
        power = multiply(power, power);
        n += 1;
    }
    shifts
};

/// The product of two polynomials modulo [`POLYNOMIAL`].
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut rest = a;
    while rest != 0 {
        // All ones where the coefficient is 1: no branch to mispredict.
        product ^= b & 0u64.wrapping_sub(rest >> 63);
        rest <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & 0u64.wrapping_sub(b & 1));
    }
    product
}

/// CRC-64/XZ of the concatenation of `parts`, as Alibaba OSS reports in `x-oss-hash-crc64ecma`.
pub fn crc64_xz_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    digest(CrcAlgorithm::Crc64Xz, parts)
}

/// CRC-32C of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC-32C of the concatenation of `parts`.
pub fn crc32c_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    digest(CrcAlgorithm::Crc32Iscsi, parts) as u32
}

fn digest<'a>(algorithm: CrcAlgorithm, parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut d = crc_fast::Digest::new(algorithm);
    parts.into_iter().for_each(|p| d.update(p));
    d.finalize()
}
