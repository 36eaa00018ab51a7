//! A real Chromium without a screen, driven through its DevTools protocol.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let browser = testkit::browser::Browser::start()?;
//! let mut page = browser.open("http://127.0.0.1:8935/#token=...")?;
//! page.wait("a card", "document.querySelector('.card')");
//! page.screenshot(std::path::Path::new("wall.png"))?;
//! # Ok(())
//! # }
//! ```

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::PATIENCE;
use crate::process::{Process, find};

/// The names under which systems have it.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// How long one command may take: a screenshot on a busy machine takes seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two looks at a page.
const PAUSE: Duration = Duration::from_millis(50);
/// What a page complains of is kept up to here.
const MAX_COMPLAINTS: usize = 100;

/// A running Chromium with a profile of its own; killed when dropped.
#[derive(Debug)]
pub struct Browser {
    control: SocketAddr,
    path: String,
    process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts it and waits until it can be driven.
    ///
    /// # Panics
    ///
    /// If it is not installed.
    ///
    /// # Errors
    ///
    /// If it is not ready in time; the error carries what it said.
    pub fn start() -> Result<Self> {
        Self::with(&[])
    }

    /// As [`start`](Self::start), with more arguments.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(arguments: &[&str]) -> Result<Self> {
        let program = PROGRAMS.into_iter().find_map(find);
        let program = program.expect("chromium is not installed: run ./check, which installs it");
        let profile = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command
            .args(["--headless", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // Its sandbox cannot be had by root, nor in many containers; the pages are our own.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--mute-audio"])
            .args(arguments)
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut process = Process::start("chromium", &mut command, &profile.path().join("log"))?;
        let told = profile.path().join("DevToolsActivePort");
        let start = Instant::now();
        let (port, path) = loop {
            let text = fs::read_to_string(&told).unwrap_or_default();
            if let Some((port, path)) = text.trim().split_once('\n') {
                break (port.parse()?, path.to_owned());
            }
            if !process.is_running() || start.elapsed() > 2 * PATIENCE {
                bail!("chromium is not ready:\n{}", process.stderr());
            }
            std::thread::sleep(PAUSE);
        };
        Ok(Self { control: ([127, 0, 0, 1], port).into(), path, process, _profile: profile })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Opens a new tab of 1280x900 with this address and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn open(&self, url: &str) -> Result<Page> {
        let mut control = Page::connect(self.control, &self.path)?;
        let made = control.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let target = made["targetId"].as_str().context("a target")?;
        let mut page = Page::connect(self.control, &format!("/devtools/page/{target}"))?;
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({}))?;
        }
        page.resize(1280, 900)?;
        page.goto(url)?;
        Ok(page)
    }
}

/// A tab of a [`Browser`]; it is closed with the browser.
#[derive(Debug)]
pub struct Page {
    socket: WebSocket<TcpStream>,
    next: u64,
    complaints: Vec<String>,
}

