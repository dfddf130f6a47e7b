//! The ONVIF face of a camera in the laboratory, by crate onvif-server: device service, media service, WS-Discovery.
//!
//! ```text
//! onvif-camera ADDRESS PORT STREAM SNAPSHOT USER PASSWORD
//! ```
//! STREAM and SNAPSHOT are the addresses that it tells; `-` for SNAPSHOT: it has none. It says "ready" when it listens.
#![allow(clippy::print_stdout, reason = "a program that its test reads")]

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use onvif_server::{
    DeviceInfo, DeviceService, MediaProfile, MediaService, OnvifError, OnvifServer,
};
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone)]
struct Camera {
    stream: String,
    snapshot: String,
}

#[async_trait]
impl DeviceService for Camera {
    async fn get_device_information(&self) -> Result<DeviceInfo, OnvifError> {
        Ok(DeviceInfo {
            manufacturer: "Mantel laboratory".to_owned(),
            model: "Garden camera".to_owned(),
            firmware_version: "1.0".to_owned(),
            serial_number: "LAB-0001".to_owned(),
            hardware_id: "lab-1".to_owned(),
        })
    }
}

#[async_trait]
impl MediaService for Camera {
    fn profiles(&self) -> Vec<MediaProfile> {
        vec![MediaProfile {
            token: "main".to_owned(),
            name: "Main".to_owned(),
            video_source_token: "source".to_owned(),
            width: 640,
            height: 360,
            encoding: "H264".to_owned(),
            framerate: 15,
            bitrate: 1000,
        }]
    }

    async fn get_stream_uri(&self, _profile: &str) -> Result<String, OnvifError> {
        Ok(self.stream.clone())
    }

    async fn get_snapshot_uri(&self, _profile: &str) -> Result<String, OnvifError> {
        if self.snapshot == "-" {
            return Err(OnvifError::NotImplemented);
        }
        Ok(self.snapshot.clone())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, port, stream, snapshot, user, password] = &arguments[..] else {
        bail!("usage: onvif-camera ADDRESS PORT STREAM SNAPSHOT USER PASSWORD");
    };
    let (ip, port): (IpAddr, u16) = (address.parse()?, port.parse()?);
    let camera = Camera {
        stream: stream.clone(),
        snapshot: snapshot.clone(),
    };
    let server = OnvifServer::builder()
        .port(port)
        .advertised_host(address)
        .device_service(camera.clone())
        .media_service(camera)
        .auth(user, password)
        .build()
        .context("building the ONVIF service")?;
    tokio::select! {
        ended = server.run() => ended.context("serving ONVIF")?,
        () = listening(ip, port) => bail!("it never ends by itself"),
    }
    Ok(())
}

/// Says so once the service listens, and waits for ever.
async fn listening(ip: IpAddr, port: u16) {
    while TcpStream::connect((ip, port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("ready");
    std::future::pending().await
}
