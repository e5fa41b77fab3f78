use super::*;
use crate::SimDisk;

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(f)
}

fn image(n: u8) -> ImageId {
    ImageId([n; 16])
}

fn parts(byte: u8) -> Vec<Bytes> {
    vec![Bytes::from(vec![byte; 3000]), Bytes::from(vec![byte; 2000])]
}

#[test]
fn files_are_put_read_listed_and_removed() {
    block_on(async {
        let disk = SimDisk::new(1);
        let spool = Spool::open(disk.mount()).await.unwrap();
        spool.put(image(1), "2-7.seg", &parts(1)).await.unwrap();
        spool.put(image(1), "2-10.seg", &parts(2)).await.unwrap();
        spool.put(image(2), "1-1.seg", &parts(3)).await.unwrap();
        assert_eq!(spool.put(image(1), "2-7.seg", &parts(4)).await.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(spool.get(image(1), "2-7.seg", 2990..3010).await.unwrap(), vec![1; 20]);
        assert_eq!(spool.get(image(1), "2-7.seg", 5000..5001).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(spool.get(image(3), "2-7.seg", 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
        let names: Vec<String> = spool.list(image(1)).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["2-10.seg", "2-7.seg"]);
        assert_eq!(
            (spool.bytes(), spool.bytes_of(image(1)), spool.owners()),
            (15_000, 10_000, vec![image(1), image(2)])
        );
        spool.remove(image(2), "1-1.seg").await.unwrap();
        spool.remove(image(2), "1-1.seg").await.unwrap();
        assert_eq!(spool.owners(), [image(1)]);
        for bad in ["", ".", "..", "a/b", "a\0", ".x", "x.tmp", "ä", &"x".repeat(129)] {
            assert_eq!(
                spool.put(image(1), bad, &[]).await.unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad:?}"
            );
        }
        disk.crash();
        let again = Spool::open(disk.mount()).await.unwrap();
        assert_eq!((again.bytes(), again.owners()), (10_000, vec![image(1)]));
        assert_eq!(again.get(image(1), "2-10.seg", 0..5000).await.unwrap(), vec![2; 5000]);
    });
}

/// C04: a file is there whole or not at all, whenever the power goes off, and what was promised stays.
#[test]
fn files_survive_power_cuts_whole_or_not_at_all() {
    let run = async |spool: &Spool, put: &mut Vec<u8>| -> Result<()> {
        for n in 1..=4u8 {
            spool.put(image(1), &format!("{n}.seg"), &parts(n)).await?;
            put.push(n);
            if n == 3 {
                put.retain(|p| *p != 1);
                spool.remove(image(1), "1.seg").await?;
            }
        }
        Ok(())
    };
    for point in 1..=24 {
        for seed in 0..8 {
            block_on(async {
                let disk = SimDisk::new(seed);
                disk.crash_at(point);
                let mut put = Vec::new();
                if let Ok(spool) = Spool::open(disk.mount()).await {
                    let _ = run(&spool, &mut put).await;
                }
                disk.restart();
                let spool = Spool::open(disk.mount()).await.unwrap();
                let listed = spool.list(image(1));
                for f in &listed {
                    let n = f.name.trim_end_matches(".seg").parse::<u8>().unwrap();
                    let bytes = spool.get(image(1), &f.name, 0..f.len).await.unwrap();
                    assert_eq!(bytes, vec![n; 5000], "point {point}, seed {seed}");
                }
                for n in put {
                    assert!(listed.iter().any(|f| f.name == format!("{n}.seg")), "{n} was promised");
                }
                assert!(disk.names().iter().all(|n| !n.ends_with(".tmp")));
            });
        }
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    block_on(async {
        let disk = SimDisk::new(1);
        let spool = Spool::open(disk.mount()).await.unwrap();
        disk.set_capacity(6000);
        spool.put(image(1), "a", &parts(1)).await.unwrap();
        assert_eq!(spool.put(image(1), "b", &parts(1)).await.unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!((disk.names().len(), spool.bytes()), (1, 5000));
        disk.set_capacity(1 << 20);
        disk.fail_syncs(1);
        assert_eq!(spool.put(image(1), "b", &parts(1)).await.unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(disk.names().len(), 1);
        spool.put(image(1), "b", &parts(1)).await.unwrap();
    });
}
