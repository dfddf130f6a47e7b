//! The guest with what hangs on it, and waiting for what its household sees.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mantel_tests::actors::status::{Device, Playing};
use mantel_tests::actors::{Household, Site, SiteBuilder};
use mantel_tests::lab::{Guest, GuestBuilder, Mode, Net, built, program, run, text};
use mantel_tests::media;

use super::tones;

/// The longest a step in the guest may take: the processor is emulated, and this machine does other things.
pub const STEP: Duration = Duration::from_mins(6);
/// The serial number of the memory stick that is there from the beginning.
pub const SERIAL: &str = "HOLIDAY01";
/// The serial number of the one that is put in and pulled out again.
pub const SLOW_SERIAL: &str = "SLOWSTICK1";
/// What the tone file on the stick is called.
pub const TONE_FILE: &str = "Tone.flac";
/// The tone on the stick, Hz.
pub const TONE: f64 = 997.0;
/// How long it sounds, seconds.
pub const SECONDS: u32 = 12;
/// Bytes per second that the second stick gives: its import is still under way when it is pulled out.
const SLOW: u32 = 1 << 20;

/// The guest, its household, and what was put into it.
pub struct Bench {
    pub home: Household,
    pub guest: Guest,
    pub photos: Vec<PathBuf>,
    /// The server, and two other homes whose gateways run beside the guest.
    pub site: Site,
    wavs: Wavs,
}

/// What QEMU writes while loudspeakers play; whole when QEMU has ended.
#[derive(Clone)]
pub struct Wavs {
    pub card: PathBuf,
    pub usb: PathBuf,
}

impl Bench {
    /// Boots, and moves in.
    pub async fn start() -> Result<Self> {
        let net = Net::two_homes().home("h", &["pc"]);
        let site = SiteBuilder::on(net.mode(Mode::Namespaces).up()?)
            .up()
            .await?;
        let net = &site.net;
        let folder = net.folder().to_owned();
        let photos = media::photos()?;
        let phone = folder.join("phone");
        std::fs::create_dir_all(phone.join("DCIM"))?;
        std::fs::copy(&photos[0], phone.join("DCIM/PHOTO1.JPG"))?;
        let (fast, slow) = sticks(&folder, &photos)?;
        let disc = folder.join("disc.img");
        std::fs::File::create(&disc)?.set_len(4 << 20)?;
        let server = server_disk(&folder)?;
        let wavs = Wavs {
            card: folder.join("card.wav"),
            usb: folder.join("usb.wav"),
        };
        let begun = Instant::now();
        let guest = GuestBuilder::new(&built("")?)
            // One camera at an input of the webcam kind; the cable from loudspeaker to line-in.
            .kernel("modules_load=vivid,snd-aloop vivid.node_types=0x1 vivid.n_devs=1")
            .device(&["-audiodev", &wav("card", &wavs.card)])
            .device(&["-device", "ich9-intel-hda"])
            .device(&["-device", "hda-output,audiodev=card"])
            .device(&["-audiodev", &wav("usbwav", &wavs.usb)])
            .device(&[
                "-drive",
                &format!(
                    "if=none,id=disc,format=raw,media=cdrom,file={}",
                    disc.display()
                ),
            ])
            .device(&["-device", "ide-cd,drive=disc"])
            .device(&[
                "-drive",
                &format!("if=virtio,format=raw,readonly=on,file={}", server.display()),
            ])
            .device(&["-device", "qemu-xhci,id=usb"])
            .device(&[
                "-device",
                &format!("usb-mtp,id=phone,rootdir={},desc=Phone", phone.display()),
            ])
            .device(&[
                "-drive",
                &format!("if=none,id=fast,format=raw,file={}", fast.display()),
                "-device",
                &format!("usb-storage,id=stick,drive=fast,serial={SERIAL},removable=on"),
            ])
            .device(&[
                "-drive",
                &format!(
                    "if=none,id=slow,format=raw,throttling.bps-read={SLOW},file={}",
                    slow.display()
                ),
            ])
            .start(net.home("h")?, &folder)
            .await?;
        guest.wait_up().await?;
        println!("boot: {:.1} s", begun.elapsed().as_secs_f64());
        let home = Household::move_in("h", &guest.url(), "a password for the guest").await?;
        Ok(Self {
            home,
            guest,
            photos,
            site,
            wavs,
        })
    }

    /// Ends QEMU, which completes the headers of its WAV files.
    pub async fn end(self) -> Result<(Wavs, Site)> {
        self.guest.quit().await?;
        Ok((self.wavs, self.site))
    }

