//! Mode pages: MODE SENSE (SPC-5 §6.14), MODE SELECT (§6.12).

use base::{Error, Result};
use bytes::Bytes;

use super::attention::Attention;
use super::cdb::Cdb;
use super::sense::{Failure, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};
use crate::medium::Geometry;

/// The name under which saved mode pages lie beside the blocks.
const STATE: &str = "scsi.mode-pages";

/// What an initiator can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Settings {
    /// WCE: acknowledged writes may be volatile until a flush (caching page). Off unless asked for: requirement C01.
    pub write_cache: bool,
    /// D_SENSE: sense data in descriptor format (control page).
    pub descriptor_sense: bool,
    /// SWP: software write protect (control page).
    pub write_protect: bool,
}

impl Settings {
    fn encode(self) -> Bytes {
        let flags = u8::from(self.write_cache)
            | u8::from(self.descriptor_sense) << 1
            | u8::from(self.write_protect) << 2;
        Bytes::from(vec![1, flags])
    }

    /// What was saved.
    pub fn decode(bytes: &[u8]) -> Result<Settings> {
        match bytes {
            [1, flags] if flags & !0x07 == 0 => Ok(Settings {
                write_cache: flags & 1 != 0,
                descriptor_sense: flags & 2 != 0,
                write_protect: flags & 4 != 0,
            }),
            _ => Err(Error::corrupt(format!(
                "the saved mode pages ({STATE}, {} bytes) cannot be read; remove that state to return to the defaults",
                bytes.len()
            ))),
        }
    }
}

/// The settings in force and those that come back after a reset.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ModePages {
    pub current: Settings,
    pub saved: Settings,
}

/// Page control (SPC-5 table 186).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
    Saved,
}

/// The pages, as (page code, subpage code), in the order in which they are reported.
const PAGES: [u8; 4] = [0x01, 0x08, 0x0a, 0x1c];

