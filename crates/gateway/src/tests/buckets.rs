//! Buckets that are added, and what is found out about them then.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_relative_to_the_daemon_is_refused() {
    let scratch = Scratch::new("relative");
    let one = gateway(&scratch.0, "one", "1 h").await;
    for url in ["dir://bucket", "file://./bucket", "bucket", "./bucket"] {
        let refused = one.add_bucket("main", url).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("write the whole path"), "{refused}");
    }
    assert!(one.buckets().is_empty() && !Path::new("bucket").exists());
    one.stop(|_| ()).await.unwrap();
}

/// Nobody listens there, and where the machine has no credentials of its own those are missing too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_told_at_once() {
    let scratch = Scratch::new("at-once");
    let one = gateway(&scratch.0, "one", "1 h").await;
    let begun = tokio::time::Instant::now();
    let refused = one.add_bucket("main", "s3://bucket?endpoint=http://127.0.0.1:1").await.unwrap_err();
    let took = begun.elapsed();
    assert!(refused.to_string().contains("s3://bucket cannot be reached"), "{refused}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(one.buckets().is_empty());
    one.stop(|_| ()).await.unwrap();
}