    /// What the gateway logged, for an error.
    pub async fn journal(&self) -> String {
        let asked = self
            .guest
            .shell(
                "journalctl --no-pager --output=cat --lines=60 --unit=mantel-gateway; cat /proc/asound/cards; \
                 ls -l /dev/snd; journalctl --no-pager --boot --priority=warning --lines=30",
            );
        asked.await.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits for a device whose row fits.
    pub async fn device(&self, what: &str, fits: impl Fn(&Device) -> bool) -> Result<Device> {
        self.home
            .wait(what, STEP, |status| {
                let online = |d: &&Device| d.state == "online" && fits(d);
                status.devices.iter().find(online).cloned()
            })
            .await
    }

    /// Waits until a device that was pulled out is gone.
    pub async fn gone(&self, device: &Device) -> Result<()> {
        self.home
            .wait(&format!("{} to be gone", device.name), STEP, |status| {
                let here = |d: &Device| d.id == device.id && d.state == "online";
                (!status.devices.iter().any(here)).then_some(())
            })
            .await
    }

    /// Waits until what plays on a device fits.
    pub async fn playing(
        &self,
        device: &Device,
        what: &str,
        fits: impl Fn(&Playing) -> bool,
    ) -> Result<Playing> {
        self.home
            .wait(what, STEP, |status| {
                let row = status.playing.iter().find(|row| row.device == device.id)?;
                fits(row).then(|| row.clone())
            })
            .await
    }

    /// Waits until a device plays nothing any more.
    pub async fn quiet(&self, device: &Device) -> Result<()> {
        self.home
            .wait("the tone to end", STEP, |status| {
                let over = |row: &Playing| row.device != device.id || row.state == "stopped";
                status.playing.iter().all(over).then_some(())
            })
            .await
    }
}

/// Runs a step and prints how long it took.
pub async fn timed<T>(what: impl Display, step: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    let done = step.await.with_context(|| what.to_string());
    println!("  {what}: {:.1} s", begun.elapsed().as_secs_f64());
    done
}

/// A disk with the server's program, which is no part of the appliance, for its unit to be tried.
fn server_disk(folder: &Path) -> Result<PathBuf> {
    let (tray, disk) = (
        folder.join("server-program"),
        folder.join("server.squashfs"),
    );
    std::fs::create_dir_all(&tray)?;
    let (from, to) = (program("mantel-server")?, tray.join("mantel-server"));
    run("strip", &["-o", text(&to)?, text(&from)?])?;
    let (tray, file) = (text(&tray)?, text(&disk)?);
    run(
        "mksquashfs",
        &[
            tray,
            file,
            "-quiet",
            "-no-progress",
            "-comp",
            "lz4",
            "-noappend",
        ],
    )?;
    Ok(disk)
}

fn wav(id: &str, file: &Path) -> String {
    format!("wav,id={id},path={},out.frequency=44100", file.display())
}

/// The memory sticks: one with a photograph and the tone, and one with a film that takes long to read.
fn sticks(folder: &Path, photos: &[PathBuf]) -> Result<(PathBuf, PathBuf)> {
    let (wav, tone) = (folder.join("tone.wav"), folder.join(TONE_FILE));
    std::fs::write(&wav, tones::tone_wav(TONE, SECONDS))?;
    run("flac", &["--silent", "-o", text(&tone)?, text(&wav)?])?;
    let film = folder.join("film.mp4");
    media::long_clip(30 << 20, &film)?;
    let (fast, slow) = (folder.join("fast.img"), folder.join("slow.img"));
    stick(
        &fast,
        "HOLIDAY",
        &[
            (&photos[1], "::DCIM/100CANON/IMG_0002.JPG"),
            (&tone, "::TONE.FLAC"),
        ],
    )?;
    stick(
        &slow,
        "FILMS",
        &[
            (&photos[2], "::DCIM/100CANON/IMG_0003.JPG"),
            (&film, "::DCIM/100CANON/MVI_0004.MP4"),
        ],
    )?;
    Ok((fast, slow))
}

/// A memory stick as a camera leaves it: one FAT partition with a DCIM folder.
fn stick(file: &Path, label: &str, files: &[(&PathBuf, &str)]) -> Result<()> {
    const START: u64 = 1 << 20;
    std::fs::File::create(file)?.set_len(64 << 20)?;
    // The partition table (MBR): one entry, type 0x0c, from sector 2048 to the end.
    let mut table = vec![0_u8; 512];
    table[446..462].copy_from_slice(&[
        0, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0xf8, 1, 0,
    ]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(file)?,
        &table,
        0,
    )?;
    let part = format!("{}@@{START}", text(file)?);
    run(
        "mformat",
        &[
            "-i", &part, "-F", "-v", label, "-T", "129024", "-h", "64", "-s", "32", "::",
        ],
    )?;
    run("mmd", &["-i", &part, "::DCIM", "::DCIM/100CANON"])?;
    for (from, to) in files {
        run("mcopy", &["-i", &part, text(from)?, to])?;
    }
    Ok(())
}
