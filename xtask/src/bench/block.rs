//! `bench block`: Tidegate and tuned tgtd on the same disk, round by round in turns.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tgt::Tgt;
use super::{Generator, Load, Measured, median, scratch, settle, spread, steadiest};
use crate::Result;
use crate::process::{Server, run, until};
use crate::product::Demo;

const LOADS: &[Load] = &[
    Load { mode: "randread", bytes: 4 << 10, depth: 1 },
    Load { mode: "randread", bytes: 4 << 10, depth: 32 },
    Load { mode: "randwrite", bytes: 4 << 10, depth: 1 },
    Load { mode: "randwrite", bytes: 4 << 10, depth: 32 },
    Load { mode: "seqread", bytes: 128 << 10, depth: 1 },
    Load { mode: "seqread", bytes: 128 << 10, depth: 32 },
    Load { mode: "seqwrite", bytes: 128 << 10, depth: 1 },
    Load { mode: "seqwrite", bytes: 128 << 10, depth: 32 },
    Load { mode: "seqread", bytes: 1 << 20, depth: 1 },
    Load { mode: "seqread", bytes: 1 << 20, depth: 32 },
    Load { mode: "seqwrite", bytes: 1 << 20, depth: 1 },
    Load { mode: "seqwrite", bytes: 1 << 20, depth: 32 },
];
/// What writes cover and reads read: less than the memory of any machine worth measuring on, as for the peer.
const SPAN: u64 = 512 << 20;
/// Fewer rounds show no spread.
const ENOUGH: usize = 3;
/// Above this the machine was too busy to compare anything on it.
const VALID: f64 = 0.10;
/// The part of the processors' time that the host of a virtual machine may keep for others in a round that counts.
const STOLEN: f64 = 0.05;

/// Measure an iSCSI disk against tuned tgtd on the same disk, interleaved.
///
/// Figures are medians of the rounds, in each of which all targets have their turn. A machine whose neighbours are noisy disturbs
/// some of them: so each load is repeated until there are as many rounds one after the other as asked for in which tgtd, the peer,
/// was steady, and the host of a virtual machine did not keep its processors for others; only these count, for all targets. Where
/// there are none, those count in which tgtd was steadiest. tgtd runs twice, as it comes and with synced writes (Tidegate's are always synced). CPU is the target's seconds per
/// 100,000 transfers, with what it does for them afterwards (destaging included).
/// Between two loads all targets come to rest.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many steady rounds, one after the other, there should be of each load.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many rounds of a load there are at most.
    #[arg(long, default_value_t = 40)]
    at_most: usize,
    /// How long each time.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// The disk to measure on: a directory.
    #[arg(long, default_value = "target")]
    dir: std::path::PathBuf,
    /// Only loads whose names contain this, as "4k randread".
    #[arg(long)]
    only: Option<String>,
}

/// One load's results on all targets.
#[derive(Default)]
struct Row {
    columns: [Column; 3],
    /// Rounds that do not count.
    left_out: usize,
}

impl Row {
    /// The target that ours is compared with: tgtd, for writes tgtd synced.
    fn peer(&self, load: &Load) -> &Column {
        &self.columns[if load.is_write() { 2 } else { 1 }]
    }

    /// How far the peer's rounds lie apart.
    fn spread(&self, load: &Load) -> f64 {
        spread(self.peer(load).iops())
    }

    fn rounds(&self) -> usize {
        self.columns[0].rounds.len()
    }

    /// Those rounds alone.
    fn only(&self, rounds: Range<usize>) -> Row {
        let columns =
            self.columns.each_ref().map(|column| Column { rounds: column.rounds[rounds.clone()].to_vec() });
        Row { columns, left_out: self.left_out + self.rounds() - rounds.len() }
    }

    /// The neighbouring rounds in which the peer was steadiest, of those in which no target lacked processors that the host kept.
    fn undisturbed(&self, load: &Load, rounds: usize) -> Option<Row> {
        let is_undisturbed = |round: usize| self.columns.iter().all(|c| c.rounds[round].stolen <= STOLEN);
        steadiest(&self.peer(load).iops(), rounds, is_undisturbed).map(|chosen| self.only(chosen))
    }

    /// Whether there are as many rounds as wanted in which the peer was steady.
    fn is_done(&self, load: &Load, rounds: usize) -> bool {
        self.undisturbed(load, rounds).is_some_and(|row| row.spread(load) < VALID)
    }

    /// The rounds that count, of all.
    fn counted(self, load: &Load, rounds: usize) -> Row {
        let disturbed =
            || steadiest(&self.peer(load).iops(), rounds, |_| true).map(|chosen| self.only(chosen));
        self.undisturbed(load, rounds).or_else(disturbed).unwrap_or(self)
    }
}

