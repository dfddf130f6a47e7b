//! Cameras with a real store and the real sandbox: log-ins at rest, pictures and clips made of what cameras give (F2).

use super::*;
use crate::devices::tests::house;
use crate::library::tests::Home;
use crate::library::{LibraryOptions, Reel};
use bytes::BufMut as _;
use jiff::Timestamp;
use mantel_peripherals::live::{AccessUnit, Codec, Still, Track, TrackKind};
use mantel_peripherals::picture::YUV4MPEG;
use mantel_peripherals::{Device, DeviceState, Part};
use mantel_protocol::key::SigningKey;

const PASSWORD: &str = "tr0ub4dor & 3";

async fn home(folder: &std::path::Path) -> Home {
    let options = LibraryOptions::new(SigningKey::generate().device_id());
    Home::open(folder, options, Clock::real(), &[SCHEMA]).await
}

fn camera() -> Device {
    let typed = RtspUrl::typed("rtsp://192.168.1.20:8554/live");
    let url = typed.unwrap_or_else(|error| panic!("{error}")).url;
    let seen = sighting(&url, "Garden", Transport::Interleaved);
    let key = |text: &str| DeviceKey::new(text).expect("a key");
    Device {
        id: seen.key.clone(),
        aliases: [seen.key.clone(), key("onvif:one")].into(),
        name: seen.name.clone(),
        class: seen.class,
        maker: None,
        model: None,
        addresses: seen.addresses.iter().copied().collect(),
        mac: None,
        serial: None,
        capabilities: seen.access.capabilities(),
        state: DeviceState::Online,
        first_seen: Timestamp::UNIX_EPOCH,
        last_seen: Timestamp::UNIX_EPOCH,
        problem: None,
        parts: vec![Part {
            key: seen.key,
            name: seen.name,
            class: seen.class,
            state: DeviceState::Online,
            access: seen.access,
        }],
    }
}

#[tokio::test]
async fn a_log_in_is_sealed_opens_under_any_key_and_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = home(folder.path()).await;
    let device = camera();
    let id = device.id.as_str().to_owned();
    let (devices, _seen) = house(&home, device).await;
    let (db, clock) = (home.db.clone(), home.clock.clone());
    let cameras = Cameras::start(db, home.library.clone(), devices, clock, &home.tasks).await;
    let cameras = cameras.expect("started");
    assert!(!cameras.has_login(&id).await.expect("read"));
    cameras
        .set_login(&id, "admin", PASSWORD)
        .await
        .expect("kept");
    assert!(cameras.has_login("onvif:one").await.expect("read"));
    let seen = cameras.inner.devices.seen_camera(&id).expect("listed");
    let login = cameras.login(&seen).await.expect("read").expect("stored");
    assert_eq!((login.user(), login.password()), ("admin", PASSWORD));
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let plain = bytes
            .windows(PASSWORD.len())
            .any(|w| w == PASSWORD.as_bytes());
        assert!(!plain, "{} holds the password", path.display());
    }
    assert!(cameras.is_typed("onvif:one"));
    cameras.forget_login("onvif:one").await.expect("forgotten");
    assert!(!cameras.has_login(&id).await.expect("read"));
    let refused = cameras.set_login(&id, "", PASSWORD).await;
    assert!(matches!(refused, Err(CameraError::BadLogin)), "{refused:?}");
    let refused = cameras.record(&id, 0).await;
    assert!(
        matches!(refused, Err(CameraError::BadLength)),
        "{refused:?}"
    );
    let unknown = cameras.still("uuid:other").await;
    assert!(
        matches!(unknown, Err(CameraError::Device(_))),
        "{unknown:?}"
    );
}

/// A raw picture of one colour, as YUYV.
fn yuyv(width: usize, height: usize, luma: u8) -> Bytes {
    [luma, 100, luma, 150].repeat(width * height / 2).into()
}

#[tokio::test]
async fn raw_pictures_become_a_jpeg_and_a_clip() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = home(folder.path()).await;
    let track = Track {
        kind: TrackKind::Video {
            width: 64,
            height: 48,
        },
        codec: Codec::Yuyv,
    };
    let mut head = bytes::BytesMut::from(&b"YUV4MPEG2 W64 H48 F1:1 Ip A1:1 C422\nFRAME\n"[..]);
    head.put_bytes(90, 64 * 48 * 2);
    let still = Still {
        mime: YUV4MPEG.to_owned(),
        bytes: head.freeze(),
    };
    let jpeg = home.library.jpeg_of(still).await.expect("a picture");
    assert!(jpeg.starts_with(&[0xff, 0xd8, 0xff]));

    let mut reel = Reel::new().expect("memory");
    reel.write(&clip::head(std::slice::from_ref(&track)))
        .expect("memory");
    for number in 0..10_u8 {
        let unit = AccessUnit {
            track: 0,
            at: Duration::ZERO,
            key: true,
            bytes: yuyv(64, 48, 60 + number * 10),
        };
        let at = Duration::from_millis(100) * u32::from(number);
        reel.write(&clip::unit(&unit, at)).expect("memory");
    }
    let (picture, sound) = record::handling(std::slice::from_ref(&track));
    let clip = home
        .library
        .mp4_of(reel, picture, sound)
        .await
        .expect("a clip");
    let now = home.clock.now();
    let source = ImportSource::clip(("rtsp:x", "Garden"), "A clip", now, clip);
    let title = Box::pin(home.library.import(source))
        .await
        .expect("imported");
    let title = home
        .library
        .title(title)
        .await
        .expect("read")
        .expect("there");
    let asset = title.main_asset().expect("an asset");
    assert_eq!(asset.mime, "video/mp4");
    assert_eq!((asset.width, asset.height), (Some(64), Some(48)));
    let length = asset.duration_ms.expect("a length");
    assert!((900..=1100).contains(&length), "{length} ms");
    assert_eq!(title.note, None);
}

#[tokio::test]
async fn rubbish_from_a_camera_is_no_picture() {
    let home = Home::new().await;
    for mime in ["video/h264", YUV4MPEG, "image/png"] {
        let still = Still {
            mime: mime.to_owned(),
            bytes: Bytes::from(vec![0x55; 4096]),
        };
        let made = home.library.jpeg_of(still).await;
        assert!(matches!(made, Err(CaptureError::Unreadable(_))), "{made:?}");
    }
}

#[test]
fn titles_are_named_by_camera_and_local_time() {
    let at: Timestamp = "2026-11-21T14:03:22Z".parse().expect("a time");
    let name = title_name("Garden", at);
    assert!(
        name.starts_with("Garden, 2") && name.ends_with(":22"),
        "{name}"
    );
    assert_eq!(
        typed_url(&["uuid:x".into(), "rtsp:rtsp://a/".into()]).as_deref(),
        Some("rtsp://a/")
    );
}