impl Page {
    fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let (socket, _) = tungstenite::client(format!("ws://{address}{path}"), stream)
            .map_err(|error| anyhow::anyhow!("the DevTools of chromium: {error}"))?;
        Ok(Self { socket, next: 0, complaints: Vec::new() })
    }

    /// Calls a method of the DevTools protocol and returns its result.
    ///
    /// # Errors
    ///
    /// If the browser refuses it, or does not answer in time.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.next += 1;
        let mut call = json!({ "id": self.next, "method": method });
        call["params"] = parameters;
        self.socket.send(Message::text(call.to_string()))?;
        loop {
            let message = self.socket.read().with_context(|| format!("no answer to {method}"))?;
            let Message::Text(text) = message else { continue };
            let mut message: Value = serde_json::from_str(&text)?;
            if message["id"] != self.next {
                self.note(&message);
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message["result"].take());
        }
    }

    /// Remembers what the page complains of.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &parameters["exceptionDetails"],
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                &parameters["entry"]["text"]
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                &parameters["args"]
            }
            _ => return,
        };
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(complaint.to_string());
        }
    }

    /// What went wrong in the page so far: exceptions, errors on its console, violations of its
    /// policy, requests that failed.
    ///
    /// # Errors
    ///
    /// If the browser does not answer.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // What was said before the answer has been read with it.
        self.call("Runtime.evaluate", json!({ "expression": "0" }))?;
        Ok(self.complaints.clone())
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// If there is nothing, or it is not loaded in time.
    pub fn goto(&mut self, url: &str) -> Result<()> {
        let gone = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.wait("a page that is loaded", "document.readyState === 'complete'");
        Ok(())
    }

    /// The value of an expression, as JSON; a promise is waited for.
    ///
    /// # Errors
    ///
    /// What the page threw.
    pub fn eval(&mut self, script: &str) -> Result<Value> {
        let parameters =
            json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{script}: {}", thrown["exception"]["description"]);
        }
        Ok(answer["result"]["value"].take())
    }

    /// Polls until an expression is neither false, null, 0 nor empty, and returns its value; an
    /// element counts as `true`.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`], with what the page shows.
    #[track_caller]
    pub fn wait(&mut self, what: &str, script: &str) -> Value {
        let script = format!(
            "(async () => {{ const v = await ({script}); return v instanceof Node || v; }})()"
        );
        let start = Instant::now();
        loop {
            // A page that is being replaced throws.
            let value = self.eval(&script).unwrap_or(Value::Null);
            let is_empty = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if !is_empty {
                return value;
            }
            if start.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText").unwrap_or_default();
                let complaints = self.complaints().unwrap_or_default();
                panic!(
                    "{what}: not within {PATIENCE:?}. The page complains of {complaints:?} and shows:\n{text}"
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Presses the left button on the middle of the first element of a selector, as a person does.
    ///
    /// # Panics
    ///
    /// If there is no such element within [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    #[track_caller]
    pub fn click(&mut self, selector: &str) -> Result<()> {
        let element = format!("document.querySelector({})", Value::from(selector));
        self.click_on(selector, &element)
    }

    /// The same with the button of this label, in the first element of a selector.
    ///
    /// # Panics
    ///
    /// As [`click`](Self::click).
    ///
    /// # Errors
    ///
    /// As [`click`](Self::click).
    #[track_caller]
    pub fn click_button(&mut self, within: &str, label: &str) -> Result<()> {
        let element = format!(
            "[...(document.querySelector({})?.querySelectorAll('button') ?? [])] \
             .find((button) => button.textContent.trim() === {})",
            Value::from(within),
            Value::from(label)
        );
        self.click_on(&format!("the button {label:?} in {within}"), &element)
    }

    #[track_caller]
    fn click_on(&mut self, what: &str, element: &str) -> Result<()> {
        // Nobody clicks at what is just moving.
        let script = format!(
            "(async () => {{ const e = {element}; if (!e) return null; \
             e.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const at = () => {{ const r = e.getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }}; \
             const before = at(); \
             await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))); \
             const [x, y] = at(); \
             const hit = e.contains(document.elementFromPoint(x, y)); \
             return hit && x === before[0] && y === before[1] ? [x, y] : null; }})()"
        );
        let place = self.wait(what, &script);
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": button, "buttons": buttons,
                "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event)?;
        }
        Ok(())
    }

    /// Clicks into the first field of a selector and types a text after what is there.
    ///
    /// # Panics
    ///
    /// As [`click`](Self::click).
    ///
    /// # Errors
    ///
    /// As [`click`](Self::click).
    #[track_caller]
    pub fn type_into(&mut self, selector: &str, text: &str) -> Result<()> {
        self.click(selector)?;
        self.type_text(text)
    }

    /// Brings the tab to the front: the one that was opened last hides the others, which then rest.
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn to_front(&mut self) -> Result<()> {
        self.call("Page.bringToFront", json!({})).map(drop)
    }

    /// Writes what the page downloads into this directory, without asking.
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn downloads(&mut self, directory: &Path) -> Result<()> {
        let how = json!({ "behavior": "allow", "downloadPath": directory });
        self.call("Browser.setDownloadBehavior", how).map(drop)
    }

    /// Presses a key such as `Enter`, `Tab` or `Escape` where the focus is.
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            " " => (32, " "),
            _ => (0, ""),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Types a text where the focus is.
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({ "text": text })).map(drop)
    }

    /// Gives the page this size, as that of a telephone (390x844).
    ///
    /// # Errors
    ///
    /// If the browser does not do so.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    /// Writes what the page looks like into a PNG file.
    ///
    /// # Errors
    ///
    /// If the browser does not draw it, or the file cannot be written.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let data = shot["data"].as_str().context("a picture")?;
        fs::write(path, BASE64_STANDARD.decode(data)?)
            .with_context(|| format!("{}", path.display()))
    }
}

/// What the QR codes in a picture say, read by zbar.
///
/// # Panics
///
/// If zbarimg is not installed.
///
/// # Errors
///
/// If the picture cannot be read.
#[track_caller]
pub fn qr_codes(picture: &Path) -> Result<Vec<String>> {
    let program =
        find("zbarimg").expect("zbarimg is not installed: run ./check, which installs it");
    let output = Command::new(program)
        .args(["--quiet", "--raw", "-Sdisable", "-Sqrcode.enable"])
        .arg(picture)
        .output()?;
    // It fails where there is none, and says nothing then.
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !said.trim().is_empty() {
        bail!("zbarimg cannot read {}: {said}", picture.display());
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_driven() {
        let browser = Browser::start().unwrap();
        let page = "data:text/html,<button onclick='this.textContent = 7'>1</button><input>";
        let mut page = browser.open(page).unwrap();
        page.click("button").unwrap();
        assert_eq!(
            page.wait("a seven", "Number(document.querySelector('button').textContent) - 1"),
            6
        );
        page.click_button("body", "7").unwrap();
        page.type_into("input", "abc").unwrap();
        assert_eq!(page.eval("document.querySelector('input').value").unwrap(), "abc");
        assert_eq!(page.eval("Promise.resolve([1, null])").unwrap(), json!([1, null]));
        assert!(page.eval("nothing.at.all").unwrap_err().to_string().contains("ReferenceError"));
        assert_eq!(page.complaints().unwrap(), Vec::<String>::new());
        page.eval("console.error('oh')").unwrap();
        assert!(page.complaints().unwrap()[0].contains("oh"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shot.png");
        page.resize(320, 200).unwrap();
        page.screenshot(&file).unwrap();
        assert!(fs::read(&file).unwrap().starts_with(b"\x89PNG"));
        assert_eq!(qr_codes(&file).unwrap(), Vec::<String>::new());
    }
}
