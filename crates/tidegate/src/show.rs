//! What the command line prints.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use base::{ByteSize, Clock, Error, ErrorKind, Result, UnixMillis};
use gateway::{BucketView, ForkView, GatewayView, ProbeView, VolumeView};
use local::SystemClock;

fn print(text: &str) -> Result<()> {
    // A reader that went away (`| head`) is no fault.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::caused(ErrorKind::Internal, "cannot print", e))
        }
        _ => Ok(()),
    }
}

/// Any view as JSON.
pub fn json(view: &GatewayView) -> Result<()> {
    let text = serde_json::to_string_pretty(view)
        .map_err(|e| Error::caused(ErrorKind::Internal, "the status cannot be shown as JSON", e))?;
    print(&format!("{text}\n"))
}

fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|c| c.to_string()).collect()
}

fn volume_rows(volumes: &[VolumeView]) -> Vec<Vec<String>> {
    let mut rows = vec![cells(["VOLUME", "SIZE", "STATE", "NOT UPLOADED", "STORED", "BUCKET", "TARGET"])];
    for v in volumes {
        rows.push(vec![
            v.name.clone(),
            ByteSize(v.size).to_string(),
            v.state.clone(),
            ByteSize(v.dirty).to_string(),
            ByteSize(v.stored).to_string(),
            v.bucket.clone(),
            v.target.clone(),
        ]);
    }
    rows
}

/// All volumes.
pub fn volumes(volumes: &[VolumeView]) -> Result<()> {
    let remarks: String = volumes.iter().map(remarks).collect();
    print(&format!("{}{remarks}", table(volume_rows(volumes))))
}

fn remarks(v: &VolumeView) -> String {
    let mut text = String::new();
    if let Some(why) = &v.reason {
        text.push_str(&format!("{}: {}: {why}\n", v.name, v.state));
    }
    if let Some(trouble) = &v.trouble {
        text.push_str(&format!("{}: uploads wait: {trouble}\n", v.name));
    }
    text
}

/// Where clients find what listens on an address. Of one that means all addresses of this machine it is that of the default route,
/// or, without one, the loopback.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Addresses of documentation (RFC 5737, RFC 3849): nothing is sent, the kernel only chooses a route.
    let (far, loopback): (IpAddr, IpAddr) = match listen {
        SocketAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(_) => {
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), Ipv6Addr::LOCALHOST.into())
        }
    };
    let route = UdpSocket::bind((listen.ip(), 0)).and_then(|socket| {
        socket.connect((far, 9))?;
        socket.local_addr()
    });
    let own = route.map(|own| own.ip()).ok().filter(|own| !own.is_unspecified());
    SocketAddr::new(own.unwrap_or(loopback), listen.port())
}

/// One volume.
pub fn volume(v: &VolumeView, portals: &[String]) -> Result<()> {
    let rows = vec![
        vec!["volume".into(), v.name.clone()],
        vec!["state".into(), v.state.clone()],
        vec!["size".into(), format!("{} ({}-byte blocks)", ByteSize(v.size), v.block_size)],
        vec!["bucket".into(), v.bucket.clone()],
        vec!["cache disk".into(), v.disk.clone()],
        vec!["image".into(), v.image.clone()],
        vec!["epoch".into(), v.epoch.to_string()],
        vec!["not uploaded".into(), ByteSize(v.dirty).to_string()],
        vec!["in local segments".into(), ByteSize(v.local_segments).to_string()],
        vec!["stored".into(), format!("{}, of which {} in use", ByteSize(v.stored), ByteSize(v.live))],
        vec!["target".into(), v.target.clone()],
        vec!["CHAP".into(), chap(v)],
        vec!["initiators".into(), those(&v.initiators)],
        vec!["networks".into(), those(&v.networks)],
    ];
    let mut text = table(rows);
    text.push_str(&remarks(v));
    for portal in portals {
        let portal = portal.parse().map_or_else(|_| portal.clone(), |listen| reachable(listen).to_string());
        text.push_str(&format!("iscsi://{portal}/{}/{}\n", v.target, v.lun));
    }
    print(&text)
}

