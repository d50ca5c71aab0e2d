//! Chromium, driven through its WebDriver.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fantoccini::actions::{InputSource, KeyAction, KeyActions, MouseActions, PointerAction};
use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the page may take for anything. Tests wait only as long as it actually takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a browser of its own, closed afterwards. The page must leave no error in the console; expected ones
/// must be [taken](Page::take_errors).
pub fn in_browser(test: impl AsyncFnOnce(&Page)) {
    let Some(programs) = Programs::find() else { return };
    let driver = Driver::start(&programs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let page = Page { client: runtime.block_on(connect(&driver, &programs)) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            page.resize([1280, 900]).await;
            test(&page).await;
            page.assert_no_errors().await;
        });
    }));
    if outcome.is_err() {
        let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        if let Ok(picture) = runtime.block_on(page.client.screenshot()) {
            fs::write(&path, picture).unwrap();
            eprintln!("what the browser showed: {}", path.display());
        }
    }
    // Without this the driver would leave the browser running.
    let closed = runtime.block_on(page.client.close());
    drop(driver);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    closed.unwrap();
}

struct Programs {
    driver: PathBuf,
    browser: PathBuf,
}

impl Programs {
    /// The paths of both programs, if they are installed.
    fn find() -> Option<Programs> {
        static SAID: Once = Once::new();
        let (driver, browser) = (program("chromedriver"), program("chromium"));
        if let (Some(driver), Some(browser)) = (&driver, &browser) {
            return Some(Programs { driver: driver.clone(), browser: browser.clone() });
        }
        let missing = if browser.is_none() { "chromium" } else { "chromedriver" };
        assert!(env::var_os("VQA_REQUIRE_BROWSER").is_none_or(|value| value != "1"), "{missing} is not installed");
        SAID.call_once(|| {
            // Not with a macro: its output is captured, and not shown for tests that pass.
            let line = format!("skipped: {missing} is not installed: make test-browser installs it\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        });
        None
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A process that is killed on drop.
struct Driver {
    process: Child,
    port: u16,
    /// Kept open, so that the driver can write to it.
    _stdout: BufReader<ChildStdout>,
    /// For the browser's temporary files.
    _directory: TempDir,
}

impl Driver {
    fn start(programs: &Programs) -> Driver {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(&programs.driver);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        for variable in ["TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, directory.path());
        }
        let mut process = command.spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "chromedriver has ended");
            if let Some((_, port)) = line.trim_end().trim_end_matches('.').split_once("successfully on port ") {
                break port.parse().unwrap();
            }
        };
        Driver { process, port, _stdout: stdout, _directory: directory }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(driver: &Driver, programs: &Programs) -> Client {
    // In containers /dev/shm is small.
    let mut arguments = vec!["--headless", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"];
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        arguments.push("--no-sandbox");
    }
    let capabilities = json!({
        "goog:chromeOptions": {"binary": programs.browser, "args": arguments},
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"script": PATIENCE.as_millis() as u64},
    });
    let Value::Object(capabilities) = capabilities else { unreachable!() };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{}", driver.port)).await.unwrap()
}

/// A command that is not in the WebDriver standard.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

/// A page as a user sees and uses it. Anything that does not happen within [`PATIENCE`] fails the test.
pub struct Page {
    client: Client,
}

impl Page {
    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Returns the console's warnings and errors since the last call: exceptions, resources that failed to load, and
    /// those that the content security policy blocked.
    pub async fn take_errors(&self) -> Vec<String> {
        let log = Extension { path: "se/log", body: json!({"type": "browser"}) };
        let entries = self.client.issue_cmd(log).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        let wrong = entries.filter(|entry| ["WARNING", "SEVERE"].contains(&entry["level"].as_str().unwrap()));
        wrong.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn assert_no_errors(&self) {
        assert_eq!(self.take_errors().await, Vec::<String>::new(), "errors in the console");
    }

    /// Sends a command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.client.issue_cmd(Extension { path: "goog/cdp/execute", body }).await.unwrap()
    }

    /// Sets the size of the viewport, which can be smaller than the smallest window.
    pub async fn resize(&self, [width, height]: [u32; 2]) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub async fn set_dark(&self, is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Runs a JavaScript function body, and returns its result.
    pub async fn js(&self, body: &str) -> Value {
        self.js_with(body, json!([])).await
    }

    /// Like [`Page::js`], with `arguments`.
    pub async fn js_with(&self, body: &str, arguments: Value) -> Value {
        let Value::Array(arguments) = arguments else { panic!("no list: {arguments}") };
        self.client.execute(body, arguments).await.unwrap_or_else(|error| panic!("{body}: {error}"))
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        let started = Instant::now();
        while self.js(&format!("return Boolean({expression})")).await != json!(true) {
            if started.elapsed() > PATIENCE {
                let text = self.js("return document.body.innerText").await;
                panic!("in vain: {expression}\nthe page says: {}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until an element is visible and contains this text.
    pub async fn until_says(&self, selector: &str, text: &str) {
        let [selector, text] = [json!(selector), json!(text)];
        self.until(&format!("document.querySelector({selector})?.innerText.includes({text})")).await;
    }

    pub async fn find(&self, selector: &str) -> Element {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("{selector}: {error}"))
    }

    pub async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Replaces the content of a field.
    pub async fn fill(&self, selector: &str, text: &str) {
        let field = self.find(selector).await;
        // As a user does it, since the driver's own method of clearing sends the page no events.
        let [control, delete] = [Key::Control, Key::Delete].map(char::from);
        field.click().await.unwrap();
        field.send_keys(&format!("{control}a{control}{delete}{text}")).await.unwrap();
    }

    /// The visible text of an element.
    pub async fn text(&self, selector: &str) -> String {
        self.find(selector).await.text().await.unwrap()
    }

    /// The visible texts of all matching elements.
    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let body = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText)";
        serde_json::from_value(self.js_with(body, json!([selector])).await).unwrap()
    }

    /// The number of matching elements.
    pub async fn count(&self, selector: &str) -> u64 {
        self.js_with("return document.querySelectorAll(arguments[0]).length", json!([selector])).await.as_u64().unwrap()
    }

    pub async fn is_seen(&self, selector: &str) -> bool {
        let body = "const element = document.querySelector(arguments[0]); return Boolean(element?.checkVisibility())";
        self.js_with(body, json!([selector])).await == json!(true)
    }

    pub async fn hover(&self, selector: &str) {
        let element = self.find(selector).await;
        let to = PointerAction::MoveToElement { element, duration: None, x: 0.0, y: 0.0 };
        self.client.perform_actions(MouseActions::new("mouse".to_owned()).then(to)).await.unwrap();
    }

    /// Moves the pointer to the corner of the page.
    pub async fn leave(&self) {
        let to = PointerAction::MoveTo { duration: None, x: 0.0, y: 0.0 };
        self.client.perform_actions(MouseActions::new("mouse".to_owned()).then(to)).await.unwrap();
    }

    pub async fn press(&self, key: Key) {
        self.press_char(key.into()).await;
    }

    /// Types a text into the focused element.
    pub async fn type_text(&self, text: &str) {
        for key in text.chars() {
            self.press_char(key).await;
        }
    }

    async fn press_char(&self, value: char) {
        let keys = KeyActions::new("keys".to_owned()).then(KeyAction::Down { value }).then(KeyAction::Up { value });
        self.client.perform_actions(keys).await.unwrap();
    }

    /// Simulates dropping a file with the events that the page gets, since a driver cannot drag one from the desktop.
    pub async fn drop_file(&self, name: &str, media_type: &str, bytes: &[u8]) {
        let body = "
            const [name, type, data] = arguments;
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
            for (const kind of ['dragenter', 'dragover', 'drop']) {
              const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
              document.querySelector('#stage').dispatchEvent(event);
              if (!event.defaultPrevented) throw new Error(kind + ' is left to the browser, which opens the file');
            }";
        self.js_with(body, json!([name, media_type, BASE64.encode(bytes)])).await;
    }

    /// The lowest contrast of any visible text with its background, and that text, computed as in the Web Content
    /// Accessibility Guidelines, which require 4.5. Disabled controls are exempt.
    pub async fn least_contrast(&self) -> (f64, String) {
        let found = self.js(include_str!("contrast.js")).await;
        (found["contrast"].as_f64().unwrap(), found["text"].as_str().unwrap().to_owned())
    }

    /// Fails if the page is wider than the screen.
    pub async fn assert_fits_width(&self, width: u32) {
        // Elements that scroll by themselves may contain wider content.
        let body = "return [...document.querySelectorAll('body *')]
            .filter((element) => element.checkVisibility() && !element.closest('svg, #examples *') &&
                element.getBoundingClientRect().right > arguments[0] + 0.5)
            .map((element) => element.outerHTML.slice(0, 100))";
        assert_eq!(self.js_with(body, json!([width])).await, json!([]), "beyond the edge");
        let found = self.js("return [innerWidth, document.scrollingElement.scrollWidth]").await;
        assert_eq!(found, json!([width, width]));
    }

    /// Saves a screenshot in the directory that `VQA_SCREENSHOTS` names, if it is set.
    pub async fn screenshot(&self, name: &str) {
        if let Some(directory) = env::var_os("VQA_SCREENSHOTS") {
            fs::create_dir_all(&directory).unwrap();
            let picture = self.client.screenshot().await.unwrap();
            fs::write(Path::new(&directory).join(format!("{name}.png")), picture).unwrap();
        }
    }
}
