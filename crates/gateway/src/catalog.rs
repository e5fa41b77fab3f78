//! What users want: buckets, volumes and who may use them, in one small database.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base::{ByteSize, Epoch, Error, ErrorKind, GatewayId, ImageId, JournalId, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::target::Access;

/// The database. Every change is durable when its call returns.
pub(crate) struct Catalog(Mutex<Connection>);

/// A bucket that users added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketRow {
    pub name: String,
    pub url: String,
}

/// A volume that users created or adopted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VolumeRow {
    pub name: String,
    pub image: ImageId,
    pub bucket: String,
    pub disk: String,
    pub size: ByteSize,
    pub block_size: u32,
    pub target: String,
    pub access: Access,
}

/// Up to which epoch, inclusive, a journal's records of an image are known to be needed no more.
pub(crate) type Settled = BTreeMap<(JournalId, ImageId), Epoch>;

const SCHEMA: &str = "
    create table if not exists gateway (id text not null);
    create table if not exists disk (name text primary key, journal text not null);
    create table if not exists bucket (name text primary key, url text not null);
    create table if not exists volume (
        name text primary key, image text not null unique, bucket text not null references bucket(name),
        disk text not null, size integer not null, block_size integer not null, target text not null unique,
        access text not null);
    create table if not exists settled (
        journal text not null, image text not null, epoch integer not null, primary key (journal, image));
";

fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |e| {
        let (kind, advice) = match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (ErrorKind::NoSpace, ": make room on its file system"),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
                ErrorKind::Corrupt,
                ": it is damaged; move it away, with catalog.db-wal and catalog.db-shm, and then put a copy of it there, or add the \
                 buckets and adopt the volumes again, with their rules (--chap, --initiator, --network), without which they are open \
                 to everybody",
            ),
            _ => (ErrorKind::Internal, ""),
        };
        Error::caused(kind, format!("the catalog: {what}{advice}"), e)
    }
}

impl Catalog {
    /// Opens it, or makes it with a new gateway id.
    pub fn open(path: &Path, new_id: GatewayId) -> Result<(Catalog, GatewayId)> {
        Catalog::open_file(path, new_id).map_err(|e| e.within(path.display().to_string()))
    }

    fn open_file(path: &Path, new_id: GatewayId) -> Result<(Catalog, GatewayId)> {
        make_private(path).map_err(|e| {
            let text =
                format!("{} cannot be kept from other users: give it to the gateway's", path.display());
            Error::caused(ErrorKind::Denied, text, e)
        })?;
        let db = Connection::open(path).map_err(failed("cannot be opened"))?;
        db.pragma_update(None, "journal_mode", "wal").map_err(failed("journal mode"))?;
        db.pragma_update(None, "synchronous", "full").map_err(failed("synchronous mode"))?;
        db.pragma_update(None, "foreign_keys", true).map_err(failed("foreign keys"))?;
        db.execute_batch(SCHEMA).map_err(failed("cannot be set up"))?;
        let found: Option<String> = db
            .query_row("select id from gateway", [], |row| row.get(0))
            .optional()
            .map_err(failed("the gateway's id"))?;
        let id = match found {
            Some(id) => id.parse()?,
            None => {
                db.execute("insert into gateway (id) values (?1)", [new_id.to_string()])
                    .map_err(failed("the gateway's id"))?;
                new_id
            }
        };
        Ok((Catalog(Mutex::new(db)), id))
    }

    /// The journal that a cache disk had when it was last opened.
    pub fn journal(&self, disk: &str) -> Result<Option<JournalId>> {
        let db = self.0.lock();
        let known = db.query_row("select journal from disk where name = ?1", [disk], |row| row.get(0));
        let known: Option<String> = known.optional().map_err(failed("cache disks"))?;
        known.map(|id| id.parse()).transpose()
    }

    pub fn set_journal(&self, disk: &str, journal: JournalId) -> Result<()> {
        let set = self
            .0
            .lock()
            .execute("insert or replace into disk values (?1, ?2)", params![disk, journal.to_string()]);
        set.map(drop).map_err(failed("a cache disk's journal"))
    }

    pub fn buckets(&self) -> Result<Vec<BucketRow>> {
        let db = self.0.lock();
        let mut rows = db.prepare("select name, url from bucket order by name").map_err(failed("buckets"))?;
        let rows = rows.query_map([], |row| Ok(BucketRow { name: row.get(0)?, url: row.get(1)? }));
        rows.and_then(Iterator::collect).map_err(failed("buckets"))
    }

    pub fn add_bucket(&self, row: &BucketRow) -> Result<()> {
        let db = self.0.lock();
        bucket_is_new(&db, &row.name)?;
        let added = db.execute("insert into bucket values (?1, ?2)", params![row.name, row.url]);
        added.map(drop).map_err(failed("cannot be written"))
    }

    /// Gives a bucket another URL.
    pub fn set_url(&self, row: &BucketRow) -> Result<()> {
        let set =
            self.0.lock().execute("update bucket set url = ?2 where name = ?1", params![row.name, row.url]);
        set.map(drop).map_err(failed("a bucket's URL"))
    }

    pub fn remove_bucket(&self, name: &str) -> Result<()> {
        let gone = self.0.lock().execute("delete from bucket where name = ?1", [name]);
        gone.map(drop).map_err(failed("a bucket"))
    }

    /// `Exists` if there is a bucket of that name.
    pub fn refuse_bucket_twice(&self, name: &str) -> Result<()> {
        bucket_is_new(&self.0.lock(), name)
    }

