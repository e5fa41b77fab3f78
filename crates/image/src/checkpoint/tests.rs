//! Checkpoints against a model: whatever is written, zeroed, discarded, copied, cut, failed and opened again, every sector leads to
//! the bytes it should, and every row counts exactly the sectors that entries refer to.

use std::collections::BTreeMap;

use base::{Epoch, GatewayId, JournalId, SECTOR, SeededEntropy, Span, StartId};
use bucket::{Bucket, Fault, FaultPlan, Faults, Faulty, Memory};
use bytes::Bytes;
use chain::{
    Continuation, EpochRecord, Header, HeaderDraft, Kind, PageRef, RowId, Sealed, SegmentDraft, decode_frame,
};

use super::*;
use crate::fetch::fetch_page;
use crate::layers::Standing;
use crate::pages::{Missing, Runs};
use crate::table::{Sectors, SegmentTable};

const IMAGE: ImageId = ImageId([5; 16]);
const SECTORS: u64 = 1500;
const LIMITS: Limits = Limits { entries: 8, pages: 5 };

/// What a sector holds: `Data` bytes are all different.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cell {
    Hole,
    Zero,
    Data(u64),
}

struct World {
    chance: SeededEntropy,
    bucket: Arc<dyn Bucket>,
    faults: Arc<Faults>,
    own: Ownership,
    layers: RwLock<Layers>,
    model: Vec<Cell>,
    /// The bytes of all segments, by number.
    segments: BTreeMap<u64, Sealed>,
    head: Position,
    stamp: u64,
    root: Checkpoint,
    /// Headers behind the root.
    since: Vec<Header>,
    tried: Option<(Position, Depth)>,
}

fn sector(stamp: u64) -> Vec<u8> {
    // It does not compress, so that frames are found by their place alone.
    let mut bytes = vec![0; SECTOR as usize];
    base::Entropy::fill(&SeededEntropy::new(stamp), &mut bytes);
    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
    bytes
}

impl World {
    async fn new(seed: u64) -> World {
        let faulty = Arc::new(Faulty::new(Arc::new(Memory::new()), seed));
        let (faults, bucket): (_, Arc<dyn Bucket>) = (faulty.faults(), faulty);
        let record = EpochRecord {
            image: IMAGE,
            epoch: Epoch(1),
            gateway: GatewayId([1; 16]),
            journal: JournalId([1; 16]),
            start: StartId([1; 16]),
            created: 1,
            continuation: Continuation::First,
            after: Epoch(0),
            owner: "a".into(),
        };
        World {
            chance: SeededEntropy::new(seed),
            own: Ownership::take(bucket.clone(), &record).await.unwrap(),
            bucket,
            faults,
            layers: RwLock::new(Layers::new(Runs::new(&[]), SegmentTable::new(IMAGE, Default::default()))),
            model: vec![Cell::Hole; SECTORS as usize],
            segments: BTreeMap::new(),
            head: Position::ROOT,
            stamp: 0,
            root: Checkpoint::empty(IMAGE, SECTORS),
            since: Vec::new(),
            tried: None,
        }
    }

