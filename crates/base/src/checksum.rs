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
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, a, b, b_len)
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
