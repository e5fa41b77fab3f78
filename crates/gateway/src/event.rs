//! What happened, newest last, for `status` and the log.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Clock, UnixMillis};
use image::{Event, Events, Severity};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Events kept in memory.
const KEPT: usize = 500;

/// How what an image says of damage begins. It says it at each read.
const DAMAGE: &str = "stored data is damaged";
/// In milliseconds.
const AN_HOUR: u64 = 3_600_000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When, Unix milliseconds.
    pub time: UnixMillis,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// The image concerned; empty if it is none in particular.
    pub image: String,
    /// What happened.
    pub text: String,
    /// How often: damage that is met again within an hour is counted, not told again.
    pub times: u64,
}

/// The newest events.
pub(crate) struct EventLog {
    clock: Arc<dyn Clock>,
    events: Mutex<VecDeque<EventView>>,
}

impl EventLog {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<EventLog> {
        Arc::new(EventLog { clock, events: Mutex::default() })
    }

    pub fn newest(&self, most: usize) -> Vec<EventView> {
        let events = self.events.lock();
        events.iter().skip(events.len().saturating_sub(most)).cloned().collect()
    }
}

impl EventLog {
    /// Notes what concerns no image.
    pub fn note(&self, severity: Severity, text: String) {
        self.take(severity, String::new(), text);
    }

    fn take(&self, severity: Severity, image: String, text: String) {
        let word = match severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if !self.keep(word, &image, &text) {
            return;
        }
        let about = Some(image.as_str()).filter(|image| !image.is_empty());
        match severity {
            Severity::Info => tracing::info!(image = about, "{text}"),
            Severity::Warning => tracing::warn!(image = about, "{text}"),
            Severity::Error => tracing::error!(image = about, "{text}"),
        }
    }

    /// Keeps an event; `false` if it was only counted, because it was told not long ago.
    fn keep(&self, severity: &str, image: &str, text: &str) -> bool {
        let time = self.clock.now();
        let mut events = self.events.lock();
        let recent = |known: &EventView| time.saturating_sub(known.time) < AN_HOUR;
        let same = |known: &&mut EventView| known.text == text && known.image == image && recent(known);
        if text.starts_with(DAMAGE)
            && let Some(known) = events.iter_mut().rev().find(same)
        {
            known.times += 1;
            return false;
        }
        if events.len() == KEPT {
            events.pop_front();
        }
        let (severity, image, text) = (severity.into(), image.into(), text.into());
        events.push_back(EventView { time, severity, image, text, times: 1 });
        true
    }
}

impl Events for EventLog {
    fn event(&self, event: Event) {
        self.take(event.severity, event.image.to_string(), event.text);
    }
}

#[cfg(test)]
mod tests;
