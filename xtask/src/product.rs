//! The product as users start it: `tidegate demo`, killed and started again; and `tidegate serve` with its command line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Server, free_port, output_within, tail, until};
use crate::{Result, setup};

/// How long a start may take: recovery of a full journal included.
const START: Duration = Duration::from_secs(60);

/// A demo that can be started again and again on the same data and port.
pub struct Demo {
    program: PathBuf,
    data: PathBuf,
    port: u16,
    size: String,
    bucket: Option<String>,
    output: &'static str,
    options: Vec<String>,
    starts: u32,
    running: Option<Server>,
    url: String,
}

/// A command that starts with less than all, or whose output goes elsewhere than to its log, as the shell writes both; as it stands,
/// if nothing is said.
fn through_shell(command: Command, limits: &str, output: &str) -> Command {
    if limits.is_empty() && output.is_empty() {
        return command;
    }
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &format!("set -e; {limits}\nexec \"$0\" \"$@\" {output}")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
}

impl Demo {
    /// A demo in `dir`, started.
    pub fn start(dir: &Path, size: &str, bucket: Option<String>) -> Result<Demo> {
        let mut demo = Demo::prepared(dir, size, bucket)?;
        demo.again()?;
        Ok(demo)
    }

    /// One whose output goes elsewhere, as the shell writes it, started.
    pub fn heard_by(output: &'static str, dir: &Path, size: &str) -> Result<Demo> {
        let mut demo = Demo { output, ..Demo::prepared(dir, size, None)? };
        let mut server = demo.launch()?;
        demo.url = until("the disk", START, || {
            server.check()?;
            let status = demo.status().unwrap_or_default();
            let disk = &status["volumes"][0];
            let open = disk["state"] == "open";
            Ok(disk["target"]
                .as_str()
                .filter(|_| open)
                .map(|name| format!("iscsi://{}/{name}/0", demo.portal())))
        })?;
        demo.running = Some(server);
        Ok(demo)
    }

    fn prepared(dir: &Path, size: &str, bucket: Option<String>) -> Result<Demo> {
        Ok(Demo {
            program: setup::product()?,
            data: dir.join("demo"),
            port: free_port()?,
            size: size.to_owned(),
            bucket,
            output: "",
            options: Vec::new(),
            starts: 0,
            running: None,
            url: String::new(),
        })
    }

    /// The same with further options.
    pub fn again_with(&mut self, options: &[&str]) -> Result {
        self.options = options.iter().map(|word| word.to_string()).collect();
        let started = self.again();
        self.options.clear();
        started
    }

    /// Gives its directory another name, while it does not run.
    pub fn moved(&mut self, name: &str) -> Result {
        let there = self.data.with_file_name(name);
        std::fs::rename(&self.data, &there)?;
        self.data = there;
        Ok(())
    }

    /// Starts it where it is to be refused; gives what it says.
    pub fn refused(&mut self) -> Result<String> {
        let mut server = self.launch()?;
        until("the refusal", START, || Ok(server.check().err().map(|e| e.to_string())))
    }