/// A page with `settings` in it; the byte at 0 without PS.
fn page(code: u8, settings: Settings) -> Vec<u8> {
    match code {
        // Read-write error recovery (SBC-4 §6.5.8): AWRE, ARRE.
        0x01 => vec![0x01, 0x0a, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Caching (SBC-4 §6.5.5).
        0x08 => {
            let mut out = vec![0; 20];
            (out[0], out[1], out[2]) = (0x08, 0x12, u8::from(settings.write_cache) << 2);
            out
        }
        // Control (SPC-5 §7.5.8). TST 001b: each nexus has its own task set. QERR 00b: other tasks go on when one
        // fails. TAS: tasks that another nexus aborts end with TASK ABORTED, never silently. Unrestricted reordering.
        // BUSY TIMEOUT PERIOD: ten seconds.
        0x0a => {
            let flags = 0x20 | u8::from(settings.descriptor_sense) << 2;
            let protect = u8::from(settings.write_protect) << 3;
            vec![0x0a, 0x0a, flags, 0x10, protect, 0x40, 0, 0, 0, 100, 0, 0]
        }
        // Informational exceptions control (SBC-4 §6.5.6): none are reported by sense data.
        _ => vec![0x1c, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

/// The mask of what can be changed in a page, over its whole length.
fn changeable(code: u8) -> Vec<u8> {
    let all = Settings { write_cache: true, descriptor_sense: true, write_protect: true };
    let (set, clear) = (page(code, all), page(code, Settings::default()));
    let mask = set.iter().zip(&clear).enumerate();
    mask.map(|(i, (a, b))| if i < 2 { *a } else { a ^ b }).collect()
}

fn can_be_saved(code: u8) -> bool {
    changeable(code)[2..].iter().any(|b| *b != 0)
}

fn pages(code: u8, subpage: u8, values: Values, modes: ModePages) -> Option<Vec<u8>> {
    let wanted: Vec<u8> = PAGES.into_iter().filter(|page| code == 0x3f || code == *page).collect();
    if !matches!(subpage, 0x00 | 0xff) || wanted.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for code in wanted {
        let mut body = match values {
            Values::Current => page(code, modes.current),
            Values::Changeable => changeable(code),
            Values::Default => page(code, Settings::default()),
            Values::Saved => page(code, modes.saved),
        };
        body[0] |= u8::from(can_be_saved(code)) << 7;
        out.extend(body);
    }
    Some(out)
}

/// Block descriptors (SBC-4 §6.5.2): the long form counts in 8 bytes.
fn block_descriptor(geometry: Geometry, long: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if long {
        out.extend(geometry.blocks.to_be_bytes());
        out.extend([0; 4]);
    } else {
        out.extend(u32::try_from(geometry.blocks).unwrap_or(u32::MAX).to_be_bytes());
    }
    out.extend(geometry.block_size.to_be_bytes());
    out
}

impl LogicalUnit {
    /// The settings that were saved on the medium.
    pub(super) async fn load_settings(medium: &dyn crate::medium::BlockMedium) -> Result<Settings> {
        match medium.load_state(STATE).await? {
            Some(bytes) => Settings::decode(&bytes),
            None => Ok(Settings::default()),
        }
    }

    pub(super) fn mode_sense(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        let ten = cdb.opcode() == 0x5a;
        let values = match cdb.byte(2) >> 6 {
            0 => Values::Current,
            1 => Values::Changeable,
            2 => Values::Default,
            _ => Values::Saved,
        };
        let modes = self.state.lock().modes;
        let pages = pages(cdb.byte(2) & 0x3f, cdb.byte(3), values, modes).ok_or(Sense::cdb_bit(2, 5))?;
        let long = ten && cdb.has(1, 0x10);
        let descriptor =
            if cdb.has(1, 0x08) { Vec::new() } else { block_descriptor(self.medium.geometry(), long) };
        let protected = modes.current.write_protect || self.medium.read_only();
        let specific = u8::from(protected) << 7 | 0x10; // WP, DPOFUA
        let mut out = if ten {
            vec![0, 0, 0, specific, u8::from(long), 0, 0, descriptor.len() as u8]
        } else {
            vec![0, 0, specific, descriptor.len() as u8]
        };
        out.extend(descriptor);
        out.extend(pages);
        if ten {
            let length = (out.len() - 2) as u16;
            out[..2].copy_from_slice(&length.to_be_bytes());
            Ok(Answer::data(out, u32::from(cdb.u16(7))))
        } else {
            out[0] = (out.len() - 1) as u8;
            Ok(Answer::data(out, u32::from(cdb.byte(4))))
        }
    }

    pub(super) async fn mode_select(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let ten = cdb.opcode() == 0x55;
        if !cdb.has(1, 0x10) {
            return Err(Sense::cdb_bit(1, 4).into()); // PF: there are no vendor-specific pages
        }
        let save = cdb.has(1, 0x01);
        let length = if ten { usize::from(cdb.u16(7)) } else { usize::from(cdb.byte(4)) };
        let list = task.parameters(length)?;
        let _turn = self.changes.lock().await;
        let before = self.state.lock().modes;
        let current = select(&list, ten, self.medium.geometry(), before.current)?;
        let saved = if save { current } else { before.saved };
        if save {
            self.medium.store_state(STATE, Some(saved.encode())).await?;
        }
        self.apply_settings(ModePages { current, saved }).await?;
        if current != before.current {
            self.state.lock().attend_others(task.nexus, Attention::ModeChanged);
        }
        Ok(Answer::moved(length as u64))
    }

    /// Puts settings in force. What was volatile becomes durable before the write cache counts as off.
    pub(super) async fn apply_settings(&self, modes: ModePages) -> Result<()> {
        let before = std::mem::replace(&mut self.state.lock().modes, modes).current;
        if before.write_cache != modes.current.write_cache {
            self.medium.set_write_cache(modes.current.write_cache);
            if before.write_cache {
                self.medium.flush().await?;
            }
        }
        Ok(())
    }
}

/// What a MODE SELECT parameter list makes of the settings (SPC-5 §7.5). Only what is changeable may differ.
fn select(list: &[u8], ten: bool, geometry: Geometry, mut settings: Settings) -> Result<Settings, Failure> {
    if list.is_empty() {
        return Ok(settings);
    }
    let short = || Failure::from(Sense::illegal(code::PARAMETER_LIST_LENGTH));
    let fields = Cdb(list);
    let header = if ten { 8 } else { 4 };
    if list.len() < header {
        return Err(short());
    }
    let long = ten && fields.has(4, 0x01);
    let descriptors = if ten { usize::from(fields.u16(6)) } else { usize::from(fields.byte(3)) };
    let given = list.get(header..header + descriptors).ok_or_else(short)?;
    check_descriptor(given, header, geometry, long)?;
    let mut at = header + descriptors;
    while at < list.len() {
        let code = list[at] & 0x3f;
        if list[at] & 0x40 != 0 || !PAGES.contains(&code) {
            return Err(Sense::parameter_field(at).into());
        }
        let now = page(code, settings);
        let new = list.get(at..at + now.len()).ok_or_else(short)?;
        if new[1] != now[1] {
            return Err(Sense::parameter_field(at + 1).into());
        }
        let mask = changeable(code);
        if let Some(i) = (2..now.len()).find(|i| (new[*i] ^ now[*i]) & !mask[*i] != 0) {
            return Err(Sense::parameter_field(at + i).into());
        }
        match code {
            0x08 => settings.write_cache = new[2] & 0x04 != 0,
            0x0a => {
                settings.descriptor_sense = new[2] & 0x04 != 0;
                settings.write_protect = new[4] & 0x08 != 0;
            }
            _ => {}
        }
        at += now.len();
    }
    Ok(settings)
}

/// A block descriptor may only say what is so already; a count of 0 stands for "as it is" (SBC-4 §6.5.2.2).
fn check_descriptor(given: &[u8], at: usize, geometry: Geometry, long: bool) -> Result<(), Failure> {
    let now = block_descriptor(geometry, long);
    if given.is_empty() {
        return Ok(());
    }
    if given.len() != now.len() {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH).into());
    }
    let size = now.len() - 4;
    let count_ok = given[..size] == now[..size] || given[..size].iter().all(|b| *b == 0);
    if !count_ok || given[size + 1..] != now[size + 1..] {
        return Err(Sense::parameter_field(at).into());
    }
    Ok(())
}
