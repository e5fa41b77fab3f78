//! Two targets whose disks live in memory, for test suites and for trying an initiator.
//!
//!     ram-disk ADDR:PORT [SIZE] [chap|mutual]
//!
//! `iqn.2026-01.org.tidegate:open` admits everybody. `iqn.2026-01.org.tidegate:chap` asks for CHAP when the last word is
//! given: user `initiator`, secret `initiator-secret`; with `mutual` the target proves itself as `target`,
//! `target-own-secret`.

use std::sync::Arc;

use base::{ByteSize, Result, SeededEntropy, Spawn};
use local::TokioSpawn;
use portal::{Options, Portal};
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::{Authentication, Credential, Limits, Secret, TargetConfig, TargetRegistry};
use scsi::medium::{Geometry, MemoryMedium};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let listen = words.next().unwrap_or_else(|| "127.0.0.1:3260".to_owned());
    let size: ByteSize = words.next().as_deref().unwrap_or("1 GiB").parse()?;
    let authentication = authentication(words.next().as_deref())?;

    let listen = listen.parse().map_err(|e| {
        base::Error::caused(base::ErrorKind::Invalid, format!("{listen:?} is no ADDR:PORT"), Box::new(e))
    })?;
    // Chance for challenges: a seed suffices for a disk that is not to keep anything.
    let registry =
        TargetRegistry::new(Arc::new(SeededEntropy::new(u64::from(std::process::id()))), Limits::default());
    let spawn = TokioSpawn::new(tokio::runtime::Handle::current());
    for (number, (name, authentication)) in
        [("open", Authentication::none()), ("chap", authentication)].into_iter().enumerate()
    {
        let name = format!("iqn.2026-01.org.tidegate:{name}");
        let device = Arc::new(TargetDevice::new(&name));
        for lun in 0..2 {
            let unit = disk(size, number as u8, lun as u8).await?;
            let served = unit.clone();
            spawn.spawn("unit", Box::pin(async move { served.background().await }));
            device.attach(lun, unit);
        }
        registry.add(TargetConfig { authentication, ..TargetConfig::open(name.parse()?, device) })?;
        println!("iscsi://{listen}/{name}/0");
    }
    let portal = Portal::start(&[listen], registry, Options::default(), &spawn)?;
    println!("serving on {:?}; stop with Ctrl-C", portal.addresses());
    std::future::pending::<()>().await;
    Ok(())
}

fn authentication(word: Option<&str>) -> Result<Authentication> {
    let initiator = || Credential::new("initiator", Secret::new(*b"initiator-secret"));
    match word {
        Some("chap") => Authentication::chap(vec![initiator()?], None),
        Some("mutual") => {
            let own = Credential::new("target", Secret::new(*b"target-own-secret"))?;
            Authentication::chap(vec![initiator()?], Some(own))
        }
        _ => Ok(Authentication::none()),
    }
}

async fn disk(size: ByteSize, target: u8, lun: u8) -> Result<Arc<LogicalUnit>> {
    let geometry = Geometry { block_size: 512, blocks: size.0 / 512, physical_exponent: 3 };
    let mut naa = *b"\x60ramdisk\0\0\0\0\0\0\0\0";
    (naa[14], naa[15]) = (target, lun);
    let identity = Identity {
        vendor: "TIDEGATE".to_owned(),
        product: "RAM DISK".to_owned(),
        revision: "0001".to_owned(),
        serial: format!("RAM{target}{lun}"),
        naa,
    };
    LogicalUnit::new(identity, Arc::new(MemoryMedium::new(geometry))).await
}
