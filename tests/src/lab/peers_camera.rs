//! Real programs that play cameras on the network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Place, Proc, program};

/// The longest a camera may take to be ready on a busy machine.
const START: Duration = Duration::from_mins(2);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name)
}

/// Starts an RTSP camera (gst-rtsp-server, port 8554) with every coding that can be encoded here, open or behind a
/// digest log-in `[user, password]`; gives the names of its streams too.
pub async fn rtsp_camera(
    place: &Place,
    login: &[&str],
    logs: &Path,
) -> Result<(Proc, Vec<String>)> {
    let proc = place
        .run("/usr/bin/python3")
        .arg(script("rtsp_camera.py"))
        .args([place.addr().to_string().as_str(), "8554"])
        .args(login)
        // Its registry of plugins: several at a time must not write the same one.
        .env("GST_REGISTRY", logs.join(format!("{}-gst", place.name())))
        .log(logs.join(format!("{}-rtsp.log", place.name())))
        .spawn()
        .await?;
    let ready = proc.wait_line("ready", START).await?;
    let kinds = ready.split_whitespace().skip(1).map(str::to_owned);
    Ok((proc, kinds.collect()))
}

/// Starts an HTTP server (port 8080) that gives `picture` at `/snapshot.jpg` behind a digest log-in.
pub async fn snapshots(
    place: &Place,
    picture: &Path,
    login: &[&str; 2],
    logs: &Path,
) -> Result<Proc> {
    let proc = place
        .run("/usr/bin/python3")
        .arg(script("snapshot.py"))
        .args([place.addr().to_string().as_str(), "8080"])
        .arg(picture)
        .args(login)
        .log(logs.join(format!("{}-snapshot.log", place.name())))
        .spawn()
        .await?;
    proc.wait_line("ready", START).await?;
    Ok(proc)
}

/// Builds the ONVIF face of a camera, which is no member of this workspace, once and where the other programs are.
fn onvif_program() -> Result<PathBuf> {
    let manifest = script("onvif-camera").join("Cargo.toml");
    let target = program("mantel-gateway")?;
    let target = target.parent().context("a folder")?.join("peers");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    ensure!(built.success(), "the ONVIF camera could not be built");
    Ok(target.join("debug/onvif-camera"))
}

/// Starts the ONVIF services of a camera (port 8000), found by WS-Discovery, that names this stream and snapshot.
pub async fn onvif_service(
    place: &Place,
    stream: &str,
    snapshot: &str,
    login: &[&str; 2],
    logs: &Path,
) -> Result<Proc> {
    let proc = place
        .run(onvif_program()?)
        .args([place.addr().to_string().as_str(), "8000", stream, snapshot])
        .args(login)
        .log(logs.join(format!("{}-onvif.log", place.name())))
        .spawn()
        .await?;
    proc.wait_line("ready", START).await?;
    Ok(proc)
}
