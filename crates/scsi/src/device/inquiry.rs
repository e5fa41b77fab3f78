//! INQUIRY (SPC-5 §6.7) and vital product data (SPC-5 §7.7, SBC-4 §6.6).

use super::cdb::Cdb;
use super::sense::{Failure, Sense};
use super::unit::{Answer, Identity, Limits};
use crate::medium::Geometry;

/// Whose INQUIRY data it is and through which port it is asked for.
pub(super) struct Subject<'a> {
    pub identity: &'a Identity,
    pub geometry: Geometry,
    pub limits: Limits,
    pub target_name: &'a str,
    pub target_port: u16,
    pub group_id: u16,
}

/// Answers INQUIRY for a logical unit that is there.
pub(super) fn inquiry(subject: &Subject<'_>, cdb: Cdb<'_>) -> Result<Answer, Failure> {
    let data = match (cdb.has(1, 0x01), cdb.byte(2)) {
        (false, 0) => subject.standard(),
        (false, _) => return Err(Sense::cdb_field(2).into()),
        (true, page) => subject.page(page).ok_or(Sense::cdb_field(2))?,
    };
    Ok(Answer::data(data, u32::from(cdb.u16(3))))
}

/// Answers INQUIRY for a number that no logical unit has: qualifier 011b, type 1Fh (SPC-5 §6.7.2).
pub(super) fn absent(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    empty(0x7f, cdb)
}

/// Answers INQUIRY for the well known REPORT LUNS logical unit (SPC-5 §8.2): device type 1Eh.
pub(super) fn well_known(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    empty(0x1e, cdb)
}

fn empty(device_type: u8, cdb: Cdb<'_>) -> Result<Answer, Failure> {
    if cdb.has(1, 0x01) || cdb.byte(2) != 0 {
        return Err(Sense::cdb_field(2).into());
    }
    let mut out = vec![0; 36];
    (out[0], out[2], out[3], out[4], out[7]) = (device_type, 0x06, 0x12, 31, 0x02);
    ascii(&mut out[8..16], "TIDEGATE");
    ascii(&mut out[16..36], "");
    Ok(Answer::data(out, u32::from(cdb.u16(3))))
}

/// Left-aligned ASCII, filled with spaces (SPC-5 §4.3.1); what is not printable becomes a space.
fn ascii(field: &mut [u8], text: &str) {
    field.fill(b' ');
    field.iter_mut().zip(text.bytes()).for_each(|(to, from)| {
        *to = if (0x20..0x7f).contains(&from) { from } else { b' ' };
    });
}

/// SAM-5, iSCSI, SPC-4 and SBC-3 (no version claimed): the newest that initiators know by their descriptors.
const STANDARDS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

