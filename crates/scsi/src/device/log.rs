//! LOG SENSE (SPC-5 §6.11).

use super::cdb::Cdb;
use super::sense::{Failure, Sense, code};
use super::unit::Answer;

/// Supported pages, temperature-free informational exceptions: nothing to report.
const PAGES: [u8; 2] = [0x00, 0x2f];

/// Answers with a log page.
pub(super) fn sense(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    if cdb.has(1, 0x01) {
        return Err(Sense::illegal(code::SAVING_NOT_SUPPORTED).into());
    }
    let (page, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let body = match (page, subpage) {
        (0x00, 0x00) => PAGES.to_vec(),
        // Supported pages and subpages (SPC-5 §7.3.17).
        (0x00, 0xff) => vec![0x00, 0x00, 0x00, 0xff, 0x2f, 0x00],
        // Informational exceptions (SPC-5 §7.3.9): parameter 0, ASC and ASCQ 0, no temperature.
        (0x2f, 0x00) => vec![0, 0, 0x03, 4, 0, 0, 0xff, 0],
        _ => return Err(Sense::cdb_bit(2, 5).into()),
    };
    let spf = u8::from(subpage != 0) << 6;
    let mut out = vec![page | spf, subpage];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    Ok(Answer::data(out, u32::from(cdb.u16(7))))
}