    fn place(&self) -> Place<'_> {
        Place { image: IMAGE, own: &self.own, layers: &self.layers, limits: LIMITS }
    }

    fn seal(&mut self, content: SegmentDraft) -> Header {
        let draft = HeaderDraft {
            image: IMAGE,
            epoch: Epoch(1),
            previous: self.head,
            kind: Kind::Data,
            created: 1,
            size: SECTORS,
            first_seq: Seq(1),
            last_seq: Seq(0),
        };
        let sealed = content.seal(draft);
        let header = sealed.header.clone();
        self.head = header.position;
        self.segments.insert(header.position.number.0, sealed);
        header
    }

    /// Random writes, zeroes and holes, as a segment.
    fn scribble(&mut self) -> Header {
        let mut content = SegmentDraft::default();
        let large = self.chance.chance(1, 8);
        let mut at = self.chance.below(SECTORS / 4);
        for _ in 0..=self.chance.below(12) {
            let most = if large { 400 } else { 12 };
            let count = (1 + self.chance.below(most)).min(SECTORS.saturating_sub(at));
            if count == 0 {
                break;
            }
            let span = Span::new(at, count);
            let kind = self.chance.below(8);
            let cells = &mut self.model[span.start as usize..span.end() as usize];
            if kind < 6 && !large {
                let mut bytes = Vec::new();
                for cell in cells {
                    self.stamp += 1;
                    *cell = Cell::Data(self.stamp);
                    bytes.extend(sector(self.stamp));
                }
                content.data(span.start, bytes.into());
            } else {
                cells.fill(if kind.is_multiple_of(2) { Cell::Zero } else { Cell::Hole });
                content.empty(span, kind.is_multiple_of(2));
            }
            at = span.end() + self.chance.below(SECTORS / 4);
        }
        self.seal(content)
    }

    /// What the clean layers say of all sectors.
    async fn map(&self) -> Vec<(Span, Target)> {
        let mut held = Held::new();
        loop {
            let mut missing = Missing::new();
            let mut found = Vec::new();
            self.layers
                .read()
                .clean(Span::new(0, SECTORS), &held, &mut missing, &mut |s, t| found.push((s, t)));
            if missing.is_empty() {
                return found;
            }
            for place in missing {
                let page = Arc::new(fetch_page(&*self.bucket, IMAGE, place).await.unwrap());
                if self.chance.chance(1, 2) {
                    self.layers.write().runs.install(place, page.clone(), LIMITS.pages);
                }
                held.insert(place, page);
            }
        }
    }

    /// Copies of what the map has in some segments, as compaction makes them.
    async fn copies(&mut self) -> Option<Header> {
        let wanted: Vec<RowId> = {
            let layers = self.layers.read();
            layers.table.rows().keys().copied().filter(|_| self.chance.chance(1, 4)).collect()
        };
        let mut content = SegmentDraft::default();
        for (span, target) in self.map().await {
            if let Target::Frame { row, .. } = target
                && wanted.contains(&row)
            {
                let bytes = self.bytes(span, target);
                let row = self.layers.read().table.rows()[&row];
                content.moved(span.start, bytes, (row.epoch, row.number));
            }
        }
        (!content.is_empty()).then(|| self.seal(content))
    }

    fn bytes(&self, span: Span, target: Target) -> Bytes {
        let Target::Frame { row, index, offset, frame, skip } = target else { unreachable!() };
        let row = self.layers.read().table.rows()[&row];
        let sealed = &self.segments[&row.number.0];
        assert_eq!(
            (sealed.header.offsets()[index as usize], sealed.header.frames[index as usize]),
            (offset, frame)
        );
        let object = sealed.payload.to_bytes();
        let stored = object.slice(offset as usize..(offset + frame.stored) as usize);
        let from = usize::from(skip) * SECTOR as usize;
        decode_frame(&frame, stored).unwrap().slice(from..from + span.bytes() as usize)
    }

    async fn standing(&self, header: &Header) -> Standing {
        let mut held = Held::new();
        loop {
            let mut missing = Missing::new();
            let found = self.layers.read().standing(IMAGE, &header.extents, &held, &mut missing);
            if missing.is_empty() {
                return Standing(found);
            }
            for place in missing {
                held.insert(place, Arc::new(fetch_page(&*self.bucket, IMAGE, place).await.unwrap()));
            }
        }
    }

    async fn apply(&mut self, header: Header) {
        let standing = self.standing(&header).await;
        self.layers.write().apply(&header, &standing);
        self.since.push(header);
    }

    /// Writes, or copies that writes overtake.
    async fn step(&mut self) {
        let copies = if self.chance.chance(1, 3) { self.copies().await } else { None };
        // Its place in the chain comes before that of what overtakes it, but then it counts in that order too: here it is sealed
        // from a map that is older than the one it meets.
        match copies {
            Some(mut copies) => {
                if self.chance.chance(1, 2) {
                    let overtaken = self.segments.remove(&copies.position.number.0).unwrap();
                    self.head = copies.previous;
                    let first = self.scribble();
                    self.apply(first).await;
                    copies = self.again(overtaken);
                }
                self.apply(copies).await;
            }
            None => {
                let header = self.scribble();
                self.apply(header).await;
            }
        }
    }

    fn again(&mut self, sealed: Sealed) -> Header {
        let draft = HeaderDraft {
            image: IMAGE,
            epoch: Epoch(1),
            previous: self.head,
            kind: Kind::Data,
            created: 1,
            size: SECTORS,
            first_seq: Seq(1),
            last_seq: Seq(0),
        };
        let again = Sealed::again(&sealed.header, &sealed.payload.to_bytes(), draft).unwrap();
        let header = again.header.clone();
        self.head = header.position;
        self.segments.insert(header.position.number.0, again);
        header
    }

    /// Cuts a checkpoint, with writes meanwhile and perhaps with failures. Whether it merged everything and nothing came since.
    async fn checkpoint(&mut self) -> bool {
        if self.since.is_empty() {
            return false;
        }
        let depths = [Depth::Flat, Depth::BySize, Depth::BySize, Depth::ByCover, Depth::Whole];
        let depth = match self.tried {
            Some((at, depth)) if at == self.head => depth,
            _ => depths[self.chance.below(5) as usize],
        };
        self.tried = Some((self.head, depth));
        let at = Checkpoint { position: self.head, ..Checkpoint::empty(IMAGE, SECTORS) };
        let plan = Plan::of(&mut self.layers.write(), at, depth, None);
        let before = self.since.len();
        for _ in 0..self.chance.below(3) {
            self.step().await;
        }
        self.check().await;
        if self.chance.chance(1, 3) {
            let chances = vec![(Fault::Refused, 200), (Fault::ResetAfter, 100)];
            self.faults.set_plan(FaultPlan { chances, ..FaultPlan::default() });
        }
        let made = plan.make(&self.place()).await;
        self.faults.set_plan(FaultPlan::default());
        self.check().await;
        let Ok(made) = made else {
            self.layers.write().thaw();
            self.check().await;
            return false;
        };
        made.install(&mut self.layers.write(), LIMITS);
        self.since.drain(..before);
        let key = name::checkpoint(IMAGE, Epoch(1), made.root.position.number);
        self.root = Checkpoint::decode(&self.bucket.get(&key, None).await.unwrap()).unwrap();
        assert_eq!(self.root.runs, self.layers.read().runs.places());
        assert!(made.whole == (self.root.runs.len() <= 1), "whole means one run at most");
        let counted = self.count(&self.root.runs, &[]).await;
        assert!(
            self.root.table.iter().map(|(id, row)| (*id, row.live)).eq(counted),
            "the root counts what its runs have"
        );
        self.check().await;
        made.whole && self.since.is_empty()
    }

    async fn reopen(&mut self) {
        let table = SegmentTable::new(IMAGE, self.root.table.clone());
        self.layers = RwLock::new(Layers::new(Runs::new(&self.root.runs), table));
        for header in std::mem::take(&mut self.since) {
            self.apply(header).await;
        }
    }

    /// What the entries of pages and maps refer to, by row.
    async fn count(&self, runs: &[Run], maps: &[&ExtentMap<Target>]) -> BTreeMap<RowId, u32> {
        let mut entries: Vec<(Span, Target)> =
            maps.iter().flat_map(|map| map.iter().map(|(span, target)| (span, *target))).collect();
        for (i, run) in runs.iter().enumerate() {
            let pages: &[PageRef] = run;
            for place in pages {
                let page = fetch_page(&*self.bucket, IMAGE, *place).await.unwrap();
                assert_eq!(
                    page.place(&page.encode(), (place.number, place.epoch, place.part), place.offset),
                    *place
                );
                assert!(page.entries.len() <= 2 * LIMITS.entries);
                let base = i + 1 == runs.len();
                assert!(
                    !base || page.entries.iter().all(|(_, target)| *target != Target::Hole),
                    "a hole in the base"
                );
                entries.extend(page.entries);
            }
        }
        let mut counts = BTreeMap::new();
        for (span, target) in entries {
            if let Target::Frame { row, .. } = target {
                *counts.entry(row).or_default() += span.count as u32;
            }
        }
        counts
    }

    /// Every row counts what refers to it, and the sums are right.
    async fn check(&self) {
        let (runs, delta, frozen, rows, all, own) = {
            let layers = self.layers.read();
            let table = &layers.table;
            let frozen = layers.frozen.clone().unwrap_or_default();
            (
                layers.runs.places(),
                layers.delta.clone(),
                frozen,
                table.rows().clone(),
                table.all(),
                table.own(),
            )
        };
        let mut counts = self.count(&runs, &[&delta, &frozen]).await;
        let mut sums = Sectors::default();
        for (id, row) in &rows {
            assert_eq!(row.live, counts.remove(id).unwrap_or(0), "row {id}");
            assert!(row.live <= row.sectors);
            sums.add(row);
        }
        assert!(counts.is_empty(), "rows were dropped that entries refer to: {counts:?}");
        assert_eq!((sums, sums), (all, own));
    }

    /// Every sector is what it should be. With `exact`, nothing is counted but what is shown.
    async fn verify(&self, exact: bool) {
        let mut shown: BTreeMap<RowId, u32> = BTreeMap::new();
        let mut at = 0;
        for (span, target) in self.map().await {
            assert_eq!(span.start, at);
            at = span.end();
            let cells = &self.model[span.start as usize..span.end() as usize];
            match target {
                Target::Hole => {
                    assert!(cells.iter().all(|c| *c == Cell::Hole), "{span:?} is a hole, not {cells:?}")
                }
                Target::Zero => {
                    assert!(cells.iter().all(|c| *c == Cell::Zero), "{span:?} is zeroes, not {cells:?}")
                }
                Target::Frame { row, .. } => {
                    *shown.entry(row).or_default() += span.count as u32;
                    let bytes = self.bytes(span, target);
                    for (cell, bytes) in cells.iter().zip(bytes.chunks(SECTOR as usize)) {
                        let stamp = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                        assert_eq!(*cell, Cell::Data(stamp), "{span:?}");
                    }
                }
            }
        }
        assert_eq!(at, SECTORS);
        let layers = self.layers.read();
        let rows = layers.table.rows();
        assert!(shown.iter().all(|(id, sectors)| rows[id].live >= *sectors));
        assert!(
            !exact || rows.iter().map(|(id, row)| (*id, row.live)).eq(shown),
            "merged into one, counts are exact"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_runs_is_an_array() {
    let (mut most, mut exact) = (0, 0);
    for seed in 0..40 {
        let mut world = World::new(seed).await;
        for _ in 0..60 {
            match world.chance.below(8) {
                0 | 1 => {
                    let whole = world.checkpoint().await;
                    exact += u32::from(whole);
                    world.verify(whole).await;
                }
                2 if world.chance.chance(1, 3) => world.reopen().await,
                _ => world.step().await,
            }
            world.check().await;
            world.verify(false).await;
            most = most.max(world.layers.read().runs.sizes().len());
        }
    }
    assert!(most >= 4 && exact > 20, "too little happened: {most} runs, {exact} exact counts");
}

/// A run of so many entries, of eight sectors each.
fn run(entries: u64) -> Size {
    Size { pages: entries.div_ceil(1000), bytes: entries * 24, entries, sectors: entries * 8 }
}

#[test]
fn each_entry_is_written_a_few_times_and_runs_stay_few() {
    let mut runs: Vec<Size> = Vec::new();
    let (mut written, mut most) = (0, 0);
    for _ in 0..3000 {
        let mut sum = run(100);
        let taken = Depth::BySize.reach(sum, &runs);
        sum = runs.drain(..taken).fold(sum, Size::and);
        written += sum.entries;
        runs.insert(0, sum);
        most = most.max(runs.len());
    }
    // log2(3000) is 11.6.
    assert!(written <= 13 * 300_000, "{} times", written / 300_000);
    assert!(most <= 13, "{most} runs");
}

#[test]
fn the_base_is_merged_when_much_of_it_may_be_hidden() {
    let base = Size { sectors: 3000, ..run(1000) };
    let over = Size { sectors: 1000, ..run(10) };
    assert_eq!(Depth::BySize.reach(over, &[base]), 0);
    assert_eq!(Depth::ByCover.reach(over, &[base]), 1);
    assert_eq!(Depth::BySize.reach(run(400), &[base]), 1);
    assert_eq!(Depth::BySize.reach(run(10), &[run(10), run(20), run(100), base]), 2);
    assert_eq!(Depth::BySize.reach(run(10), &[run(330), base]), 2, "all of it counts against the base");
    assert_eq!(Depth::Whole.reach(run(1), &[run(50), base]), 2);
    assert_eq!(Depth::Flat.reach(run(9000), &[run(50), base]), 0);
}