fn chap(v: &VolumeView) -> String {
    match (!v.chap_users.is_empty(), v.mutual_chap) {
        (false, _) => "off".into(),
        (true, false) => format!("required, of {}", v.chap_users.join(", ")),
        (true, true) => format!("required, of {}; the target proves itself too", v.chap_users.join(", ")),
    }
}

fn those(allowed: &[String]) -> String {
    if allowed.is_empty() { "any".into() } else { allowed.join(", ") }
}

/// How long ago something was, in the largest unit.
fn ago(time: UnixMillis, now: UnixMillis) -> String {
    let seconds = now.saturating_sub(time) / 1000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86400),
    }
}

/// All buckets.
pub fn buckets(buckets: &[BucketView]) -> Result<()> {
    let mut rows = vec![cells(["BUCKET", "URL", "STATE"])];
    rows.extend(
        buckets.iter().map(|b| {
            vec![b.name.clone(), b.url.clone(), b.trouble.clone().unwrap_or_else(|| "ready".into())]
        }),
    );
    print(&table(rows))
}

/// What a probe found.
pub fn probe(probe: &ProbeView) -> Result<()> {
    let lines: Vec<String> = probe.findings.iter().map(|line| format!("{line}\n")).collect();
    print(&format!("bucket {}\n{}", probe.name, lines.concat()))
}

/// All forks.
pub fn forks(forks: &[ForkView]) -> Result<()> {
    print(&fork_table(forks))
}

fn fork_table(forks: &[ForkView]) -> String {
    let mut rows = vec![cells(["LOST TO ANOTHER GATEWAY", "SIZE", "CACHE DISK", "IMAGE"])];
    rows.extend(
        forks
            .iter()
            .map(|f| vec![f.name.clone(), ByteSize(f.size).to_string(), f.disk.clone(), f.image.clone()]),
    );
    table(rows)
}

/// The whole gateway.
pub fn status(g: &GatewayView) -> Result<()> {
    let mut text = format!("gateway {} {} (id {})\n", g.name, g.version, g.id);
    text.push_str(&format!("iSCSI on {}\n\n", g.portals.join(", ")));
    text.push_str(&table(volume_rows(&g.volumes)));
    text.push_str(&g.volumes.iter().map(remarks).collect::<String>());
    text.push('\n');
    let mut rows = vec![cells(["CACHE DISK", "JOURNAL", "LOCAL SEGMENTS", "CACHE", "HITS", "PATH"])];
    for d in &g.disks {
        let reads = (d.cache_hits + d.cache_misses).max(1);
        rows.push(vec![
            d.name.clone(),
            format!("{} of {}", ByteSize(d.journal_used), ByteSize(d.journal_capacity)),
            ByteSize(d.local_segments).to_string(),
            format!(
                "{} of {}, {} in memory",
                ByteSize(d.cache_used),
                ByteSize(d.cache_capacity),
                ByteSize(d.cache_in_memory)
            ),
            format!("{} %", d.cache_hits * 100 / reads),
            d.path.clone(),
        ]);
    }
    text.push_str(&table(rows));
    for d in &g.disks {
        for what in d.trouble.iter().chain(&d.warning) {
            text.push_str(&format!("{}: {what}\n", d.name));
        }
    }
    if !g.forks.is_empty() {
        text.push('\n');
        text.push_str(&fork_table(&g.forks));
    }
    text.push('\n');
    let mut rows = vec![cells(["INITIATOR", "FROM", "TARGET", "COMMANDS", "READ", "WRITTEN"])];
    for s in &g.sessions {
        rows.push(vec![
            s.initiator.clone(),
            s.peer.clone(),
            s.target.clone().unwrap_or_else(|| "(discovery)".into()),
            s.commands.to_string(),
            ByteSize(s.bytes_out).to_string(),
            ByteSize(s.bytes_in).to_string(),
        ]);
    }
    text.push_str(&table(rows));
    for e in g.events.iter().rev().take(10).rev() {
        let times = if e.times > 1 { format!(" ({} times)", e.times) } else { String::new() };
        let when = ago(e.time, SystemClock.now());
        text.push_str(&format!("{when}: {}: {}{times}\n", e.severity, e.text));
    }
    print(&text)
}
