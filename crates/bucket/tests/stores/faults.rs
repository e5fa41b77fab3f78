//! A failing store, and what retrying makes of it.

use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, SeededEntropy};
use bucket::{
    Bucket, Fault, FaultPlan, Faulty, Memory, Operation, Outage, Payload, RetryPolicy, Retrying, Script,
};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{body, holds, key, plain};

struct World {
    memory: Arc<Memory>,
    faulty: Arc<Faulty>,
    retrying: Arc<Retrying>,
}

fn world(seed: u64, policy: RetryPolicy) -> World {
    let memory = Arc::new(Memory::new());
    let faulty = Arc::new(Faulty::new(memory.clone(), seed));
    let retrying = Arc::new(Retrying::new(faulty.clone(), policy, Arc::new(SeededEntropy::new(seed))));
    World { memory, faulty, retrying }
}

fn everything(share: u32) -> FaultPlan {
    let faults = [
        Fault::Refused,
        Fault::Slow(Duration::from_secs(2)),
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::AnswerLost,
        Fault::Throttled,
        Fault::DamagedWrite,
    ];
    let latency = Some((Duration::from_millis(1), Duration::from_millis(30)));
    FaultPlan { chances: faults.map(|f| (f, share)).into(), every: None, latency }
}

#[tokio::test(start_paused = true)]
async fn the_contract_holds_over_a_failing_store() {
    for seed in 0..30 {
        let patient = RetryPolicy { give_up: Duration::from_secs(3600), ..RetryPolicy::default() };
        let w = world(seed, patient);
        w.faulty.faults().set_plan(everything(40));
        holds(w.retrying.clone(), seed, 300_000).await;
        let injected = w.faulty.faults().injected();
        assert!(injected.len() >= 7, "seed {seed}: a fault never struck: {injected:?}");
        assert!(w.memory.objects().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_is_the_same_world() {
    let run = async || {
        let w = world(7, RetryPolicy::default());
        w.faulty.faults().set_plan(everything(60));
        let start = Instant::now();
        let results = join_all((0..40).map(|n| {
            let w = &w;
            async move { w.retrying.create(&key(&format!("k{n}")), &body("x"), &plain()).await.is_ok() }
        }))
        .await;
        (results, w.memory.digest(), w.faulty.faults().injected(), w.retrying.retries(), start.elapsed())
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test(start_paused = true)]
async fn a_creator_whose_answer_got_lost_recognises_its_object() {
    for fault in [Fault::ResetAfter, Fault::AnswerLost, Fault::Late(Duration::from_secs(15))] {
        let w = world(1, RetryPolicy::default());
        w.faulty.faults().next(Operation::Create, fault);
        let meta = w.retrying.create(&key("epoch/1"), &body("mine"), &plain()).await.unwrap();
        assert_eq!(meta, w.memory.head(&key("epoch/1")).await.unwrap());
        assert_eq!(w.retrying.retries(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_creator_never_takes_anothers_object_for_its_own() {
    let w = world(1, RetryPolicy::default());
    // Same size, other bytes; the first attempt does not even arrive.
    for other in ["else", "other size", ""] {
        let name = key(&format!("epoch/of-{other}"));
        w.memory.create(&name, &body(other), &plain()).await.unwrap();
        w.faulty.faults().next(Operation::Create, Fault::ResetBefore);
        let refused = w.retrying.create(&name, &body("mine"), &plain()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exists, "{other:?}");
    }
    // Even the same bytes are another's, when no attempt of ours can have stored them.
    w.memory.create(&key("epoch/9"), &body("mine"), &plain()).await.unwrap();
    let refused = w.retrying.create(&key("epoch/9"), &body("mine"), &plain()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_of_the_read_back_is_not_believed_for_ours() {
    let w = world(1, RetryPolicy::default());
    w.faulty.faults().next(Operation::Create, Fault::ResetAfter);
    w.faulty.faults().next(Operation::Get, Fault::DamagedRead);
    let refused = w.retrying.create(&key("a"), &body("mine"), &plain()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists, "the safe side: the caller reads back and compares");
}

#[tokio::test(start_paused = true)]
async fn deadlines_and_final_errors_end_the_retrying() {
    let w = world(1, RetryPolicy::foreground());
    w.memory.create(&key("a"), &body("x"), &plain()).await.unwrap();
    w.faulty.faults().set_outage(Outage::Hanging);
    let start = Instant::now();
    let failed = w.retrying.head(&key("a")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert!(failed.to_string().contains("head a in mem: failed"), "{failed}");
    assert!(start.elapsed() <= Duration::from_secs(10), "{:?}", start.elapsed());
    w.faulty.faults().clear();
    let before = w.retrying.retries();
    assert_eq!(w.retrying.head(&key("b")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(w.retrying.retries(), before, "what is final is not tried again");
}

#[tokio::test(start_paused = true)]
async fn a_sick_store_is_not_hammered() {
    let policy = RetryPolicy { budget: 20, budget_refill: Duration::from_secs(1), ..RetryPolicy::default() };
    let w = world(1, policy);
    w.faulty.faults().set_outage(Outage::Refusing);
    let callers = join_all((0..200).map(|n| {
        let w = &w;
        async move { w.retrying.head(&key(&format!("k{n}"))).await.unwrap_err() }
    }));
    callers.await;
    let retries = w.faulty.faults().calls() - 200;
    assert!((20..=20 + 121).contains(&retries), "{retries} retries in two minutes of outage");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_every_second_call_is_used_at_full_length() {
    let w = world(1, RetryPolicy { budget: 5, ..RetryPolicy::default() });
    w.faulty.faults().set_plan(FaultPlan { every: Some((2, Fault::Throttled)), ..FaultPlan::default() });
    for n in 0..500 {
        w.retrying.create(&key(&format!("k{n}")), &body("x"), &plain()).await.unwrap();
    }
    assert_eq!(w.memory.objects().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn late_writes_arrive_when_nobody_waits() {
    let memory = Arc::new(Memory::new());
    let faulty = Faulty::new(memory.clone(), 1);
    let faults = faulty.faults();
    faults.next(Operation::Create, Fault::Late(Duration::from_secs(60)));
    let given_up =
        tokio::time::timeout(Duration::from_secs(5), faulty.create(&key("seg/1"), &body("old"), &plain()))
            .await;
    assert!(given_up.is_err());
    assert!(faulty.head(&key("seg/1")).await.is_err());
    assert_eq!(faults.late(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    faulty.head(&key("seg/1")).await.unwrap();
    faults.next(Operation::Delete, Fault::Late(Duration::from_secs(60)));
    drop(tokio::time::timeout(Duration::from_secs(5), faulty.delete(&key("seg/1"))).await);
    faulty.deliver_late().await;
    assert!(memory.objects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn scripts_strike_the_calls_they_name() {
    let memory = Arc::new(Memory::new());
    let faulty = Faulty::new(memory, 1);
    faulty.faults().script(Script {
        operation: Some(Operation::Create),
        prefix: "seg/".into(),
        skip: 2,
        times: 2,
        fault: Fault::Refused,
    });
    let mut outcomes = Vec::new();
    for n in 0..6 {
        faulty.create(&key(&format!("other/{n}")), &body("x"), &plain()).await.unwrap();
        outcomes.push(faulty.create(&key(&format!("seg/{n}")), &body("x"), &plain()).await.is_ok());
    }
    assert_eq!(outcomes, [true, true, false, false, true, true]);
    assert_eq!(faulty.faults().injected()["refused"], 2);
}

#[tokio::test(start_paused = true)]
async fn damage_is_one_bit_and_shows() {
    let memory = Arc::new(Memory::new());
    let faulty = Faulty::new(memory.clone(), 1);
    let faults = faulty.faults();
    faults.next(Operation::Create, Fault::DamagedWrite);
    let refused = faulty.create(&key("a"), &body("abcdef"), &plain()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "the store compares sums");
    faults.next(Operation::Create, Fault::Rotten);
    faulty.create(&key("a"), &body("abcdef"), &plain()).await.unwrap();
    let stored = memory.get(&key("a"), None).await.unwrap();
    let flipped: u32 = stored.iter().zip(b"abcdef").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
    faults.next(Operation::Get, Fault::DamagedRead);
    assert_ne!(faulty.get(&key("a"), None).await.unwrap(), stored);
    assert_eq!(faulty.get(&key("a"), None).await.unwrap(), stored);
}

#[tokio::test(start_paused = true)]
async fn a_body_damaged_before_it_was_sent_is_not_sent_again() {
    let w = world(3, RetryPolicy::default());
    let wrong = Payload::with_crc(vec![Bytes::from_static(b"not what was summed")], 0x0123_4567_89ab_cdef);
    let start = Instant::now();
    for only_new in [true, false] {
        let stored = match only_new {
            true => w.retrying.create(&key("damaged"), &wrong, &plain()).await,
            false => w.retrying.put(&key("damaged"), &wrong, &plain()).await,
        };
        assert_eq!(stored.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert_eq!((w.retrying.retries(), start.elapsed()), (0, Duration::ZERO));
    assert!(w.memory.objects().is_empty());
}
