//! Processes for tests: each ends with the test that started it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for a loaded machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a test takes in `make test`, and what in `make soak`, which runs the full numbers and prints their figures.
pub(crate) fn soak<T>(short: T, full: T) -> T {
    if std::env::var_os("TIERGATE_SOAK").is_some() { full } else { short }
}

pub(crate) const TIERGATE: &str = env!("CARGO_BIN_EXE_tiergate");

/// The command line with these words, and without the variables of ours that a developer has set.
pub(crate) fn tiergate(words: &[&str]) -> Command {
    let mut command = Command::new(TIERGATE);
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("TIERGATE_"));
    ours.for_each(|name| _ = command.env_remove(name));
    command.args(words);
    command
}

/// How a command ended, and what it printed: to stdout, then to stderr.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

/// A process that ends when this is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// A number of its status, such as `VmRSS:` in KiB.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the process lives");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The CPU time that its threads have had.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let times = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        let nanos = times.map(|times| times.split(' ').next().unwrap().parse::<u64>().unwrap());
        Duration::from_nanos(nanos.sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where token limits hold nothing: for tests with calls that nobody reports.
pub(crate) const POSITIVE: &[&str] = &["--token-admission=positive"];

pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of `examples/`, which `cargo test` builds beside the binary.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(TIERGATE).parent().unwrap().join("examples").join(name)
}

/// A folder that is removed when this is dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tiergate-it-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One pair of keys for all tests.
pub(crate) static KEYS: LazyLock<Folder> = LazyLock::new(keys);

/// A pair of keys.
pub(crate) fn keys() -> Folder {
    let folder = Folder::new();
    let status = Command::new(TIERGATE).args(["token", "keys"]).arg(&folder.0).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    folder
}

pub(crate) fn token(namespace: &str, name: &str, manifests: &Path) -> String {
    token_by(&KEYS, namespace, name, manifests)
}

/// Signed by the key of `keys`.
pub(crate) fn token_by(keys: &Folder, namespace: &str, name: &str, manifests: &Path) -> String {
    let mut command = Command::new(TIERGATE);
    command.args(["token", "create", name, "-n", namespace, "--audience", "maas-default-gateway-sa"]);
    command.arg("--signing-key").arg(keys.0.join("signing-key.pem")).arg("--manifests").arg(manifests);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The tour's manifests, with every limit raised to what a test cannot reach.
pub(crate) fn generous_manifests() -> Folder {
    let folder = Folder::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let raised: String = text
            .lines()
            .map(|line| match line.split_once("limit: ") {
                Some((before, after)) => {
                    format!("{before}limit: 1000000000{}\n", after.trim_start_matches(|c: char| c.is_ascii_digit()))
                }
                None => format!("{line}\n"),
            })
            .collect();
        folder.file(path.file_name().unwrap().to_str().unwrap(), &raised);
    }
    folder
}

/// A serving tiergate, ready.
pub(crate) struct Tiergate {
    pub(crate) process: Process,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// What it said before it served.
    pub(crate) told: Vec<serde_json::Value>,
    pub(crate) log: mpsc::Receiver<String>,
}

impl Tiergate {
    pub(crate) fn start(manifests: &Path, flags: &[&str]) -> Self {
        Self::start_as(tiergate(&[]), manifests, flags)
    }

    /// As the last words of `command`.
    pub(crate) fn start_as(command: Command, manifests: &Path, flags: &[&str]) -> Self {
        Self::start_at(0, command, manifests, flags)
    }

    /// At this port for gRPC, which may be that of an earlier one.
    pub(crate) fn start_at(port: u16, command: Command, manifests: &Path, flags: &[&str]) -> Self {
        Self::start_with(port, command, manifests, &[&["--grant-from-annotation"], flags].concat())
    }

    /// With these flags and no others.
    pub(crate) fn start_plainly(manifests: &Path, flags: &[&str]) -> Self {
        Self::start_with(0, tiergate(&[]), manifests, flags)
    }

