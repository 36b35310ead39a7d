//! Copies of what changed of settled reservations, and what is taken over of them.

use std::collections::HashSet;

use super::row::{Ended, Told};
use super::{Instance, Interim, MAX_INTERIM, OfInstance, Page, Row, RowKey, Settlements};
use crate::clock::Micros;

/// What changed of one instance since the last copy, where copies are made.
#[derive(Debug, Default)]
pub(super) struct Changes {
    are_kept: bool,
    /// Whether the instance itself did.
    is_told: bool,
    /// Serial numbers of reports that are, or were, not final.
    interim: HashSet<u64>,
    dropped: Vec<u64>,
}

/// More instances are not known: the oldest is forgotten first. A process that starts each second for minutes has so many.
const MAX_INSTANCES: usize = 1024;

// === impl Changes ===

impl Changes {
    pub(super) fn new(are_kept: bool) -> Self {
        Changes { are_kept, ..Changes::default() }
    }

    pub(super) fn interim(&mut self, serial: u64) {
        if self.are_kept {
            self.interim.insert(serial);
        }
    }

    pub(super) fn page_dropped(&mut self, number: u64) {
        if self.are_kept {
            self.is_told = true;
            self.dropped.push(number);
        }
    }
}

// === impl Settlements ===

impl Settlements {
    /// What changed since the last copy, after shards were `copied` at these times.
    pub(in super::super) fn copy(&mut self, copied: &[Micros], remembered: Micros, now: Micros) -> Vec<Row> {
        let oldest = Micros(now.0.saturating_sub(remembered.0));
        let mut rows = Vec::new();
        for (instance, known) in &mut self.instances {
            known.forget(oldest);
            known.copy(*instance, copied, &mut rows);
        }
        rows
    }

    /// Notes again what could not be kept.
    pub(in super::super) fn put_back(&mut self, rows: &[Row]) {
        for Row { key, blob } in rows {
            let Some(known) = self.instances.get_mut(&key.instance) else { continue };
            match (key.kind, blob) {
                (RowKey::PAGE, Some(_)) => {
                    if let Some(page) = known.pages.get_mut(&key.number) {
                        page.is_changed = true;
                    }
                }
                (RowKey::PAGE, None) => known.changes.dropped.push(key.number),
                // What is final is taken for nothing else, whatever is left of it in a file.
                (RowKey::INTERIM, None) if known.changes.interim.len() > MAX_INTERIM => {}
                (RowKey::INTERIM, _) => known.changes.interim(key.number),
                _ => known.changes.is_told = true,
            }
        }
    }

    /// Takes over a row. `None` if it is none.
    pub(in super::super) fn read(&mut self, key: RowKey, row: &[u8]) -> Option<()> {
        let are_copied = self.are_copied;
        let known = self.instances.entry(key.instance).or_insert_with(|| OfInstance::new(are_copied));
        match key.kind {
            RowKey::INSTANCE => {
                let Told { first, ended } = Told::read(row)?;
                (known.first, known.ended) = (first, ended);
            }
            RowKey::PAGE => _ = known.pages.insert(key.number, Page::read(row)?),
            RowKey::INTERIM => _ = known.interim.insert(key.number, Interim::read(row)?),
            _ => return None,
        }
        Some(())
    }

    /// Begins an instance: those that ran before have ended `now`, when the shards had been `copied` at these times. Those that ended
    /// longer ago than they are `remembered` are gone.
    pub(in super::super) fn begin(
        &mut self,
        instance: Instance,
        copied: &[Micros],
        now: Micros,
        remembered: Micros,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        for known in self.instances.values_mut().filter(|known| known.ended.is_none()) {
            known.ended = Some(Ended { at: now, copied: copied.into() });
            known.changes.is_told = true;
        }
        self.forget_old(Micros(now.0.saturating_sub(remembered.0)), &mut rows);
        let mut own = OfInstance::new(self.are_copied);
        own.changes.is_told = true;
        self.instances.insert(instance, own);
        for (instance, known) in &mut self.instances {
            known.forget_final();
            known.copy(*instance, copied, &mut rows);
        }
        rows
    }

    /// Those that have ended.
    pub(in super::super) fn earlier(&self) -> Vec<Instance> {
        self.instances.iter().filter(|(_, known)| known.ended.is_some()).map(|(instance, _)| *instance).collect()
    }

    /// Forgets the instances that ended before `oldest`, and of too many the oldest.
    fn forget_old(&mut self, oldest: Micros, rows: &mut Vec<Row>) {
        let mut ends: Vec<Micros> = self.instances.values().filter_map(OfInstance::ended_at).collect();
        ends.sort_unstable();
        let excess = ends.len().checked_sub(MAX_INSTANCES).and_then(|excess| ends.get(excess));
        let oldest = excess.copied().unwrap_or_default().max(oldest);
        self.instances.retain(|instance, known| {
            let is_kept = known.ended_at().is_none_or(|ended| ended >= oldest);
            if !is_kept {
                rows.extend(known.keys(*instance).map(|key| Row { key, blob: None }));
            }
            is_kept
        });
    }
}

// === impl OfInstance ===

impl OfInstance {
    fn ended_at(&self) -> Option<Micros> {
        self.ended.as_ref().map(|ended| ended.at)
    }

    fn copy(&mut self, instance: Instance, copied: &[Micros], rows: &mut Vec<Row>) {
        let key = |kind, number| RowKey { instance, kind, number };
        if std::mem::take(&mut self.changes.is_told) {
            let told = Told { first: self.first, ended: self.ended.take() };
            rows.push(Row { key: key(RowKey::INSTANCE, 0), blob: Some(told.write()) });
            self.ended = told.ended;
        }
        for number in std::mem::take(&mut self.changes.dropped) {
            rows.push(Row { key: key(RowKey::PAGE, number), blob: None });
        }
        for (number, page) in self.pages.iter_mut().filter(|(_, page)| page.is_changed) {
            page.is_changed = false;
            rows.push(Row { key: key(RowKey::PAGE, *number), blob: Some(page.write()) });
        }
        for serial in std::mem::take(&mut self.changes.interim) {
            let interim = self.interim.get(&serial);
            rows.push(Row { key: key(RowKey::INTERIM, serial), blob: interim.map(|interim| interim.write(copied)) });
            // The next copy has the rest of it.
            if interim.is_some_and(|interim| interim.is_newer(copied)) {
                self.changes.interim.insert(serial);
            }
        }
    }

    /// Forgets what better reports have corrected, or nobody does any more.
    fn forget_final(&mut self) {
        let serials: Vec<u64> = self.interim.keys().copied().collect();
        for serial in serials {
            if self.is_final(serial) != Ok(false) {
                self.interim.remove(&serial);
                self.changes.interim(serial);
            }
        }
    }

    /// All its rows.
    fn keys(&self, instance: Instance) -> impl Iterator<Item = RowKey> {
        let key = move |kind, number| RowKey { instance, kind, number };
        let pages = self.pages.keys().map(move |number| key(RowKey::PAGE, *number));
        let interim = self.interim.keys().map(move |serial| key(RowKey::INTERIM, *serial));
        std::iter::once(key(RowKey::INSTANCE, 0)).chain(pages).chain(interim)
    }
}
