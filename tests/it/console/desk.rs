//! A browser before a gateway of its own.

use std::{io::BufRead, path::Path, process::Command, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_testkit::{Browser, ConsoleEntry};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    clients::installed_from,
    program::{Folder, Run, Running, repository},
};

/// A tenant with all rights, who sits at the desk, and another one.
const TENANTS: [(&str, &[&str]); 2] = [("acme", &["jobs", "admin"]), ("stranger", &["jobs"])];

/// A browser, and a gateway with all roles and the mini bundle in one process.
pub(super) struct Desk {
    pub(super) browser: Browser,
    pub(super) folder: Folder,
    /// The source of axe-core.
    pub(super) axe: String,
    address: String,
    keys: Vec<String>,
    program: Running,
}

impl Desk {
    /// Starts both and opens the console.
    pub(super) async fn open() -> Self {
        let axe = installed_from("tests/fixtures/axe", "axe", &["package-lock.json", "package.json"], |folder| {
            let mut install = Command::new("npm");
            install.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
            vec![install]
        });
        let axe = std::fs::read_to_string(axe.join("node_modules/axe-core/axe.min.js")).expect("axe-core is installed");
        let folder = Folder::new();
        let keys = TENANTS.map(|(tenant, scopes)| new_key(&folder, tenant, scopes)).to_vec();
        let (program, address) = start(&folder, "127.0.0.1:0");
        let browser = Browser::start().await.unwrap_or_else(|error| panic!("{error}"));
        browser.open(&address).await.expect("the console opens");
        Self { browser, folder, axe, address, keys, program }
    }

    /// Kills the program, and starts it again at the same address.
    pub(super) fn kill_and_restart(&mut self) {
        self.program.signal(Signal::KILL);
        self.program.end(Duration::from_secs(10));
        let address = self.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        (self.program, _) = start(&self.folder, &address);
    }

    /// The same, signed in.
    pub(super) async fn signed_in() -> Self {
        let desk = Self::open().await;
        desk.sign_in().await;
        desk
    }

    pub(super) async fn sign_in(&self) {
        self.browser.type_into("#key", &self.keys[0]).await.expect("the sign-in page is there");
        self.browser.click(".primary").await.expect("it has a button");
        self.expect("document.querySelector('.tenant')?.innerText === 'acme' && document.querySelector('h1') !== null")
            .await;
    }

    /// Waits until an expression is true of the page.
    #[track_caller]
    pub(super) fn expect<'a>(&'a self, expression: &'a str) -> impl Future<Output = Value> + 'a {
        let place = std::panic::Location::caller();
        async move { self.browser.wait(expression).await.unwrap_or_else(|error| panic!("{place}: {error}")) }
    }

    /// Opens a page by its address, and waits until it is there.
    pub(super) async fn go(&self, page: &str) {
        self.browser.run(&format!("location.hash = '#/{page}'")).await.expect("the page is there");
        self.expect("document.querySelector('h1') !== null").await;
    }

    /// Presses the button that is visible and has these words.
    pub(super) async fn press_button(&self, words: &str) {
        let find = format!(
            "[...document.querySelectorAll('dialog button, button')].find((one) => one.innerText === '{words}' && \
             one.offsetParent && !one.disabled)"
        );
        self.expect(&format!("({find}) !== undefined")).await;
        self.browser.run(&format!("{find}.click()")).await.expect("it can be pressed");
    }

    /// Checks that neither an error nor a breach of the policy is on the page's console; refusals that a test asked for are
    /// no errors.
    pub(super) async fn no_complaints(&self) {
        let is_refusal = |entry: &ConsoleEntry| {
            entry.source == "network" && ["401", "404"].iter().any(|status| entry.message.contains(status))
        };
        let entries = self.browser.console().await.expect("the console can be read");
        let complaints: Vec<_> = entries.into_iter().filter(|entry| !is_refusal(entry)).collect();
        assert_eq!(complaints, Vec::new());
    }