    fn start_with(port: u16, command: Command, manifests: &Path, flags: &[&str]) -> Self {
        Self::start_by(port, command, (manifests, &KEYS.0.join("jwks.json")), flags)
    }

    /// With keys of its own.
    pub(crate) fn start_verifying(manifests: &Path, jwks: &Path, flags: &[&str]) -> Self {
        let flags = [&["--grant-from-annotation"], flags].concat();
        Self::start_by(0, Command::new(TIERGATE), (manifests, jwks), &flags)
    }

    fn start_by(port: u16, mut command: Command, (manifests, jwks): (&Path, &Path), flags: &[&str]) -> Self {
        command.arg("serve").arg("--manifests").arg(manifests).arg("--jwks").arg(jwks);
        Self::serve(port, command, flags)
    }

    /// On a cluster, which it may not have read yet.
    pub(crate) fn start_on(kubeconfig: &Path, flags: &[&str]) -> Self {
        let mut command = tiergate(&[]);
        command.args(["serve", "--kubernetes", "--kubeconfig"]).arg(kubeconfig);
        Self::serve(0, command, flags)
    }

    fn serve(port: u16, mut command: Command, flags: &[&str]) -> Self {
        command.args(["--listen-grpc", &format!("127.0.0.1:{port}"), "--listen-http", "127.0.0.1:0"]);
        command.args(["--listen-admin", "127.0.0.1:0"]);
        let mut child = command.args(flags).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test may be over.
                let _ = send.send(line);
            }
        });
        let process = Process(child);
        let mut told = Vec::new();
        loop {
            let line = log.recv_timeout(PATIENCE).expect("tiergate says that it serves");
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { panic!("not JSON: {line}") };
            if line["message"] == "serving" {
                let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                let [grpc, http, admin] = ["listen.grpc", "listen.http", "listen.admin"].map(address);
                return Tiergate { process, grpc, http, admin, told, log };
            }
            told.push(line);
        }
    }

    /// Waits for a log line with this message.
    pub(crate) fn await_log(&self, message: &str) -> serde_json::Value {
        self.log_until(message).pop().unwrap()
    }

    /// The log, up to the line with this message.
    pub(crate) fn log_until(&self, message: &str) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("tiergate says `{message}`"));
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let is_last = line["message"].as_str().is_some_and(|text| text.contains(message));
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end: how it ended, and what it said until then.
    pub(crate) async fn ended(self) -> (ExitStatus, Vec<serde_json::Value>) {
        let (send, ended) = tokio::sync::oneshot::channel();
        let Tiergate { mut process, log, .. } = self;
        std::thread::spawn(move || {
            let status = process.0.wait().unwrap();
            // The test may be over.
            let _ = send.send((status, log.iter().map(|line| serde_json::from_str(&line).unwrap()).collect()));
        });
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap()
    }

    /// The log lines so far.
    pub(crate) fn logged(&self) -> Vec<serde_json::Value> {
        self.log.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.process.status("VmRSS:")
    }

    /// The most resident memory that it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.process.status("VmHWM:")
    }

    /// The time that its threads ran, in steps of a hundredth of a second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.0.id())).unwrap();
        // The name, in brackets, may hold anything; `utime` and `stime` are the 12th and 13th after it.
        let after = stat.rsplit_once(')').unwrap().1;
        let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The sum of a metric's series whose labels hold `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> u64 {
        let page = get(self.http, "/metrics").await;
        assert_eq!(page.status, 200);
        let of_name = page.body.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        of_name.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }
}

