//! A private browser: Debian's Chromium without a window, led through chromedriver by the WebDriver protocol.
//!
//! The protocol is JSON over HTTP; the few calls that tests need are written here, without a client library. A program that
//! is missing is an error that says what to install. Starting blocks the calling thread for a fraction of a second.

use std::{
    fmt::Debug,
    io::{self, BufRead, BufReader, ErrorKind},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// A shell script that runs chromedriver until its input ends, because this value or the test process is gone. Chromium ends
/// with chromedriver, since they talk through a pipe; while it does, it may still write into the folder, or make it anew.
const WATCH: &str = r#"
folder=$1
shift
"$@" </dev/null & driver=$!
read -r line
kill -s KILL "$driver" 2>/dev/null
wait "$driver" 2>/dev/null
try=0
while [ -e "$folder" ] && [ $try -lt 100 ]; do rm -rf "$folder" 2>/dev/null; sleep 0.1; try=$((try + 1)); done
"#;

/// Keeps Chromium from talking to anybody else, and lets it run as root and without a graphics card.
const FLAGS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--lang=en-US",
    "--hide-scrollbars",
];

/// How long a call may take on a busy machine, and how long a condition may take to come about.
const LIMIT: Duration = Duration::from_secs(60);

/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser without a window; it ends when this value is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Driver,
    /// The path of its session.
    session: String,
}

/// chromedriver, in a process group of its own.
#[derive(Debug)]
struct Driver {
    watch: Child,
    port: u16,
    /// Holds the profile; the watch removes it.
    folder: PathBuf,
    /// Kept open, so that chromedriver can go on writing.
    _output: BufReader<ChildStdout>,
}

/// What a page or the browser has written to the page's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleEntry {
    /// Such as `SEVERE`.
    pub level: String,
    /// Who wrote it: `console-api`, `javascript`, `network`, `security`.
    pub source: String,
    /// The text.
    pub message: String,
}

/// A call that failed: its name, and what the browser answered.
#[derive(Debug, thiserror::Error)]
#[error("browser: {call}: {why}")]
pub struct BrowserError {
    call: String,
    why: String,
}

impl Browser {
    /// Starts a browser with a new profile, with a page of 1,200 x 900 pixels.
    pub async fn start() -> Result<Self, BrowserError> {
        let folder =
            tempfile::Builder::new().prefix("chromium-").tempdir().map_err(|error| failure("start", &error))?;
        let driver = Driver::start(folder.keep()).map_err(|error| failure("start", &error))?;
        let profile = format!("--user-data-dir={}", driver.folder.join("profile").display());
        let arguments: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let answer = driver.call("POST", "/session", &wanted).await?;
        let id = answer.get("sessionId").and_then(Value::as_str).unwrap_or_default();
        let browser = Self { session: format!("/session/{id}"), driver };
        browser.resize(1_200, 900).await?;
        Ok(browser)
    }

