//! Counting and limiting.

use std::sync::Arc;
use std::time::Duration;

use base::SeededEntropy;
use bucket::{
    Bucket, Fault, FaultPlan, Faulty, Limits, Memory, Metered, Operation, Payload, Throttled, probe,
};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::{body, holds, key, plain};

const LARGE: usize = 300_001;

#[tokio::test(start_paused = true)]
async fn metered_and_throttled_keep_the_contract() {
    let limits = Limits { up: Some(1 << 20), down: Some(1 << 20), in_flight: Some(3) };
    let throttled = Arc::new(Throttled::new(Arc::new(Memory::new()), limits));
    let metered = Arc::new(Metered::new(throttled.clone()));
    holds(metered.clone(), 1, LARGE).await;
    assert_eq!(throttled.in_flight(), 0);
    for (operation, stats) in metered.snapshot() {
        assert_eq!(stats.in_flight, 0);
        assert!(stats.calls > 0, "the contract never calls {}", operation.as_str());
        assert_eq!(stats.latency.counts().iter().sum::<u64>(), stats.calls);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_errors_and_times_are_counted() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::new()), 1));
    let metered = Metered::new(faulty.clone());
    let latency = Some((Duration::from_millis(3), Duration::from_millis(3)));
    faulty.faults().set_plan(FaultPlan { latency, ..FaultPlan::default() });
    metered.create(&key("a"), &body("12345"), &plain()).await.unwrap();
    assert!(metered.create(&key("a"), &body("12345"), &plain()).await.is_err());
    metered.get(&key("a"), Some(1..3)).await.unwrap();
    faulty.faults().next(Operation::Head, Fault::Refused);
    assert!(metered.head(&key("a")).await.is_err());
    let create = metered.of(Operation::Create);
    assert_eq!((create.calls, create.bytes_up, create.errors["exists"]), (2, 5, 1));
    assert_eq!(create.latency.quantile(500), Duration::from_micros(4096));
    assert_eq!(create.time, Duration::from_millis(6));
    assert_eq!((metered.of(Operation::Get).bytes_down, metered.unavailable()), (2, 1));
    faulty.faults().next(Operation::Get, Fault::AnswerLost);
    assert!(timeout(Duration::from_secs(1), metered.get(&key("a"), None)).await.is_err());
    let get = metered.of(Operation::Get);
    assert_eq!((get.abandoned, get.in_flight, get.calls), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn rates_are_kept_and_can_be_changed_under_way() {
    let limits = Limits { up: Some(1000), ..Limits::default() };
    let throttled = Throttled::new(Arc::new(Memory::new()), limits);
    let start = Instant::now();
    let put = async |n: usize| {
        let body = Payload::from(Bytes::from(vec![0; 500]));
        throttled.put(&key(&format!("k{n}")), &body, &plain()).await.unwrap();
    };
    join_all((0..21).map(&put)).await;
    // Twenty bodies of half a second each are paid for before the last one goes.
    assert!((9_990..=10_100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let start = Instant::now();
    let faster = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        throttled.set_limits(Limits::default());
    };
    futures_util::join!(join_all((0..100).map(&put)), faster);
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    throttled.set_limits(Limits { down: Some(1000), ..Limits::default() });
    let start = Instant::now();
    for _ in 0..5 {
        throttled.get(&key("k1"), None).await.unwrap();
    }
    assert!((1_990..=2_100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_under_way_than_allowed() {
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::new()), 1));
    let second = Duration::from_secs(1);
    faulty.faults().set_plan(FaultPlan { latency: Some((second, second)), ..FaultPlan::default() });
    let throttled = Throttled::new(faulty, Limits { in_flight: Some(4), ..Limits::default() });
    let start = Instant::now();
    join_all((0..20).map(|n| {
        let throttled = &throttled;
        async move { throttled.put(&key(&format!("k{n}")), &body("x"), &plain()).await.unwrap() }
    }))
    .await;
    assert!((5_000..5_100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

/// Stores whose create-only is not one: each has to be refused, by name and with the reason.
mod unfit {
    use super::*;
    use base::Result;
    use bucket::{Attributes, Key, ObjectMeta, StorageClass};
    use std::ops::Range;

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub enum Flaw {
        Overwrites,
        LosesRace,
        LateList,
        WrongRange,
        Forbidden,
    }

    #[derive(Debug)]
    pub struct Flawed(pub Memory, pub Flaw);

    #[async_trait::async_trait]
    impl Bucket for Flawed {
        fn url(&self) -> String {
            "test://flawed".into()
        }
        async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
            let range = range.map(|r| if self.1 == Flaw::WrongRange { r.start + 1..r.end + 1 } else { r });
            self.0.get(key, range).await
        }
        async fn head(&self, key: &Key) -> Result<ObjectMeta> {
            self.0.head(key).await
        }
        async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
            match self.1 {
                Flaw::Overwrites => self.0.put(key, body, attributes).await,
                // It looks first and stores then, with time in between.
                Flaw::LosesRace => match self.0.head(key).await {
                    Ok(_) => self.0.create(key, body, attributes).await,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        self.0.put(key, body, attributes).await
                    }
                },
                Flaw::Forbidden => Err(base::Error::new(base::ErrorKind::Denied, "403")),
                _ => self.0.create(key, body, attributes).await,
            }
        }
        async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
            self.0.put(key, body, attributes).await
        }
        async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
            let mut found = self.0.list(prefix, after, limit).await?;
            if self.1 == Flaw::LateList && limit == 100 {
                found.pop();
            }
            Ok(found)
        }
        async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
            self.0.copy(from, to).await
        }
        async fn delete(&self, key: &Key) -> Result<()> {
            self.0.delete(key).await
        }
        async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
            self.0.set_class(key, class).await
        }
        async fn restore(&self, key: &Key, days: u32) -> Result<()> {
            self.0.restore(key, days).await
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_probe_refuses_a_store_by_name_and_with_the_reason() {
    use unfit::{Flaw, Flawed};
    for (flaw, reason) in [
        (Flaw::Overwrites, "overwrote an object"),
        (Flaw::LosesRace, "of 16 creators"),
        (Flaw::LateList, "lists are late"),
        (Flaw::WrongRange, "other bytes than the range"),
        (Flaw::Forbidden, "credentials may not write"),
    ] {
        let store = Arc::new(Flawed(Memory::new(), flaw));
        let bucket: Arc<dyn Bucket> = store.clone();
        let refused = probe(&bucket, &SeededEntropy::new(1)).await.unwrap_err();
        let kind = if flaw == Flaw::Forbidden { base::ErrorKind::Denied } else { base::ErrorKind::Invalid };
        assert_eq!(refused.kind(), kind, "{refused}");
        let text = refused.to_string();
        assert!(text.contains(reason) && text.contains("test://flawed"), "{text}");
        // The store that hides the newest name in its lists hides it from the cleaning, too.
        assert!(flaw == Flaw::LateList || store.0.objects().is_empty(), "{flaw:?} leaves objects");
    }
    let good: Arc<dyn Bucket> = Arc::new(Memory::new());
    assert!(probe(&good, &SeededEntropy::new(1)).await.unwrap().verifies_uploads);
}