    /// Stores a picture of the repository; returns how jobs name it.
    pub(super) async fn store(&self, picture: &str) -> String {
        let bytes = std::fs::read(repository("examples/subjects").join(picture)).expect("the picture is there");
        let answer = self.as_tenant(0, "POST", "/v1/images", "image/png", &BASE64_STANDARD.encode(bytes)).await;
        answer["image"].as_str().expect("the picture is stored").to_owned()
    }

    /// Has another tenant make a picture; returns the job's id.
    pub(super) async fn job_of_a_stranger(&self) -> String {
        let bytes = std::fs::read(repository("examples/subjects/cat.png")).expect("the picture is there");
        let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes));
        let job = json!({"prompt": "a cat in a secret garden", "subject": {"image": image}});
        let answer =
            self.as_tenant(1, "POST", "/v1/jobs", "application/json", &BASE64_STANDARD.encode(job.to_string())).await;
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Has so many jobs parked; returns their ids.
    pub(super) async fn parked_jobs(&self, number: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for at in 0..number {
            let image = "https://127.0.0.1:1/mug.png";
            let job = json!({"id": format!("parked-{at}"), "prompt": "a mug", "subject": {"image": image}}).to_string();
            let answer = self.as_tenant(0, "POST", "/v1/jobs", "application/json", &BASE64_STANDARD.encode(job)).await;
            ids.push(answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
        }
        for id in &ids {
            self.go(&format!("job/{id}")).await;
            self.expect("document.querySelector('.badge')?.innerText === 'parked'").await;
        }
        ids
    }

    /// Sends a request with a tenant's key, from the page but without its cookie. The body is in base64.
    async fn as_tenant(&self, tenant: usize, method: &str, path: &str, kind: &str, body: &str) -> Value {
        let key = &self.keys[tenant];
        let script = format!(
            "const done = arguments[0];
             const body = Uint8Array.from(atob('{body}'), (character) => character.charCodeAt(0));
             const headers = {{ authorization: 'Bearer {key}', 'content-type': '{kind}' }};
             const request = {{ method: '{method}', body, headers, credentials: 'omit' }};
             fetch('{path}', request).then((answer) => answer.json()).then(done, done);"
        );
        self.browser.run_async(&script).await.expect("the gateway answers")
    }

    /// Writes a screenshot to the folder that `ECHOGEN_TEST_SCREENSHOTS` names, if it does; for the documentation.
    pub(super) async fn keep_screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("ECHOGEN_TEST_SCREENSHOTS") else { return };
        let picture = self.browser.screenshot().await.expect("a picture of the page");
        let bytes = BASE64_STANDARD.decode(picture).expect("it is base64");
        std::fs::write(Path::new(&folder).join(name).with_extension("png"), bytes).expect("the folder is writable");
    }
}

/// Starts all roles and the gateway; returns the address of the console.
fn start(folder: &Folder, listen: &str) -> (Running, String) {
    let mut command =
        folder.command(&["up", "--gateway", listen, "--gateway-admin-listen", listen, "--bundle", "mini"]);
    command.args(["--gateway-tenants", "tenants.toml", "--store-url", "out", "--threads", "1"]);
    // So a job is parked whose picture is on a server that is away.
    command.args(["--worker-max-attempts", "1", "--fetch-allowed-networks", "127.0.0.0/8"]);
    let (program, mut output) = Running::start_and_read(command);
    let mut line = String::new();
    output.read_line(&mut line).expect("the program says where it listens");
    (program, line.trim().trim_start_matches("console ").to_owned())
}

/// Makes a key in the folder's `tenants.toml`.
fn new_key(folder: &Folder, tenant: &str, scopes: &[&str]) -> String {
    let mut command = folder.command(&["keys", "new", "--tenant", tenant, "--file", "tenants.toml"]);
    for scope in scopes {
        command.args(["--scope", scope]);
    }
    let run = Run::of(command).expect(0);
    run.stdout.split_whitespace().find(|word| word.starts_with("eg_")).expect("the key is printed once").to_owned()
}
