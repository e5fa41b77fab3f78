//! A logical unit and its commands.