/// What one turn of a target brought.
#[derive(Clone, Copy)]
struct Turn {
    measured: Measured,
    /// The target's processor seconds per 100,000 transfers.
    cpu: f64,
    /// The part of the processors' time that the host kept for others.
    stolen: f64,
}

/// One load's results on one target, a round each.
#[derive(Default)]
struct Column {
    rounds: Vec<Turn>,
}

impl Column {
    fn median(&self, figure: impl Fn(&Turn) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn shown(&self) -> String {
        format!(
            "{:>9.0} {:>8.0} {:>8.0} {:>7.1}",
            self.median(|r| r.measured.iops),
            self.median(|r| r.measured.mb_per_s),
            self.median(|r| r.measured.p99_us),
            self.median(|r| r.cpu)
        )
    }

    /// What the last round brought, in IOPS, and what the host kept meanwhile.
    fn last(&self) -> String {
        let show = |r: &Turn| format!("{:.0} ({:.0} %)", r.measured.iops, r.stolen * 1e2);
        self.rounds.last().map_or_else(String::new, show)
    }

    fn iops(&self) -> Vec<f64> {
        self.rounds.iter().map(|r| r.measured.iops).collect()
    }
}

struct Targets {
    dir: std::path::PathBuf,
    ours: Demo,
    unsynced: Tgt,
    synced: Tgt,
}

impl Targets {
    fn start(dir: &Path) -> Result<Targets> {
        let file = |name: &str| -> Result<_> {
            let path = dir.join(name);
            run(Command::new("fallocate").args(["-l", &SPAN.to_string()]).arg(&path))?;
            Ok(path)
        };
        Ok(Targets {
            dir: dir.to_owned(),
            ours: Demo::start(dir, "1GiB", None)?,
            unsynced: Tgt::start(dir, "unsynced", &file("unsynced.img")?, false)?,
            synced: Tgt::start(dir, "synced", &file("synced.img")?, true)?,
        })
    }

    fn server(&mut self, which: usize) -> Result<&mut Server> {
        match which {
            0 => self.ours.server(),
            1 => Ok(&mut self.unsynced.server),
            _ => Ok(&mut self.synced.server),
        }
    }

    /// Runs a load on one of them, and waits until all it has set off is over.
    fn measure(&mut self, generator: &Generator, which: usize, load: Load, seconds: u32) -> Result<Turn> {
        let url = [self.ours.url(), &self.unsynced.url, &self.synced.url][which].to_owned();
        let (before, processors) = (self.server(which)?.cpu_seconds()?, Processors::now()?);
        let measured = generator.disk(&url, load, seconds, SPAN)?;
        let stolen = Processors::now()?.stolen_since(&processors);
        if which == 0 && load.is_write() {
            self.ours.drained()?;
        }
        let cpu = at_rest(self.server(which)?)? - before;
        settle(&self.dir)?;
        Ok(Turn { measured, cpu: cpu / measured.ios.max(1) as f64 * 1e5, stolen })
    }
}

/// What the processors of this machine have done, in ticks.
struct Processors {
    all: u64,
    stolen: u64,
}

impl Processors {
    fn now() -> Result<Processors> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests get comes after and is in user.
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        Ok(Processors { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) })
    }

    /// The part of the time since then that the host kept for others.
    fn stolen_since(&self, earlier: &Processors) -> f64 {
        self.stolen.saturating_sub(earlier.stolen) as f64 / (self.all - earlier.all).max(1) as f64
    }
}

/// Waits until a server has nothing more to do, so that it does not take from who is measured next; gives the processor
/// seconds it has used, which therefore hold all that its load has cost.
fn at_rest(server: &mut Server) -> Result<f64> {
    let pause = Duration::from_millis(250);
    let mut before = server.cpu_seconds()?;
    until("a server at rest", Duration::from_secs(120), || {
        std::thread::sleep(pause);
        let now = server.cpu_seconds()?;
        let idle = now - before < 0.04 * pause.as_secs_f64();
        before = now;
        Ok(idle.then_some(now))
    })
}