    pub fn volumes(&self) -> Result<Vec<VolumeRow>> {
        let db = self.0.lock();
        let mut rows = db
            .prepare("select name, image, bucket, disk, size, block_size, target, access from volume order by name")
            .map_err(failed("volumes"))?;
        let rows = rows.query_map([], |row| {
            Ok((
                row.get::<_, String>(1)?,
                row.get::<_, String>(7)?,
                VolumeRow {
                    name: row.get(0)?,
                    image: ImageId([0; 16]),
                    bucket: row.get(2)?,
                    disk: row.get(3)?,
                    size: ByteSize(row.get::<_, i64>(4)? as u64),
                    block_size: row.get(5)?,
                    target: row.get(6)?,
                    access: Access::default(),
                },
            ))
        });
        let rows: Vec<_> = rows.and_then(Iterator::collect).map_err(failed("volumes"))?;
        rows.into_iter()
            .map(|(image, access, row)| {
                Ok(VolumeRow { image: image.parse()?, access: Access::parse(&access)?, ..row })
            })
            .collect()
    }

    pub fn add_volume(&self, row: &VolumeRow) -> Result<()> {
        let db = self.0.lock();
        volume_is_new(&db, &row.name, row.image, &row.target)?;
        let added = db.execute(
            "insert into volume values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                row.name,
                row.image.to_string(),
                row.bucket,
                row.disk,
                row.size.0 as i64,
                row.block_size,
                row.target,
                row.access.to_text()?
            ],
        );
        added.map(drop).map_err(failed("cannot be written"))
    }

    /// `Exists` if there is a volume of that name, image or target.
    pub fn refuse_volume_twice(&self, name: &str, image: ImageId, target: &str) -> Result<()> {
        volume_is_new(&self.0.lock(), name, image, target)
    }

    pub fn set_size(&self, name: &str, size: ByteSize) -> Result<()> {
        let set = self
            .0
            .lock()
            .execute("update volume set size = ?2 where name = ?1", params![name, size.0 as i64]);
        set.map(drop).map_err(failed("a volume's size"))
    }

    pub fn set_access(&self, name: &str, access: &Access) -> Result<()> {
        let text = access.to_text()?;
        let set = self.0.lock().execute("update volume set access = ?2 where name = ?1", params![name, text]);
        set.map(drop).map_err(failed("a volume's access"))
    }

    /// Removes a volume and notes, with it or not at all, what journals need to keep of its image no more.
    pub fn remove_volume(&self, name: &str, settled: &Settled) -> Result<()> {
        let mut db = self.0.lock();
        let change = db.transaction().map_err(failed("a volume"))?;
        change.execute("delete from volume where name = ?1", [name]).map_err(failed("a volume"))?;
        settle(&change, settled)?;
        change.commit().map_err(failed("a volume"))
    }

    pub fn settled(&self) -> Result<Settled> {
        let db = self.0.lock();
        let mut rows =
            db.prepare("select journal, image, epoch from settled").map_err(failed("what is settled"))?;
        let rows = rows.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)? as u64))
        });
        let rows: Vec<_> = rows.and_then(Iterator::collect).map_err(failed("what is settled"))?;
        rows.into_iter()
            .map(|(journal, image, epoch)| Ok(((journal.parse()?, image.parse()?), Epoch(epoch))))
            .collect()
    }

    pub fn settle(&self, settled: &Settled) -> Result<()> {
        settle(&self.0.lock(), settled)
    }

    /// Forgets what was settled of an image that a journal shows no more.
    pub fn unsettle(&self, journal: JournalId, image: ImageId) -> Result<()> {
        let rows = [journal.to_string(), image.to_string()];
        let gone = self.0.lock().execute("delete from settled where journal = ?1 and image = ?2", rows);
        gone.map(drop).map_err(failed("what is settled"))
    }
}

fn settle(db: &Connection, settled: &Settled) -> Result<()> {
    for ((journal, image), epoch) in settled {
        let epoch = epoch.0.min(i64::MAX as u64) as i64;
        db.execute(
            "insert into settled values (?1, ?2, ?3)
             on conflict do update set epoch = max(epoch, excluded.epoch)",
            params![journal.to_string(), image.to_string(), epoch],
        )
        .map_err(failed("what is settled"))?;
    }
    Ok(())
}

/// It holds CHAP secrets: its files are the gateway's user's alone. What the database makes beside it has its mode.
fn make_private(path: &Path) -> io::Result<()> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    for beside in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(beside);
        match fs::set_permissions(&name, Permissions::from_mode(0o600)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn bucket_is_new(db: &Connection, name: &str) -> Result<()> {
    let known = db.query_row("select url from bucket where name = ?1", [name], |_| Ok(()));
    match known.optional().map_err(failed("buckets"))? {
        None => Ok(()),
        Some(()) => Err(Error::new(
            ErrorKind::Exists,
            format!(
                "a bucket named {name:?} exists already: choose another name; `tidegate bucket list` shows all"
            ),
        )),
    }
}

fn volume_is_new(db: &Connection, name: &str, image: ImageId, target: &str) -> Result<()> {
    let image = image.to_string();
    let holder = |column: &str, value: &str| -> Result<Option<String>> {
        let query = format!("select name from volume where {column} = ?1");
        db.query_row(&query, [value], |row| row.get(0)).optional().map_err(failed("volumes"))
    };
    let text = if holder("name", name)?.is_some() {
        format!(
            "a volume named {name:?} exists already: choose another name; `tidegate volume list` shows all"
        )
    } else if let Some(known) = holder("image", &image)? {
        format!("image {image} is volume {known:?} of this gateway already: use that one")
    } else if let Some(known) = holder("target", target)? {
        format!(
            "volume {known:?} has the target {target} already, which {name:?} would get: choose another name"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Exists, text))
}