/// A serving tiergate whose log, and there is much of it, goes to `log`, and its gRPC and HTTP addresses.
pub(crate) fn start_with_log(manifests: &Path, log: std::io::PipeWriter) -> (Process, (SocketAddr, SocketAddr)) {
    let [grpc, http] = std::array::from_fn(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut command = Command::new(TIERGATE);
    command.arg("serve").arg("--manifests").arg(manifests).arg("--jwks").arg(KEYS.0.join("jwks.json"));
    command.args(["--listen-grpc", &grpc.to_string(), "--listen-http", &http.to_string()]);
    command.args(["--listen-admin", "off", "--log", "trace"]);
    let process = Process(command.stderr(log).spawn().unwrap());
    let started = Instant::now();
    // Its log is not read, so its port has to tell.
    while std::net::TcpStream::connect(grpc).is_err() {
        assert!(started.elapsed() < PATIENCE, "it listens");
        std::thread::yield_now();
    }
    (process, (grpc, http))
}

/// A port that nobody listens on. Nobody is given one of these by the kernel, whose own are above, so that none is taken before
/// its server has it; no two tests get one, since Envoys would share it (`SO_REUSEPORT`).
pub(crate) fn free_port() -> u16 {
    const PORTS: Range<u32> = 16_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(331);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header lines, as they came.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    Connection::of_pages(address).await.send("GET", path, &[], "").await
}

pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    Connection::of_pages(address).await.send("POST", path, &[("content-type", "application/json")], body).await
}

/// Asks for a page until its status and body are as `expected`, and returns the body.
pub(crate) async fn await_page(address: SocketAddr, page: &str, expected: impl Fn(u16, &str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let answer = get(address, page).await;
        if expected(answer.status, &answer.body) {
            return answer.body;
        }
        assert!(started.elapsed() < PATIENCE, "{page}: {} {}", answer.status, answer.body);
        // A page is asked for; it does not tell.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the page says once it says yes.
pub(crate) async fn await_ready(tiergate: &Tiergate) -> String {
    await_page(tiergate.http, "/readyz", |status, _| status == 200).await
}

/// One HTTP/1.1 connection, kept alive. It sends paths as they are, which HTTP libraries do not.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    host: String,
}

impl Connection {
    /// Of somebody who asks for a page by the address that it is at, and not for a model.
    pub(crate) async fn of_pages(address: SocketAddr) -> Self {
        Connection { host: address.to_string(), ..Self::open(address).await }
    }

    pub(crate) async fn open(address: SocketAddr) -> Self {
        let started = Instant::now();
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).unwrap();
                    return Connection { stream, buffer: Vec::new(), host: "models.example.com".to_owned() };
                }
                Err(error) if started.elapsed() > PATIENCE => panic!("{address}: {error}"),
                // Nothing tells when another process listens; its port does not answer before.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        self.write(request.as_bytes()).await;
        self.answer().await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The status and headers of an answer that is begun. Nothing of it is taken.
    pub(crate) async fn begun(&self) -> Answer {
        let mut buffer = vec![0; 16 << 10];
        let started = Instant::now();
        loop {
            let read = tokio::time::timeout(PATIENCE, self.stream.peek(&mut buffer)).await.expect("an answer in time");
            let head = String::from_utf8_lossy(&buffer[..read.unwrap()]).into_owned();
            if head.contains("\r\n\r\n") {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Answer { status, head, body: String::new() };
            }
            assert!(started.elapsed() < PATIENCE, "{head}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.receive()).await.expect("an answer in time")
    }

    /// Waits until the peer closes, and reads what it said before.
    pub(crate) async fn closed(mut self) -> String {
        let read = self.stream.read_to_end(&mut self.buffer);
        // A reset is an end too.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("closed in time");
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn receive(&mut self) -> Answer {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                break String::from_utf8(head).unwrap();
            }
            self.more().await;
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
        });
        let body = match length {
            Some(length) => {
                while self.buffer.len() < length {
                    self.more().await;
                }
                self.buffer.drain(..length).collect()
            }
            None => self.chunks().await,
        };
        Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            while find(&self.buffer, b"\r\n").is_none() {
                self.more().await;
            }
            let end = find(&self.buffer, b"\r\n").unwrap();
            let size = usize::from_str_radix(str::from_utf8(&self.buffer[..end]).unwrap(), 16).unwrap();
            while self.buffer.len() < end + 2 + size + 2 {
                self.more().await;
            }
            body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
            self.buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return body;
            }
        }
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(read > 0, "the connection was closed: {:?}", String::from_utf8_lossy(&self.buffer));
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