    /// Opens an address and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<(), BrowserError> {
        self.post("url", json!({"url": url})).await.map(drop)
    }

    /// Loads the page again.
    pub async fn reload(&self) -> Result<(), BrowserError> {
        self.post("refresh", json!({})).await.map(drop)
    }

    /// Runs the body of a function in the page, outside its content security policy, and returns what it returns.
    pub async fn run(&self, script: &str) -> Result<Value, BrowserError> {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    /// The same for a function that calls its last argument, `arguments[0]`, with the value.
    pub async fn run_async(&self, script: &str) -> Result<Value, BrowserError> {
        self.post("execute/async", json!({"script": script, "args": []})).await
    }

    /// Waits until an expression is true of the page, and returns its value.
    pub async fn wait(&self, expression: &str) -> Result<Value, BrowserError> {
        let began = Instant::now();
        loop {
            let value = self.run(&format!("return {expression};")).await?;
            if !matches!(&value, Value::Null | Value::Bool(false)) {
                return Ok(value);
            }
            if began.elapsed() > LIMIT {
                let text = self.run("return location.href + '\\n' + document.body.innerText").await?;
                return Err(failure(&format!("wait for {expression}"), &text.as_str().unwrap_or_default()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clicks on the first element that a CSS selector finds, once there is one.
    pub async fn click(&self, css: &str) -> Result<(), BrowserError> {
        let element = self.element(css).await?;
        self.post(&format!("element/{element}/click"), json!({})).await.map(drop)
    }

    /// Types into the first element that a CSS selector finds; into a field for files, the path of a file.
    pub async fn type_into(&self, css: &str, text: &str) -> Result<(), BrowserError> {
        let element = self.element(css).await?;
        self.post(&format!("element/{element}/value"), json!({"text": text})).await.map(drop)
    }

    /// Presses keys, whatever has the focus.
    pub async fn press(&self, keys: &str) -> Result<(), BrowserError> {
        let stroke = |key: char| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}));
        let actions: Vec<Value> = keys.chars().flat_map(stroke).collect();
        self.post("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}))
            .await
            .map(drop)
    }

    /// Gives the page a size, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), BrowserError> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await
    }

    /// Has the page see a person who prefers the dark colours, or the light ones.
    pub async fn prefer_colours(&self, scheme: &str) -> Result<(), BrowserError> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await
    }

    /// Returns the page as it is seen, a PNG in base64.
    pub async fn screenshot(&self) -> Result<String, BrowserError> {
        let answer = self.driver.call("GET", &format!("{}/screenshot", self.session), &Value::Null).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Returns what was written to the console since the last call.
    pub async fn console(&self) -> Result<Vec<ConsoleEntry>, BrowserError> {
        let entries = self.post("se/log", json!({"type": "browser"})).await?;
        let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let entry = |entry: &Value| ConsoleEntry {
            level: text(entry, "level"),
            source: text(entry, "source"),
            message: text(entry, "message"),
        };
        Ok(entries.as_array().map(|entries| entries.iter().map(entry).collect()).unwrap_or_default())
    }

    async fn element(&self, css: &str) -> Result<String, BrowserError> {
        let quoted = Value::from(css);
        self.wait(&format!("document.querySelector({quoted}) !== null")).await?;
        let found = self.post("element", json!({"using": "css selector", "value": css})).await?;
        Ok(found.get(ELEMENT).and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<(), BrowserError> {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await.map(drop)
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, BrowserError> {
        self.driver.call("POST", &format!("{}/{path}", self.session), &body).await
    }
}

impl Driver {
    fn start(folder: PathBuf) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "watch"]).arg(&folder).args(["chromedriver", "--port=0"]);
        command.env("HOME", &folder).env("TMPDIR", &folder).current_dir(&folder);
        let mut watch = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = watch.stdout.take().ok_or_else(|| io::Error::from(ErrorKind::BrokenPipe))?;
        let mut output = BufReader::new(output);
        let port = port_in(&mut output).inspect_err(|_| end(&mut watch))?;
        Ok(Self { watch, port, folder, _output: output })
    }

    /// Sends a request and returns the answer's value.
    async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, BrowserError> {
        let failed = |why: &dyn ToString| failure(&format!("{method} {path}"), &why.to_string());
        let exchange = timeout(LIMIT, self.exchange(method, path, body)).await;
        let answer = exchange.map_err(|_| failed(&"no answer"))?.map_err(|error| failed(&error))?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        let value = answer.get_mut("value").map(Value::take).unwrap_or_default();
        // Only errors have this field; the rest of the message is a trace of chromedriver itself.
        match (value.get("error"), value.get("message").and_then(Value::as_str)) {
            (Some(_), message) => Err(failed(&message.unwrap_or_default().lines().next().unwrap_or_default())),
            (None, _) => Ok(value),
        }
    }

    async fn exchange(&self, method: &str, path: &str, body: &Value) -> io::Result<Vec<u8>> {
        let mut stream = tokio::io::BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        end(&mut self.watch);
    }
}

/// Ends the watch, and with it chromedriver and Chromium.
fn end(watch: &mut Child) {
    drop(watch.stdin.take());
    if let Err(error) = watch.wait() {
        eprintln!("private browser: its watch did not end: {error}");
    }
}

/// Reads the port from chromedriver's first lines.
fn port_in(output: &mut BufReader<ChildStdout>) -> io::Result<u16> {
    let mut line = String::new();
    while output.read_line(&mut line)? > 0 {
        let port = line.split("on port ").nth(1).map(|rest| rest.trim_end().trim_end_matches('.'));
        if let Some(Ok(port)) = port.filter(|_| line.contains("successfully")).map(str::parse) {
            return Ok(port);
        }
        line.clear();
    }
    let advice = "chromedriver does not run; on Debian: apt-get install chromium chromium-driver";
    Err(io::Error::new(ErrorKind::NotFound, advice))
}

fn failure(call: &str, why: &dyn ToString) -> BrowserError {
    BrowserError { call: call.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "data:text/html,<title>A</title><input id=field><p>no</p><script>console.error('oh')</script>";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_is_read_typed_into_and_its_console_kept() {
        let browser = Browser::start().await.unwrap();
        browser.open(PAGE).await.unwrap();
        browser.type_into("#field", "mug").await.unwrap();
        browser.press("s").await.unwrap();
        assert_eq!(browser.wait("document.querySelector('input').value").await.unwrap(), Value::from("mugs"));
        let entries = browser.console().await.unwrap();
        assert!(
            entries.iter().any(|entry| entry.source == "console-api" && entry.message.contains("oh")),
            "{entries:?}"
        );
        browser.prefer_colours("dark").await.unwrap();
        assert_eq!(
            browser.run("return matchMedia('(prefers-color-scheme: dark)').matches").await.unwrap(),
            Value::Bool(true)
        );
        let error = browser.run("throw new Error('why not')").await.unwrap_err().to_string();
        assert!(error.contains("why not"), "{error}");
        assert!(browser.screenshot().await.unwrap().starts_with("iVBOR"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_remains_of_a_browser() {
        let browser = Browser::start().await.unwrap();
        let folder = browser.driver.folder.clone();
        let running = || processes_with(&folder);
        assert!(folder.exists() && running() > 1);
        drop(browser);
        assert!(!folder.exists());
        crate::eventually("its processes end", || running() == 0).await;
    }

    /// Counts the processes in whose command a folder is named.
    fn processes_with(folder: &std::path::Path) -> usize {
        let name = folder.display().to_string();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        commands.filter(|command| String::from_utf8_lossy(command).contains(&name)).count()
    }
}
