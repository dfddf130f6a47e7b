//! What a UPnP device is, as a household would say: by what it offers first, by its own words second.

use super::wire::{Description, ServiceKind};
use crate::device::DeviceClass;

/// Words in a device's model or name that say more than its type does; the first that fits counts.
const WORDS: &[(&str, DeviceClass)] = &[
    ("camcorder", DeviceClass::Camcorder),
    ("handycam", DeviceClass::Camcorder),
    ("ipcamera", DeviceClass::Camera),
    ("camera", DeviceClass::Camera),
    ("jukebox", DeviceClass::Jukebox),
    ("iphone", DeviceClass::Phone),
    ("ipad", DeviceClass::Phone),
    ("android", DeviceClass::Phone),
];

/// The class of a described device. `formats` are what it plays, when it is a renderer.
pub fn class_of(description: &Description, formats: Option<&[String]>) -> DeviceClass {
    let serves = description.service(ServiceKind::ContentDirectory).is_some();
    let plays = formats.is_some();
    if serves
        && !plays
        && let Some(class) = by_words(description)
    {
        return class;
    }
    match (serves, formats) {
        (_, Some(formats)) if shows_pictures(formats) => DeviceClass::Television,
        (true, Some(_)) => DeviceClass::Jukebox,
        (false, Some(_)) => DeviceClass::Speaker,
        (true, None) => DeviceClass::MediaServer,
        (false, None) => by_words(description).unwrap_or(DeviceClass::Other),
    }
}

/// A renderer that does not tell its formats is taken for a TV: a person can still try.
fn shows_pictures(formats: &[String]) -> bool {
    formats.is_empty()
        || formats
            .iter()
            .any(|mime| mime.starts_with("video/") || mime == "*" || mime == "*/*")
}

fn by_words(description: &Description) -> Option<DeviceClass> {
    let model = description.model.as_deref().unwrap_or_default();
    let text = format!("{model} {}", description.name).to_lowercase();
    WORDS
        .iter()
        .find(|(word, _)| text.contains(word))
        .map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upnp::wire::parse_description;
    use crate::url::DeviceUrl;

    fn device(name: &str, services: &[&str]) -> Description {
        let services: Vec<String> = services
            .iter()
            .map(|kind| {
                format!(
                    "<service><serviceType>urn:schemas-upnp-org:service:{kind}:1</serviceType>\
                     <controlURL>/c</controlURL></service>"
                )
            })
            .collect();
        let services = services.concat();
        let text = format!(
            "<root><device><UDN>uuid:1</UDN><friendlyName>{name}</friendlyName>{services}</device></root>"
        );
        let host = "10.0.0.7".parse().expect("an address");
        let location = DeviceUrl::parse("http://10.0.0.7/", host).expect("own");
        parse_description(text.as_bytes(), &location).expect("readable")
    }

    #[test]
    fn devices_are_named_by_what_they_offer_then_by_their_words() {
        let tv = ["video/mp4".to_owned(), "audio/mpeg".to_owned()];
        let speaker = ["audio/mpeg".to_owned()];
        let cds = "ContentDirectory";
        let avt = "AVTransport";
        for (name, services, formats, class) in [
            ("NAS", &[cds][..], None, DeviceClass::MediaServer),
            ("Sony Handycam HDR", &[cds], None, DeviceClass::Camcorder),
            ("Box", &[avt], Some(&tv[..]), DeviceClass::Television),
            (
                "Kitchen camera speaker",
                &[avt],
                Some(&speaker),
                DeviceClass::Speaker,
            ),
            ("Quiet", &[avt], Some(&[]), DeviceClass::Television),
            ("Box", &[cds, avt], Some(&speaker), DeviceClass::Jukebox),
            ("Box", &[cds, avt], Some(&tv), DeviceClass::Television),
            ("Router", &[], None, DeviceClass::Other),
        ] {
            assert_eq!(class_of(&device(name, services), formats), class, "{name}");
        }
    }
}
