//! A Pod running, from nothing, in a minute: what the README's first command does.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::host::{self, build_release, ensure_packages, kubectl, need_root};
use crate::images;

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata:
  name: hello
spec:
  containers:
  - name: hello
    image: busybox:1.36
    imagePullPolicy: IfNotPresent
    command: ["sh", "-c", "echo Hello from $(hostname), a Pod at $(hostname -i); exec sleep 3600"]
"#;

/// Builds, starts a node in the background, runs a Pod and shows it.
pub(crate) fn run(data_dir: &Path) -> Result<()> {
    need_root("a node")?;
    ensure_packages(&[("nft", "nftables"), ("busybox", "busybox-static")])?;
    let kubectl = kubectl()?;
    println!("building (the first time takes some minutes)");
    let monopod = build_release(&["monopod"])?.join("monopod");
    if data_dir.exists() {
        host::run(Command::new(&monopod).arg("down").arg("--purge").arg("--data-dir").arg(data_dir))?;
    }
    let image = images::build_busybox()?;
    let kubeconfig = start(&monopod, data_dir)?;
    host::run(Command::new(&monopod).args(["image", "import"]).arg(image).arg("--data-dir").arg(data_dir))?;
    let k = |words: &[&str]| {
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig").arg(&kubeconfig).args(words);
        command
    };
    apply(k(&["apply", "-f", "-"]))?;
    host::run(&mut k(&["wait", "--for=condition=Ready", "pod/hello", "--timeout=60s"]))?;
    host::run(&mut k(&["get", "pods", "-o", "wide"]))?;
    host::run(&mut k(&["logs", "hello"]))?;
    println!(
        "\nThe node keeps running. Go on with:\n  export KUBECONFIG={}\n  kubectl exec -it hello -- sh\n  kubectl describe pod hello\n  kubectl delete pod hello\nand end it with:\n  {} down --purge --data-dir {}",
        kubeconfig,
        monopod.display(),
        data_dir.display()
    );
    Ok(())
}

/// Starts the node with its log in the data directory and waits for its two lines.
fn start(monopod: &Path, data_dir: &Path) -> Result<String> {
    std::fs::create_dir_all(data_dir)?;
    let log = data_dir.join("monopod.log");
    let mut child = Command::new(monopod)
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| format!("cannot start {}", monopod.display()))?;
    let stdout = child.stdout.take().context("the node has no output")?;
    let mut ready = false;
    for line in BufReader::new(stdout).lines().take(2) {
        let line = line?;
        println!("{line}");
        ready |= line.contains("Ready");
    }
    ensure!(ready, "the node did not become Ready; its log is {}", log.display());
    Ok(data_dir.join("kubeconfig").display().to_string())
}

fn apply(mut kubectl: Command) -> Result<()> {
    let mut child = kubectl.stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("kubectl has no input")?.write_all(POD.as_bytes())?;
    ensure!(child.wait()?.success(), "kubectl apply failed");
    Ok(())
}
