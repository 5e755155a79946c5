//! A real browser: Chromium without a window, told what to do over WebDriver (W3C), as its makers' own tests do.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    process::Process,
    wait::{LIMIT, eventually_some},
};

/// One window. Gone, with all its processes, on drop.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    runtime: Runtime,
    _driver: Process,
    _dir: TempDir,
}

impl Browser {
    /// Opens an empty window of this size, in pixels.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-browser-").tempdir()?;
        let log = dir.path().join("log");
        // In a pid namespace of its own: when the first process is killed, the kernel kills all others.
        let driver = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", "--port=0"])
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .spawn()
            .context("start chromedriver: run `cargo xtask setup`")?;
        let driver = Process::new(driver, "chromedriver");
        let port = eventually_some(LIMIT, "chromedriver says its port", || {
            let said = fs::read_to_string(&log)?;
            let port =
                said.split("successfully on port ").nth(1).and_then(|rest| rest.split_once('.'));
            Ok(port.map(|(port, _)| port.to_owned()))
        })?;
        let profile = dir.path().join("profile").display().to_string();
        let args = [
            "--headless=new",
            // Its sandbox is not for root.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--force-color-profile=srgb",
            &format!("--window-size={width},{height}"),
            &format!("--user-data-dir={profile}"),
        ];
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": args } });
        let Value::Object(wanted) = wanted else { bail!("no object") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(
            ClientBuilder::new(HttpConnector::new())
                .capabilities(wanted)
                .connect(&format!("http://127.0.0.1:{port}")),
        );
        Ok(Self { client: client?, runtime, _driver: driver, _dir: dir })
    }

    /// Goes to an address.
    pub fn open(&self, url: &str) -> Result<()> {
        self.runtime.block_on(self.client.goto(url)).with_context(|| format!("open {url}"))
    }

    /// What a script in the page returns.
    pub fn run(&self, script: &str) -> Result<Value> {
        let value = self.runtime.block_on(self.client.execute(script, Vec::new()));
        value.with_context(|| format!("run {script}"))
    }

    /// The text of an element as people see it; empty if there is none.
    pub fn text(&self, css: &str) -> Result<String> {
        let css = json!(css);
        let text = self.run(&format!("return document.querySelector({css})?.innerText ?? ''"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the element has this text in it, and returns all of it.
    pub fn await_text(&self, css: &str, wanted: &str) -> Result<String> {
        let mut last = String::new();
        eventually_some(LIMIT, &format!("{css} says {wanted:?}"), || {
            last = self.text(css)?;
            Ok(last.contains(wanted).then(|| last.clone()))
        })
        .with_context(|| format!("it says {last:?}"))
    }

    /// Waits until a script returns true.
    pub fn await_true(&self, script: &str) -> Result<()> {
        eventually_some(
            LIMIT,
            script,
            || Ok((self.run(script)? == Value::Bool(true)).then_some(())),
        )
    }

    /// Types into whatever has the focus, as a person does.
    pub fn press(&self, keys: &str) -> Result<()> {
        self.runtime
            .block_on(async { Ok(self.client.active_element().await?.send_keys(keys).await?) })
    }

    /// The window, as a PNG.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.runtime.block_on(self.client.screenshot())?)
    }
}