/// The verb `bench block`.
pub fn main(arguments: &Arguments) -> Result {
    let (_made, dir) = scratch(&arguments.dir, "block")?;
    let generator = Generator::new()?;
    let mut targets = Targets::start(&dir)?;
    let fill = Load { mode: "seqwrite", bytes: 1 << 20, depth: 8 };
    for which in 0..3 {
        targets.measure(&generator, which, fill, 0)?;
    }
    let loads: Vec<Load> = LOADS
        .iter()
        .copied()
        .filter(|l| arguments.only.as_ref().is_none_or(|part| l.name().contains(part)))
        .collect();
    let mut table = Vec::new();
    show_head();
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    for load in &loads {
        let mut row = Row::default();
        for round in 0..arguments.at_most.max(1) {
            if row.is_done(load, arguments.rounds) {
                break;
            }
            bar.set_message(format!("{}: round {}", load.name(), round + 1));
            for turn in 0..3 {
                // Who goes first changes, so that nobody always has the disk as another left it.
                let which = (turn + round) % 3;
                let measured = targets.measure(&generator, which, *load, arguments.seconds)?;
                row.columns[which].rounds.push(measured);
            }
            if bar.is_hidden() {
                let [ours, unsynced, synced] = row.columns.each_ref().map(Column::last);
                let name = load.name();
                eprintln!(
                    "{name}: round {}: {ours} / {unsynced} / {synced} IOPS (kept by the host)",
                    round + 1
                );
            }
        }
        let row = row.counted(load, arguments.rounds);
        // At once: what comes later may fail.
        bar.suspend(|| show(load, &row));
        table.push(row);
    }
    bar.finish_and_clear();
    targets.ours.stop()?;
    drop(targets);
    show_verdict(&loads, &table);
    limits(&generator, &dir, arguments.seconds)
}

fn show_head() {
    println!(
        "{:<20} | {:^35} | {:^35} | {:^35} | {:>6} {:>6}",
        "", "tidegate", "tgtd", "tgtd, synced", "ratio", "CPU"
    );
    let head = format!("{:>9} {:>8} {:>8} {:>7}", "IOPS", "MB/s", "p99 us", "CPU s");
    println!("{:<20} | {head} | {head} | {head} | {:>6} {:>6}", "", "IOPS", "ratio");
}

fn show(load: &Load, row: &Row) {
    let ([ours, unsynced, synced], peer) = (&row.columns, row.peer(load));
    println!(
        "{:<20} | {} | {} | {} | {:>6.2} {:>6.2}",
        load.name(),
        ours.shown(),
        unsynced.shown(),
        synced.shown(),
        ours.median(|r| r.measured.iops) / peer.median(|r| r.measured.iops),
        ours.median(|r| r.cpu) / peer.median(|r| r.cpu),
    );
}

fn show_verdict(loads: &[Load], table: &[Row]) {
    println!(
        "CPU s: the target's processor seconds per 100,000 transfers; ratios: to tgtd, for writes to tgtd synced"
    );
    let left_out: usize = table.iter().map(|row| row.left_out).sum();
    let counted: usize = table.iter().map(Row::rounds).sum();
    println!(
        "{left_out} rounds besides these {counted} are left out: tgtd was not steady, or the host kept processors"
    );
    let worst = table
        .iter()
        .zip(loads)
        .map(|(row, load)| (row.spread(load), load.name()))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match worst {
        _ if counted < table.len() * ENOUGH => println!("NOT VALID: fewer than {ENOUGH} rounds say little"),
        Some((spread, load)) if spread < VALID => {
            println!("valid: from tgtd's worst round to its best are at most {:.1} % ({load})", spread * 1e2)
        }
        Some((spread, load)) => println!(
            "NOT VALID: from tgtd's worst round to its best are {:.1} % ({load}); run it on a quiet machine",
            spread * 1e2
        ),
        None => println!("NOT VALID: nothing was measured"),
    }
}

/// What no target can pass: the disk and the loopback.
fn limits(generator: &Generator, dir: &Path, seconds: u32) -> Result {
    let file = dir.join("raw.img");
    generator.file(&file, Load { mode: "seqwrite", bytes: 1 << 20, depth: 4 }, false, 0, SPAN)?;
    for (load, sync) in [
        (Load { mode: "randread", bytes: 4 << 10, depth: 32 }, false),
        (Load { mode: "randwrite", bytes: 4 << 10, depth: 32 }, false),
        (Load { mode: "randwrite", bytes: 4 << 10, depth: 1 }, true),
        (Load { mode: "seqread", bytes: 1 << 20, depth: 4 }, false),
        (Load { mode: "seqwrite", bytes: 1 << 20, depth: 4 }, false),
    ] {
        let m = generator.file(&file, load, sync, seconds, SPAN)?;
        let how = if sync { "O_DIRECT, O_DSYNC" } else { "O_DIRECT" };
        println!("raw disk, {} {how}: {:.0} IOPS, {:.0} MB/s", load.name(), m.iops, m.mb_per_s);
    }
    println!(
        "one TCP stream on the loopback: {:.2} GB/s",
        loopback(Duration::from_secs(seconds.into()))? / 1e9
    );
    Ok(())
}

/// Bytes per second of one TCP stream.
fn loopback(time: Duration) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(total),
                    n => total += n as u64,
                }
            }
        });
        let (start, buffer) = (Instant::now(), vec![0; 1 << 20]);
        let mut stream = TcpStream::connect(address)?;
        while start.elapsed() < time {
            stream.write_all(&buffer)?;
        }
        drop(stream);
        let total = reader.join().expect("it does not panic")?;
        Ok(total as f64 / start.elapsed().as_secs_f64())
    })
}
