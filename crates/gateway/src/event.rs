//! What happened, newest last, for `status` and the log.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Clock, UnixMillis};
use image::{Event, Events, Severity};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Events kept in memory.
const KEPT: usize = 500;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When, Unix milliseconds.
    pub time: UnixMillis,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// The image concerned.
    pub image: String,
    /// What happened.
    pub text: String,
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

impl Events for EventLog {
    fn event(&self, event: Event) {
        let severity = match event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        match event.severity {
            Severity::Info => tracing::info!(image = %event.image, "{}", event.text),
            Severity::Warning => tracing::warn!(image = %event.image, "{}", event.text),
            Severity::Error => tracing::error!(image = %event.image, "{}", event.text),
        }
        let mut events = self.events.lock();
        if events.len() == KEPT {
            events.pop_front();
        }
        let image = event.image.to_string();
        events.push_back(EventView {
            time: self.clock.now(),
            severity: severity.into(),
            image,
            text: event.text,
        });
    }
}