    fn launch(&mut self) -> Result<Server> {
        self.starts += 1;
        let log = self.data.with_extension(format!("{}.log", self.starts));
        let mut command = Command::new(&self.program);
        command.arg("demo").arg("--data").arg(&self.data).args(["--size", &self.size]);
        command.args(["--iscsi", &format!("127.0.0.1:{}", self.port)]);
        command.args(&self.options);
        command.args(self.bucket.iter().flat_map(|url| ["--bucket", url]));
        // For a test store that takes any; a real one comes with its own environment.
        if self.bucket.is_some() && std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            command.env("AWS_ACCESS_KEY_ID", "any").env("AWS_SECRET_ACCESS_KEY", "any");
        }
        Server::start(&through_shell(command, "", self.output), log)
    }

    /// Starts it again after [`Demo::kill`] or [`Demo::stop`].
    pub fn again(&mut self) -> Result {
        let mut server = self.launch()?;
        self.url = until("the disk's URL", START, || {
            server.check()?;
            let text = std::fs::read_to_string(&server.log)?;
            Ok(text.lines().find(|l| l.starts_with("iscsi://")).map(str::to_owned))
        })
        .map_err(|e| format!("{e}\n{}", tail(&server.log)))?;
        self.running = Some(server);
        Ok(())
    }

    /// Starts it and kills it again after so long, wherever its recovery may be.
    pub fn again_but_killed(&mut self, after: Duration) -> Result {
        let mut server = self.launch()?;
        std::thread::sleep(after);
        server.kill()
    }

    /// The process.
    pub fn server(&mut self) -> Result<&mut Server> {
        self.running.as_mut().ok_or_else(|| "the gateway was stopped".into())
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) -> Result {
        self.server()?.kill()?;
        self.running = None;
        Ok(())
    }

    /// Stops it as SIGTERM does.
    pub fn stop(&mut self) -> Result {
        self.server()?.stop(Duration::from_secs(90))?;
        self.running = None;
        Ok(())
    }

    /// The disk, as libiscsi writes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the gateway keeps everything.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The target's name.
    pub fn target(&self) -> &str {
        self.url.split('/').nth(3).unwrap_or_default()
    }

    /// ADDR:PORT.
    pub fn portal(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What `tidegate status --json` says.
    pub fn status(&self) -> Result<serde_json::Value> {
        let said = call(&self.program, &self.data, &["status", "--json"]);
        let text = said.map_err(|e| match &self.running {
            Some(server) => {
                format!("{e}\nThe last lines of the gateway's log:\n{}", tail(&server.log)).into()
            }
            None => e,
        })?;
        Ok(serde_json::from_str(&text)?)
    }

    /// How many bytes are dirty.
    pub fn dirty(&self) -> Result<u64> {
        let status = self.status()?;
        dirty(&status).ok_or_else(|| format!("status tells of no dirty bytes: {status}").into())
    }

    /// Waits until nothing is dirty. Asks seldom: each question starts a process, and what drains needs the processors.
    pub fn drained(&self) -> Result {
        until("the end of the drain", Duration::from_secs(600), || {
            std::thread::sleep(Duration::from_millis(100));
            Ok((self.dirty()? == 0).then_some(()))
        })
    }
}

/// The first number called `dirty` in the status.
fn dirty(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Object(fields) => fields
            .get("dirty")
            .and_then(serde_json::Value::as_u64)
            .or_else(|| fields.values().find_map(dirty)),
        serde_json::Value::Array(items) => items.iter().find_map(dirty),
        _ => None,
    }
}

/// What is out of the ordinary in a gateway's configuration.
pub struct Layout<'a> {
    /// The address it listens on, without a port.
    pub host: &'a str,
    /// Lines of its cache disk.
    pub disk: &'a str,
    /// Lines behind all others.
    pub more: &'a str,
    /// What it is not allowed, as the shell writes it.
    pub limits: &'static str,
    /// Where its output goes, as the shell writes it; to its log, if nothing is said.
    pub output: &'static str,
}

impl Default for Layout<'_> {
    fn default() -> Self {
        Layout { host: "127.0.0.1", disk: "journal = \"512 MiB\"", more: "", limits: "", output: "" }
    }
}

/// A gateway run from a configuration file, empty at first.
pub struct Serve {
    program: PathBuf,
    config: PathBuf,
    data: PathBuf,
    portal: String,
    limits: &'static str,
    output: &'static str,
    starts: u32,
    running: Option<Server>,
}

impl Serve {
    /// A gateway in `dir`, started.
    pub fn start(dir: &Path) -> Result<Serve> {
        Serve::with(dir, &Layout::default())
    }

    /// One that is laid out in another way, started.
    pub fn with(dir: &Path, layout: &Layout<'_>) -> Result<Serve> {
        let (data, config, cache) = (dir.join("gateway"), dir.join("tidegate.toml"), dir.join("cache"));
        let Layout { host, disk, more, limits, output } = layout;
        let portal = format!("{host}:{}", free_port()?);
        let text = format!(
            "name = \"test\"\ndata = {data:?}\n[[disk]]\nname = \"cache\"\npath = {cache:?}\n{disk}\n\
             [iscsi]\nlisten = [\"{portal}\"]\n{more}\n"
        );
        std::fs::write(&config, text)?;
        let program = setup::product()?;
        let mut serve = Serve { program, config, data, portal, limits, output, starts: 0, running: None };
        serve.again()?;
        Ok(serve)
    }

