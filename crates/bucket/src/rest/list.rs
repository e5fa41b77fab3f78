//! Lists in byte order, also from a store that keeps directories.
//!
//! SeaweedFS lists directory by directory: `b/x` comes before `b-y`, as if a slash were the smallest character. Two
//! names change places only where one has a slash and the other a smaller character, so byte order comes back by
//! starting a little earlier and by holding names back while something smaller may follow.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};

use base::Result;
use http::{HeaderMap, Method};

use super::answer::{self, Entry, Page};
use super::{Dialect, Rest};
use crate::ObjectMeta;

/// Whether the store was found to list by directories.
#[derive(Debug, Default)]
pub struct Order {
    by_directory: AtomicBool,
}

/// Where a page of a list begins.
enum Start<'a> {
    Beginning,
    After(&'a str),
    Token(&'a str),
}

impl<'a> Start<'a> {
    fn new(after: &'a str, token: Option<&'a str>) -> Start<'a> {
        match token {
            Some(token) => Start::Token(token),
            None if after.is_empty() => Start::Beginning,
            None => Start::After(after),
        }
    }
}

impl<D: Dialect> Rest<D> {
    /// See [`Bucket::list`](crate::Bucket::list).
    pub(super) async fn list_in_order(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        // A name that does not begin with the prefix lies before all that do, or behind them all.
        let is_inside = after.starts_with(prefix);
        if limit == 0 || (!is_inside && after > prefix) {
            return Ok(Vec::new());
        }
        let after = if is_inside { after } else { "" };
        if !self.order.by_directory.load(Ordering::Relaxed)
            && let Some(found) = self.list_by_bytes(prefix, after, limit).await?
        {
            return Ok(found);
        }
        self.list_by_directory(prefix, after, limit).await
    }

    async fn page(&self, prefix: &str, start: Start<'_>, limit: usize) -> Result<Page> {
        let limit = limit.min(1000).to_string();
        let mut query =
            vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix), ("max-keys", &limit)];
        match start {
            Start::Beginning => {}
            Start::After(name) => query.push(("start-after", name)),
            Start::Token(token) => query.push(("continuation-token", token)),
        }
        let answer = self.accept(self.send(Method::GET, None, &query, HeaderMap::new(), &[]).await?, None)?;
        if super::text(&answer.headers, &http::header::SERVER).starts_with("SeaweedFS") {
            self.order.by_directory.store(true, Ordering::Relaxed);
        }
        Page::decode(&answer.body)
    }

    /// `None` if the store turns out to list by directories.
    async fn list_by_bytes(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Option<Vec<ObjectMeta>>> {
        let mut found = Vec::new();
        let mut last = after.to_owned();
        let mut token: Option<String> = None;
        while found.len() < limit {
            let page = self.page(prefix, Start::new(&last, token.as_deref()), limit - found.len()).await?;
            if self.order.by_directory.load(Ordering::Relaxed) {
                return Ok(None);
            }
            for entry in page.entries {
                if entry.name < last {
                    return Err(answer::disorder(&self.site.url(), &last, &entry.name));
                }
                // Some stores repeat the name that was asked behind.
                if entry.name > last {
                    last.clone_from(&entry.name);
                    found.extend(self.listed(entry));
                }
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(Some(found))
    }

    async fn list_by_directory(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectMeta>> {
        let start = earlier(prefix, after);
        let mut sorter = Sorter { prefix, after, limit, held: Vec::new(), last: String::new() };
        let mut token: Option<String> = None;
        loop {
            let page = self.page(prefix, Start::new(start, token.as_deref()), 1000).await?;
            token = page.next;
            match sorter.take(page.entries, token.is_none()) {
                Ok(None) => {}
                Ok(Some(entries)) => return Ok(entries.into_iter().filter_map(|e| self.listed(e)).collect()),
                Err((first, second)) => return Err(answer::disorder(&self.site.url(), &first, &second)),
            }
        }
    }

    fn listed(&self, entry: Entry) -> Option<ObjectMeta> {
        let class = self.dialect.class(&entry.class);
        let access = self.access(class, "");
        entry.meta(class, access)
    }
}

/// Brings pages in the order of directories into byte order.
struct Sorter<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    held: Vec<Entry>,
    last: String,
}

impl Sorter<'_> {
    /// Takes a page; the list, once it is known. The error is two names that are not even in the order of directories.
    fn take(&mut self, page: Vec<Entry>, is_last: bool) -> Result<Option<Vec<Entry>>, (String, String)> {
        for entry in page {
            if !self.last.is_empty() && collated(&entry.name).lt(collated(&self.last)) {
                return Err((std::mem::take(&mut self.last), entry.name));
            }
            self.last.clone_from(&entry.name);
            if entry.name.as_str() > self.after {
                self.held.push(entry);
            }
        }
        let is_settled = |e: &Entry| is_settled(self.prefix, &e.name, &self.last);
        if !is_last {
            if self.held.iter().filter(|e| is_settled(e)).count() < self.limit {
                return Ok(None);
            }
            self.held.retain(is_settled);
        }
        self.held.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.held.dedup_by(|a, b| a.name == b.name);
        self.held.truncate(self.limit);
        Ok(Some(std::mem::take(&mut self.held)))
    }
}

/// A name's characters as a store with directories compares them.
fn collated(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|b| if b == b'/' { 0 } else { b })
}

/// A name before which, in the order of directories, nothing comes that is behind `after` in byte order; empty for the
/// beginning. The store passes over a directory of that very name, too, so the name has to be smaller than `after` and
/// than any directory with something wanted: what is wanted shares the characters of `after` up to one that is smaller
/// than a slash, and is a directory there.
fn earlier<'a>(prefix: &str, after: &'a str) -> &'a str {
    let rest = after.as_bytes().get(prefix.len()..).unwrap_or_default();
    let shared = rest.iter().position(|b| *b < b'/').map_or(after.len(), |at| prefix.len() + at);
    let mut shorter = &after[..shared];
    while let Some(last) = shorter.chars().next_back() {
        shorter = &shorter[..shorter.len() - last.len_utf8()];
        if last != '/' {
            break;
        }
    }
    if shorter.len() > prefix.len() { shorter } else { "" }
}

/// Whether nothing that is smaller than `name` in byte order can follow `last` in the order of directories: what could
/// has the same begin as `name` up to a slash, and there something smaller.
fn is_settled(prefix: &str, name: &str, last: &str) -> bool {
    let slashes = name.bytes().enumerate().skip(prefix.len()).filter(|(_, b)| *b == b'/').map(|(at, _)| at);
    slashes.into_iter().all(|at| {
        let Some(rest) = last.strip_prefix(&name[..at]) else { return true };
        rest.bytes().next().is_some_and(|b| b > b'/')
    })
}
