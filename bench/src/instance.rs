//! A Monopod of our own: temporary data directory, free port, gone at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::connection::Access;

/// A running program.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    dir: TempDir,
    /// Where it listens.
    pub(crate) access: Access,
    /// Where it serves Ingresses over HTTP.
    pub(crate) ingress: SocketAddr,
    /// From exec to the line that says the API answers.
    pub(crate) api_after: Duration,
    /// From exec to the line that says the node is Ready.
    pub(crate) ready_after: Duration,
    started: Instant,
}

fn program() -> PathBuf {
    std::env::var_os("MONOPOD").map_or_else(|| "monopod".into(), PathBuf::from)
}

/// The program's size, MiB.
pub(crate) fn program_size() -> Result<f64> {
    let path = program();
    let file = std::fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(file.len() as f64 / (1 << 20) as f64)
}

impl Instance {
    /// Imports the images, starts the program and waits for its two lines.
    pub(crate) async fn start(images: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("monopod-bench-").tempdir()?;
        for image in images {
            import(dir.path(), image).await?;
        }
        Self::start_in(dir).await
    }

    async fn start_in(dir: TempDir) -> Result<Self> {
        // Free at the moment; others may measure at the same time.
        let ingress = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let started = Instant::now();
        let mut child = Command::new(program())
            .args(["up", "--listen", "127.0.0.1:0", "--log-level", "warn"])
            .args(["--ingress-http", &ingress.to_string(), "--ingress-https", "off", "--data-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program().display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        lines.next_line().await?.context("monopod ended before its API answered")?;
        let api_after = started.elapsed();
        lines.next_line().await?.context("monopod ended before its node was Ready")?;
        let ready_after = started.elapsed();
        let access = Access::from_kubeconfig(&std::fs::read_to_string(dir.path().join("kubeconfig"))?)?;
        Ok(Instance { child, dir, access, ingress, api_after, ready_after, started })
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The shims of this instance.
    pub(crate) fn shims(&self) -> Vec<u32> {
        let here = self.dir.path().display().to_string();
        let daemon = self.pid();
        crate::process::with_argument(&program().display().to_string(), &here)
            .into_iter()
            .filter(|pid| *pid != daemon)
            .collect()
    }

    /// Since exec.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Kills the program without a word and starts it again on the same data.
    pub(crate) async fn crash_and_restart(mut self) -> Result<Self> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Self::start_in(self.dir).await
    }

    /// Removes everything the instance made.
    pub(crate) async fn end(mut self) -> Result<()> {
        let status = Command::new(program())
            .args(["down", "--purge", "--data-dir"])
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .status()
            .await?;
        self.child.wait().await?;
        ensure!(status.success(), "monopod down ended with {status}");
        Ok(())
    }
}

async fn import(dir: &Path, image: &str) -> Result<()> {
    let images = PathBuf::from(
        std::env::var_os("MONOPOD_TEST_IMAGES")
            .context("MONOPOD_TEST_IMAGES names the folder of the test images")?,
    );
    let status = Command::new(program())
        .args(["image", "import"])
        .arg(images.join(image))
        .arg("--data-dir")
        .arg(dir)
        .stdout(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "importing {image} ended with {status}");
    Ok(())
}
