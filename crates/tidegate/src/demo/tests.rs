#![allow(clippy::unwrap_used)]

use std::process::Command;

use super::*;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("tidegate-demo-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// A demo that keeps everything in `name`.
    fn demo(&self, name: &str) -> Demo {
        Demo {
            data: self.0.join(name),
            bucket: None,
            iscsi: SocketAddr::from(([127, 0, 0, 1], 0)),
            size: Some(ByteSize::mib(64)),
            accept_loss: None,
        }
    }

    fn url(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn copy(&self, from: &str, to: &str) {
        let copied =
            Command::new("cp").arg("-a").arg(self.0.join(from)).arg(self.0.join(to)).output().unwrap();
        // What is just being uploaded may go away under it.
        let told = String::from_utf8_lossy(&copied.stderr).into_owned();
        assert!(told.lines().all(|line| line.contains("No such file")), "{told}");
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.0.join(from), self.0.join(to)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_dir_all(self.0.join(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn prepared(demo: &Demo) -> Arc<Gateway> {
    let mut config = config(&demo.data, demo.iscsi);
    config.memory = ByteSize::mib(16);
    for disk in &mut config.disks {
        (disk.journal, disk.cache, disk.local_segments) = (LEAST, LEAST, LEAST);
    }
    // In one process the tasks of a gateway that was stopped may hold its directory for a moment longer.
    for _ in 0..100 {
        match Gateway::prepare(config.clone(), seams()).await {
            Err(e) if e.kind() == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(100)).await,
            prepared => return prepared.unwrap(),
        }
    }
    panic!("{} did not come free", demo.data.display());
}

/// A demo with the bucket in its own directory, and its disk.
async fn start(demo: &Demo) -> Result<(Arc<Gateway>, VolumeView)> {
    start_in(demo, &demo.data.join("bucket").display().to_string()).await
}

/// A demo with this bucket, and its disk.
async fn start_in(demo: &Demo, bucket: &str) -> Result<(Arc<Gateway>, VolumeView)> {
    let gateway = prepared(demo).await;
    let served = async {
        open(&gateway, bucket).await?;
        disk_of(&gateway, demo).await
    };
    match served.await {
        Ok(volume) => Ok((gateway, volume)),
        Err(e) => {
            gateway.stop(|_| ()).await.unwrap();
            Err(e)
        }
    }
}

async fn stop(gateway: Arc<Gateway>) {
    gateway.stop(|_| ()).await.unwrap();
}

/// How often the only disk of a bucket was opened.
fn epochs(bucket: &Path) -> usize {
    let images: Vec<_> = std::fs::read_dir(bucket.join("images")).unwrap().collect();
    let [Ok(image)] = &images[..] else { panic!("{images:?}") };
    std::fs::read_dir(image.path().join("epoch")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_demo_takes_nothing_from_the_one_it_was_copied_from() {
    let scratch = Scratch::new("copied");
    let (original, _) = start(&scratch.demo("demo")).await.unwrap();
    scratch.copy("demo", "copy");
    let refused = start(&scratch.demo("copy")).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains(&format!("data is in {}", scratch.url("demo/bucket"))), "{refused}");
    assert_eq!(epochs(&scratch.0.join("demo/bucket")), 1, "the copy has opened the disk");
    assert_eq!(original.show_volume(VOLUME).unwrap().state, "open");
    stop(original).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_demo_opens_where_it_is_at_once() {
    let scratch = Scratch::new("moved");
    let (gateway, disk) = start(&scratch.demo("demo")).await.unwrap();
    stop(gateway).await;
    scratch.rename("demo", "kept");
    let (gateway, moved) = start(&scratch.demo("kept")).await.unwrap();
    assert_eq!(moved.image, disk.image);
    let said: Vec<String> = gateway.view().events.into_iter().map(|event| event.text).collect();
    assert!(!said.iter().any(|text| text.contains("not open")), "{said:?}");
    stop(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_demo_is_found_though_another_lies_in_its_old_place() {
    let scratch = Scratch::new("old-place");
    let (gateway, disk) = start(&scratch.demo("demo")).await.unwrap();
    stop(gateway).await;
    scratch.rename("demo", "kept");
    let (newer, other) = start(&scratch.demo("demo")).await.unwrap();
    let (gateway, moved) = start(&scratch.demo("kept")).await.unwrap();
    assert_eq!(moved.image, disk.image);
    assert_ne!(moved.image, other.image);
    assert_eq!(newer.show_volume(VOLUME).unwrap().state, "open");
    stop(gateway).await;
    stop(newer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_with_a_second_bucket_accepts_the_loss_of_its_cache_disk() {
    let scratch = Scratch::new("loss");
    let (gateway, _) = start(&scratch.demo("demo")).await.unwrap();
    gateway.add_bucket("aaa", &scratch.url("aaa")).await.unwrap();
    // As it is when it was killed.
    scratch.copy("demo", "lost");
    stop(gateway).await;
    scratch.remove("demo");
    scratch.remove("lost/cache");
    let mut demo = scratch.demo("lost");
    let refused = start(&demo).await.map(drop).unwrap_err().to_string();
    let advice = format!("tidegate demo --data {} --accept-loss 1", scratch.url("lost"));
    assert!(refused.ends_with(&advice), "{refused}");
    demo.accept_loss = Some(1);
    let (gateway, disk) = start(&demo).await.unwrap();
    assert_eq!(disk.state, "open");
    stop(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_waits_for_its_bucket_though_its_url_is_written_otherwise() {
    let scratch = Scratch::new("otherwise");
    let demo = scratch.demo("demo");
    let gateway = prepared(&demo).await;
    let (known, otherwise) = (scratch.url("store"), format!("dir://{}", scratch.url("store")));
    settle(&gateway, &known).await.unwrap();
    scratch.remove("store");
    settle(&gateway, &otherwise).await.unwrap();
    assert!(gateway.has_bucket_at(BUCKET, &known));
    let refused = settle(&gateway, &scratch.url("elsewhere")).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("data is in {known};")), "{refused}");
    stop(gateway).await;
}

/// A directory plays a store: what follows the '?' is part of its name, and it is another place with another endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_demo_does_not_go_to_the_first_ones_store_when_its_own_is_away() {
    let scratch = Scratch::new("endpoint");
    let demo = scratch.demo("demo");
    let gateway = prepared(&demo).await;
    settle(&gateway, &scratch.url("store?endpoint=a")).await.unwrap();
    let refused = settle(&gateway, &scratch.url("store?endpoint=b")).await.unwrap_err().to_string();
    assert!(refused.contains("if this is a copy of a demo"), "{refused}");
    stop(gateway).await;
}

/// What the advice gives is all that the next start needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_advice_to_a_demo_says_where_its_bucket_is() {
    let scratch = Scratch::new("advice");
    let store = scratch.url("a store?x=1&y=2");
    let (gateway, _) = start_in(&scratch.demo("demo"), &store).await.unwrap();
    scratch.copy("demo", "lost");
    scratch.remove("lost/cache");
    let refused = start_in(&scratch.demo("lost"), &store).await.map(drop).unwrap_err().to_string();
    let advice = format!("tidegate demo --data {} --bucket '{store}' --accept-loss 1", scratch.url("lost"));
    assert!(refused.ends_with(&advice), "{refused}");
    stop(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_starts_in_a_bucket_that_has_images_of_another_kind() {
    let scratch = Scratch::new("cat");
    std::fs::create_dir_all(scratch.0.join("demo/bucket/images/holiday")).unwrap();
    for picture in ["cat.png", "holiday/1.jpg"] {
        std::fs::write(scratch.0.join("demo/bucket/images").join(picture), "miaow").unwrap();
    }
    let (gateway, disk) = start(&scratch.demo("demo")).await.unwrap();
    assert_eq!(gateway.images_in(BUCKET).await.unwrap().len(), 1);
    assert_eq!(disk.state, "open");
    stop(gateway).await;
}

#[test]
fn the_advice_on_a_size_gives_that_size() {
    let data = Path::new("/d");
    for (now, wanted, command) in [
        ("10GiB", "20GiB", "resize disk --size 21474836480`"),
        ("1GiB", "1500MB", "resize disk --size 1500000000`"),
        ("10GiB", "1500MiB", "resize disk --size 1572864000 --yes`, which loses"),
    ] {
        let hint = size_hint(now.parse().unwrap(), wanted.parse().unwrap(), data);
        assert!(hint.contains(command), "{hint}");
    }
}
