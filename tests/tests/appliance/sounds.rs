//! What loudspeakers play, and what a line-in records.

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::status::{Device, Title};
use mantel_tests::lab::run;
use serde_json::{Value, json};

use super::bench::{Bench, SECONDS, STEP, TONE, Wavs};
use super::tones::{self, loudness, read_wav, seconds_of};

/// The tone that is played after devices were pulled out, Hz.
const LATER: f64 = 1499.0;
/// How long it sounds, seconds.
const LATER_SECONDS: u32 = 4;
/// How loud the loudspeaker is set in the midst of the tone, percent.
const SOFT: u8 = 50;

async fn speaker(bench: &Bench, key: &str) -> Result<Device> {
    let found = |d: &Device| d.id.starts_with(key) && d.capabilities.iter().any(|c| c == "render");
    bench.device("the loudspeaker", found).await
}

/// The tone from the stick plays on the sound card: the position advances, and the loudness that is set is told by the
/// card. That it was heard shows when QEMU has ended: [`were_heard`].
pub async fn loudspeaker(bench: &Bench, tone: &Title) -> Result<()> {
    let home = &bench.home;
    let card = speaker(bench, "alsa:Intel").await?;
    home.player(&card, &[("action", "volume"), ("volume", "100")])
        .await?;
    home.play_on(&tone.id, &card).await?;
    let mut last = 0.0;
    for least in [1.0, 4.0] {
        let now = bench
            .playing(&card, "the tone to go on", |row| row.position_s > least)
            .await?;
        ensure!(
            now.position_s > last && now.state == "playing",
            "{now:?} after {last}"
        );
        last = now.position_s;
    }
    let volume = [("action", "volume"), ("volume", &*SOFT.to_string())];
    home.player(&card, &volume).await?;
    let now = bench
        .playing(&card, "the new loudness", |row| row.volume == Some(SOFT))
        .await?;
    println!(
        "    \"{}\" played to {last:.1} s of {:?}, then told {:?} %",
        card.name, now.duration_s, now.volume
    );
    bench.quiet(&card).await?;
    home.player(&card, &[("action", "volume"), ("volume", "100")])
        .await
}

/// The tone goes through the cable to the line-in and becomes a title.
pub async fn line_in(bench: &Bench, tone: &Title) -> Result<()> {
    let home = &bench.home;
    let line = bench
        .device("the line-in", |d| d.id == "alsa:Loopback:1:in")
        .await?;
    let cable = speaker(bench, "alsa:Loopback:0:out").await?;
    home.admit(&line).await?;
    home.record(&line, "start").await?;
    home.play_on(&tone.id, &cable).await?;
    bench
        .playing(&cable, "the tone to play", |row| row.position_s > 1.0)
        .await?;
    bench.quiet(&cable).await?;
    home.record(&line, "stop").await?;
    let title = home
        .wait("the recorded track", STEP, |status| {
            let row = status
                .recordings
                .iter()
                .find(|row| row["device"] == *line.id)?;
            let track = |track: &Value| track["title"].as_str().map(str::to_owned);
            row["tracks"].as_array()?.iter().find_map(track)
        })
        .await?;
    let flac = home.read_media(&title).await?;
    ensure!(flac.starts_with(b"fLaC"), "the track is no FLAC");
    let folder = tempfile::tempdir()?;
    let (from, to) = (folder.path().join("a.flac"), folder.path().join("a.wav"));
    std::fs::write(&from, &flac)?;
    let (from, to) = (
        from.to_str().context("UTF-8")?,
        to.to_str().context("UTF-8")?,
    );
    run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-i",
            from,
            "-c:a",
            "pcm_s16le",
            "-bitexact",
            to,
        ],
    )?;
    let heard = read_wav(to.as_ref())?;
    let whole = seconds_of(&heard, TONE);
    println!(
        "    recorded {:.1} s, {whole:.1} s of them the tone, {} bytes of FLAC",
        heard.seconds(),
        flac.len()
    );
    is_about(whole, SECONDS)
}

/// A USB loudspeaker is put in, plays, and is pulled out: the household reads it, and the gateway goes on.
pub async fn pulled_out(bench: &Bench, tone: &Title) -> Result<()> {
    let (home, guest) = (&bench.home, &bench.guest);
    let begun = std::time::Instant::now();
    let plug = json!({ "driver": "usb-audio", "id": "usbsound", "audiodev": "usbwav" });
    guest.command("device_add", plug).await?;
    let usb = bench
        .device("the USB loudspeaker", |d| {
            d.class == "speaker" && !d.id.contains("Loopback") && !d.id.contains("Intel")
        })
        .await?;
    println!(
        "    put in and found after {:.1} s: {} \"{}\"",
        begun.elapsed().as_secs_f64(),
        usb.id,
        usb.name
    );
    home.play_on(&tone.id, &usb).await?;
    bench
        .playing(&usb, "the tone to play", |row| row.position_s > 2.0)
        .await?;
    guest
        .command("device_del", json!({ "id": "usbsound" }))
        .await?;
    let row = bench
        .playing(&usb, "words about it", |row| row.problem.is_some())
        .await?;
    let words = row.problem.unwrap_or_default();
    println!("    pulled out at {:.1} s: \"{words}\"", row.position_s);
    ensure!(words.contains(&usb.name), "which one? {words}");
    bench.gone(&usb).await
}

/// The sound card plays what the browser sends, whatever was pulled out.
pub async fn still_plays(bench: &Bench) -> Result<()> {
    let home = &bench.home;
    let later = home
        .add("later.wav", tones::tone_wav(LATER, LATER_SECONDS))
        .await?;
    let card = speaker(bench, "alsa:Intel").await?;
    home.play_on(&later.id, &card).await?;
    bench
        .playing(&card, "the later tone to play", |row| row.position_s > 1.0)
        .await?;
    bench.quiet(&card).await
}

/// What QEMU took down: the tones, for as long as they are, and the first of them softer at its end.
pub fn were_heard(wavs: &Wavs) -> Result<()> {
    let card = read_wav(&wavs.card)?;
    let (tone, later) = (seconds_of(&card, TONE), seconds_of(&card, LATER));
    let (loud, soft) = loudness(&card, TONE).context("too little was heard")?;
    println!(
        "  heard from the sound card: {:.1} s, {tone:.1} s the tone, {later:.1} s the later one; loudness {loud:.3}, \
         then {soft:.3}",
        card.seconds()
    );
    is_about(tone, SECONDS)?;
    is_about(later, LATER_SECONDS)?;
    ensure!(
        soft < loud * 0.8,
        "the card was not softer after that was asked"
    );
    let usb = seconds_of(&read_wav(&wavs.usb)?, TONE);
    println!("  heard from the USB loudspeaker before it was pulled out: {usb:.1} s");
    ensure!(usb > 0.5, "the USB loudspeaker played nothing");
    Ok(())
}

/// An emulated machine under load starves its sound card now and then, which breaks the tone for a moment: most of it
/// must be whole, and nothing may be heard twice.
fn is_about(seconds: f64, wanted: u32) -> Result<()> {
    let wanted = f64::from(wanted);
    ensure!(
        (wanted * 0.6..=wanted + 0.2).contains(&seconds),
        "{seconds} s of {wanted} s of the tone"
    );
    Ok(())
}