impl Subject<'_> {
    fn standard(&self) -> Vec<u8> {
        let mut out = vec![0; 96];
        out[2] = 0x06; // SPC-4: what SPC-5 adds (version 07h) is refused by initiators of today
        out[3] = 0x12; // HISUP, response data format 2
        out[4] = 96 - 5;
        out[5] = 0x18; // TPGS 01b (implicit ALUA), 3PC (third-party copy)
        out[6] = 0x10; // MULTIP
        out[7] = 0x02; // CMDQUE
        ascii(&mut out[8..16], &self.identity.vendor);
        ascii(&mut out[16..32], &self.identity.product);
        ascii(&mut out[32..36], &self.identity.revision);
        for (field, standard) in out[58..].chunks_mut(2).zip(STANDARDS) {
            field.copy_from_slice(&standard.to_be_bytes());
        }
        out
    }

    fn page(&self, page: u8) -> Option<Vec<u8>> {
        let body = match page {
            0x00 => PAGES.to_vec(),
            0x80 => serial(self.identity),
            0x83 => self.identification(),
            0x86 => extended(),
            0xb0 => self.block_limits(),
            0xb1 => characteristics(),
            0xb2 => provisioning(),
            _ => return None,
        };
        let mut out = vec![0, page];
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(body);
        Some(out)
    }

    /// Device identification (SPC-5 §7.7.6). The logical unit's names come first: some initiators ask for 252 bytes.
    fn identification(&self) -> Vec<u8> {
        const BINARY: u8 = 1;
        const ASCII: u8 = 2;
        const UTF8: u8 = 3;
        let mut out = Vec::new();
        let mut add = |code_set: u8, association: u8, kind: u8, designator: &[u8]| {
            // Protocol identifier 5h (iSCSI) and PIV for what names a port or a device (SPC-5 §7.7.6.1).
            let (protocol, piv) = if association == 0 { (0, 0) } else { (0x50, 0x80) };
            out.extend([protocol | code_set, piv | association << 4 | kind, 0, designator.len() as u8]);
            out.extend(designator);
        };
        for (kind, designator) in designators(self.identity) {
            add(if kind == 3 { BINARY } else { ASCII }, 0, kind, &designator);
        }
        let [hi, lo] = self.target_port.to_be_bytes();
        add(BINARY, 1, 4, &[0, 0, hi, lo]);
        let [hi, lo] = self.group_id.to_be_bytes();
        add(BINARY, 1, 5, &[0, 0, hi, lo]);
        add(UTF8, 1, 8, &name_string(&format!("{},t,0x{:04x}", self.target_name, self.target_port)));
        add(UTF8, 2, 8, &name_string(self.target_name));
        out
    }

    /// SBC-4 §6.6.4.
    fn block_limits(&self) -> Vec<u8> {
        let mut out = vec![0; 60];
        let mut put = |at: usize, bytes: &[u8]| out[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
        let granularity = 1u32 << self.geometry.physical_exponent.min(15);
        put(4, &[0x01, self.limits.compare]); // WSNZ
        put(6, &(granularity as u16).to_be_bytes());
        put(8, &self.limits.transfer.to_be_bytes());
        put(12, &self.limits.optimal_transfer.to_be_bytes());
        put(20, &u32::MAX.to_be_bytes());
        put(24, &self.limits.unmap_descriptors.to_be_bytes());
        put(28, &granularity.to_be_bytes());
        put(32, &0x8000_0000u32.to_be_bytes()); // UGAVALID, alignment 0
        put(36, &self.limits.write_same.to_be_bytes());
        put(44, &self.limits.atomic.to_be_bytes());
        out
    }
}

fn serial(identity: &Identity) -> Vec<u8> {
    let mut out = vec![0; identity.serial.len().min(244)];
    ascii(&mut out, &identity.serial);
    out
}

/// The designators of the logical unit itself, with their types: NAA (3h), T10 vendor identification (1h).
pub(super) fn designators(identity: &Identity) -> [(u8, Vec<u8>); 2] {
    let mut vendor = vec![0; 8];
    ascii(&mut vendor, &identity.vendor);
    vendor.extend(serial(identity));
    [(3, identity.naa().to_vec()), (1, vendor)]
}

const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// NUL-terminated and padded to a multiple of four (SPC-5 §7.7.6.11).
fn name_string(name: &str) -> Vec<u8> {
    let mut out = name.as_bytes()[..name.len().min(247)].to_vec();
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Extended INQUIRY data (SPC-5 §7.7.7): SIMPSUP, ORDSUP, HEADSUP; V_SUP; LUICLR.
fn extended() -> Vec<u8> {
    let mut out = vec![0; 60];
    (out[5 - 4], out[6 - 4], out[7 - 4]) = (0x07, 0x01, 0x01);
    out
}

/// Block device characteristics (SBC-4 §6.6.2): no rotation, and what SANITIZE leaves behind reads as zeroes (WABEREQ
/// and WACEREQ 01b).
fn characteristics() -> Vec<u8> {
    let mut out = vec![0; 60];
    (out[5 - 4], out[7 - 4]) = (0x01, 0x50);
    out
}

/// Logical block provisioning (SBC-4 §6.6.7): LBPU, LBPWS, LBPWS10, LBPRZ 001b, ANC_SUP; thin provisioned.
fn provisioning() -> Vec<u8> {
    vec![0, 0x80 | 0x40 | 0x20 | 0x04 | 0x02, 0x02, 0]
}
