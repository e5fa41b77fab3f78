use super::*;

fn record(memory: &Arc<DirtyMemory>, seq: u64, data: &Bytes) -> Arc<DirtyRecord> {
    let span = Span::new(seq, 1);
    let record =
        DirtyRecord::new(memory, Seq(seq), RecordKind::Data, span, Instant::now(), vec![data.clone()]);
    record.placed(Location { file: 1, offset: seq << 12, len: data.len() as u32, crc64: 0 });
    record
}

/// Bytes are what counts, not records: many small ones have the whole of the memory too.
#[test]
fn small_records_stay_as_long_as_there_is_memory() {
    let (many, data) = (100_000, Bytes::from(vec![1; 512]));
    let each = 512 + OVERHEAD;
    let memory = DirtyMemory::new(ByteSize(many * each));
    let mut records: VecDeque<_> = (0..many).map(|n| record(&memory, n, &data)).collect();
    assert!(records.iter().all(|r| r.data().is_some()));
    assert_eq!(memory.used(), many * each);
    // The oldest make room, one for one.
    records.push_back(record(&memory, many, &data));
    assert!(records[0].data().is_none() && records[1].data().is_some());
    assert_eq!(memory.used(), many * each);
    // What goes by itself leaves nothing behind.
    records.drain(..2);
    for n in many + 1..3 * many {
        records.pop_front();
        records.push_back(record(&memory, n, &data));
    }
    let left = memory.queue.lock().oldest_first.len() as u64;
    assert!(left <= 2 * many + 1, "{left}");
    drop(records);
    assert_eq!(memory.used(), 0);
}