    /// Starts it again.
    pub fn again(&mut self) -> Result {
        self.running = None;
        self.starts += 1;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(&self.config);
        // For a test store that takes any; a real one comes with its own environment.
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            command.env("AWS_ACCESS_KEY_ID", "any").env("AWS_SECRET_ACCESS_KEY", "any");
        }
        let log = self.config.with_extension(format!("{}.log", self.starts));
        let mut server = Server::start(&through_shell(command, self.limits, self.output), log)?;
        until("the gateway's answer", START, || {
            server.check()?;
            Ok(self.tell(&["status", "--json"]).ok())
        })
        .map_err(|e| format!("{e}\n{}", tail(&server.log)))?;
        self.running = Some(server);
        Ok(())
    }

    /// Stops it as SIGTERM does.
    pub fn stop(&mut self) -> Result {
        let mut server = self.running.take().ok_or("the gateway was stopped")?;
        server.stop(Duration::from_secs(90))
    }

    /// Runs `tidegate` with these words against it; gives what it printed.
    pub fn tell(&self, words: &[&str]) -> Result<String> {
        call(&self.program, &self.data, words)
    }

    /// What `tidegate status --json` says.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.tell(&["status", "--json"])?)?)
    }

    /// What it has written to its log since it was started.
    pub fn log(&self) -> Result<String> {
        let running = self.running.as_ref().ok_or("the gateway was stopped")?;
        Ok(std::fs::read_to_string(&running.log)?)
    }

    /// Makes it stand still, as a machine does whose virtual host is busy elsewhere.
    pub fn pause(&mut self) -> Result {
        self.running.as_mut().ok_or("the gateway was stopped")?.signal("STOP")
    }

    /// Lets it go on after [`Serve::pause`].
    pub fn resume(&mut self) -> Result {
        self.running.as_mut().ok_or("the gateway was stopped")?.signal("CONT")
    }

    /// The target of a volume.
    pub fn target(volume: &str) -> String {
        format!("iqn.2026-11.org.tidegate:test.{volume}")
    }

    /// A volume's disk, as libiscsi writes it.
    pub fn url(&self, volume: &str) -> String {
        format!("iscsi://{}/{}/0", self.portal(), Self::target(volume))
    }

    /// ADDR:PORT.
    pub fn portal(&self) -> String {
        self.portal.clone()
    }

    /// The volumes, as `tidegate status --json` shows them.
    pub fn volumes(&self) -> Result<Vec<serde_json::Value>> {
        Ok(self.status()?["volumes"].as_array().cloned().unwrap_or_default())
    }

    /// One of them.
    pub fn volume(&self, name: &str) -> Result<serde_json::Value> {
        let found = self.volumes()?.into_iter().find(|v| v["name"] == name);
        found.ok_or_else(|| format!("status shows no volume {name}").into())
    }

    /// Waits until nothing of a volume, or of any, is without its place in the bucket, and nothing ails it any more.
    pub fn drained(&self, volume: Option<&str>, limit: Duration) -> Result {
        until("an empty journal", limit, || {
            std::thread::sleep(Duration::from_millis(200));
            let volumes = self.volumes()?;
            let mut concerned = volumes.iter().filter(|v| volume.is_none_or(|name| v["name"] == name));
            Ok(concerned.all(|v| v["dirty"] == 0 && v["trouble"].is_null()).then_some(()))
        })
    }
}

fn call(program: &Path, data: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(data).args(words);
    let done = output_within(&mut command, Duration::from_secs(60))?;
    match done.status {
        Some(0) => Ok(done.text),
        status => {
            Err(format!("tidegate {} failed ({status:?}): {}", words.join(" "), done.text.trim()).into())
        }
    }
}
