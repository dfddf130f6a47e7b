//! The registry decides: what a household sees as devices come, go, move, lie and flood.

use super::*;
use crate::device::Capability;
use crate::http::HttpError;
use crate::upnp::ServerAccess;
use crate::upnp::wire::parse_description;
use crate::url::UrlRefused;
use proptest::prelude::*;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn key(text: &str) -> DeviceKey {
    DeviceKey::new(text).expect("a key")
}

pub(super) fn at(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000 + seconds as i64).expect("in range");
    Now {
        monotonic: Duration::from_secs(seconds),
        wall,
    }
}

fn url(host: &str) -> DeviceUrl {
    DeviceUrl::parse(&format!("http://{host}:80/d.xml"), ip(host)).expect("its own")
}

pub(super) fn alive(name: &str, host: &str) -> Input {
    let advert = Advert::Alive {
        udn: key(name),
        location: Ok(url(host)),
        max_age: Duration::from_mins(30),
    };
    Input::Advert {
        advert,
        source: ip(host),
    }
}

fn bye(name: &str, host: &str) -> Input {
    Input::Advert {
        advert: Advert::Bye { udn: key(name) },
        source: ip(host),
    }
}

/// A media server that calls itself `udn`, at `host`.
pub(super) fn described(udn: &str, name: &str, host: &str) -> Input {
    let text = format!(
        "<root><device><UDN>{udn}</UDN><friendlyName>{name}</friendlyName><service>\
         <serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType>\
         <controlURL>/c</controlURL></service></device></root>"
    );
    let location = url(host);
    let description = parse_description(text.as_bytes(), &location).expect("readable");
    let server = ServerAccess {
        content_directory: description.services[0].clone(),
        all_in: None,
    };
    let described = Described {
        description,
        server: Some(server),
        renderer: None,
    };
    Input::Described {
        location,
        result: Box::new(Ok(described)),
    }
}

fn failed(host: &str, error: HttpError) -> Input {
    Input::Described {
        location: url(host),
        result: Box::new(Err(error.into())),
    }
}

pub(super) fn service(service: &str, name: &str, class: DeviceClass, host: &str) -> Input {
    Input::Seen(Box::new(Sighting {
        key: key(&format!("mdns:{service}:{name}")),
        origin: format!("{name}.{service}.local."),
        name: name.to_owned(),
        class,
        maker: None,
        model: Some("M1".to_owned()),
        serial: None,
        mac: None,
        addresses: BTreeSet::from([ip(host)]),
        access: Access::DnsSd {
            service: service.to_owned(),
            port: 1,
        },
    }))
}

/// A registry with one media server `uuid:a`, "NAS", at 10.0.0.7.
fn with_nas() -> Registry {
    let mut registry = Registry::default();
    let decision = registry.apply(alive("uuid:a", "10.0.0.7"), at(0));
    assert_eq!(decision.actions, [Action::Describe(url("10.0.0.7"))]);
    assert!(decision.events.is_empty(), "nothing is known yet");
    let decision = registry.apply(described("uuid:a", "NAS", "10.0.0.7"), at(1));
    assert_eq!(decision.events, [Event::Appeared(key("uuid:a"))]);
    registry
}

#[test]
fn a_device_appears_once_it_was_described() {
    let registry = with_nas();
    let [device] = &registry.snapshot()[..] else {
        panic!("one device")
    };
    assert_eq!(
        (device.name.as_str(), device.class),
        ("NAS", DeviceClass::MediaServer)
    );
    assert!(device.capabilities.contains(&Capability::FetchAsset));
    assert_eq!(device.addresses, [ip("10.0.0.7")]);
}

#[test]
fn repeated_sightings_ask_and_tell_nothing() {
    let mut registry = with_nas();
    for second in 2..60 {
        assert_eq!(
            registry.apply(alive("uuid:a", "10.0.0.7"), at(second)),
            Decision::default()
        );
    }
    assert_eq!(registry.snapshot()[0].last_seen, at(59).wall);
}

#[test]
fn a_goodbye_counts_only_from_the_device_itself() {
    let mut registry = with_nas();
    assert_eq!(registry.apply(bye("uuid:a", "10.0.0.66"), at(2)).events, []);
    assert_eq!(
        registry.apply(bye("uuid:a", "10.0.0.7"), at(3)).events,
        [Event::Gone(key("uuid:a"))]
    );
    assert_eq!(registry.snapshot()[0].state, DeviceState::Gone);
    let back = registry.apply(alive("uuid:a", "10.0.0.7"), at(5));
    assert_eq!(
        back.actions.len(),
        1,
        "what came back is asked before it is shown"
    );
    let decision = registry.apply(described("uuid:a", "NAS", "10.0.0.7"), at(6));
    assert_eq!(decision.events, [Event::Appeared(key("uuid:a"))]);
}

#[test]
fn another_address_takes_nothing_over_while_the_device_is_there() {
    let mut registry = with_nas();
    let decision = registry.apply(alive("uuid:a", "10.0.0.66"), at(30));
    assert_eq!(
        decision.actions,
        [Action::Describe(url("10.0.0.7"))],
        "the device is asked whether it is still there"
    );
    registry.apply(described("uuid:a", "NAS", "10.0.0.7"), at(30));
    for second in 31..60 {
        let decision = registry.apply(alive("uuid:a", "10.0.0.66"), at(second));
        assert_eq!(
            decision,
            Decision::default(),
            "it is not asked all the time"
        );
    }
    assert_eq!(registry.snapshot()[0].addresses, [ip("10.0.0.7")]);
    // A liar with its own announced name but a description that claims to be the NAS.
    registry.apply(alive("uuid:liar", "10.0.0.66"), at(31));
    registry.apply(described("uuid:a", "NAS", "10.0.0.66"), at(32));
    let snapshot = registry.snapshot();
    assert_eq!(snapshot[0].addresses, [ip("10.0.0.7")]);
    assert!(
        snapshot[1]
            .problem
            .as_ref()
            .is_some_and(|p| p.contains("claims to be another"))
    );
    // Silent for long, it may have a new address.
    let decision = registry.apply(alive("uuid:a", "10.0.0.8"), at(200));
    assert_eq!(decision.actions, [Action::Describe(url("10.0.0.8"))]);
    registry.apply(described("uuid:a", "NAS", "10.0.0.8"), at(201));
    assert_eq!(registry.snapshot()[0].addresses, [ip("10.0.0.8")]);
}

#[test]
fn a_silent_device_is_asked_before_it_counts_as_gone() {
    let mut registry = with_nas();
    let decision = registry.apply(Input::Tick, at(110));
    assert_eq!(decision.actions, [Action::Describe(url("10.0.0.7"))]);
    assert_eq!(
        registry
            .apply(described("uuid:a", "NAS", "10.0.0.7"), at(111))
            .events,
        []
    );
    assert_eq!(registry.apply(Input::Tick, at(215)).actions.len(), 1);
    let late = HttpError::TimedOut(Duration::from_secs(10));
    let decision = registry.apply(failed("10.0.0.7", late), at(225));
    assert_eq!(decision.events, [Event::Gone(key("uuid:a"))]);
    assert_eq!(
        registry.snapshot()[0].problem,
        None,
        "being switched off is no fault"
    );
    let much_later = at(225 + GONE_KEPT.as_secs());
    registry.apply(Input::Tick, much_later);
    assert!(registry.snapshot().is_empty());
}

#[test]
fn recheck_finds_out_at_once_that_a_device_went() {
    let mut registry = with_nas();
    let decision = registry.apply(Input::Recheck(key("uuid:a")), at(5));
    assert_eq!(decision.actions.len(), 1);
    let late = HttpError::TimedOut(Duration::from_secs(10));
    assert_eq!(
        registry.apply(failed("10.0.0.7", late), at(15)).events,
        [Event::Gone(key("uuid:a"))]
    );
    assert_eq!(
        registry.apply(Input::Recheck(key("uuid:nobody")), at(16)),
        Decision::default()
    );
}

#[test]
fn a_bad_description_is_shown_and_tried_again_with_growing_pauses() {
    let mut registry = Registry::default();
    registry.apply(alive("uuid:bad", "10.0.0.9"), at(0));
    let decision = registry.apply(failed("10.0.0.9", HttpError::TooLarge { limit: 1 }), at(1));
    assert_eq!(decision.events, [Event::Appeared(key("uuid:bad"))]);
    let device = &registry.snapshot()[0];
    assert_eq!(device.name, "Device at 10.0.0.9");
    assert!(
        device
            .problem
            .as_ref()
            .is_some_and(|p| p.contains("larger than 1 MiB"))
    );
    let mut asked = Vec::new();
    for second in 2..600 {
        let decision = registry.apply(alive("uuid:bad", "10.0.0.9"), at(second));
        if !decision.actions.is_empty() {
            asked.push(second);
            registry.apply(
                failed("10.0.0.9", HttpError::TooLarge { limit: 1 }),
                at(second),
            );
        }
    }
    assert_eq!(asked, [21, 61, 141, 301]);
    let decision = registry.apply(alive("uuid:bad", "10.0.0.9"), at(700));
    assert_eq!(decision.actions.len(), 1);
    let decision = registry.apply(described("uuid:bad", "Mended", "10.0.0.9"), at(701));
    assert_eq!(decision.events, [Event::Changed(key("uuid:bad"))]);
    assert_eq!(registry.snapshot()[0].problem, None);
}

#[test]
fn a_location_elsewhere_is_a_problem_of_that_device_only() {
    let mut registry = with_nas();
    let sly = |name: &str, host: &str| Input::Advert {
        advert: Advert::Alive {
            udn: key(name),
            location: Err(UrlRefused::OtherHost(ip("10.0.0.1"))),
            max_age: Duration::from_secs(100),
        },
        source: ip(host),
    };
    assert_eq!(
        registry.apply(sly("uuid:a", "10.0.0.66"), at(2)),
        Decision::default()
    );
    assert_eq!(
        registry.apply(sly("uuid:a", "10.0.0.7"), at(2)),
        Decision::default()
    );
    let decision = registry.apply(sly("uuid:s", "10.0.0.66"), at(3));
    assert_eq!(decision.events, [Event::Appeared(key("uuid:s"))]);
    let problem = registry.snapshot()[1].problem.clone().expect("it is one");
    assert!(
        problem.contains("it points to another device (10.0.0.1)"),
        "{problem}"
    );
    assert_eq!(
        registry.apply(Input::Tick, at(103)).events,
        [Event::Gone(key("uuid:s"))]
    );
}

#[test]
fn an_embedded_device_heard_first_becomes_its_root_device() {
    let mut registry = Registry::default();
    registry.apply(alive("uuid:inner", "10.0.0.7"), at(0));
    assert_eq!(
        registry.apply(alive("uuid:a", "10.0.0.7"), at(0)),
        Decision::default()
    );
    registry.apply(described("uuid:a", "NAS", "10.0.0.7"), at(1));
    let [device] = &registry.snapshot()[..] else {
        panic!("one device")
    };
    assert_eq!(device.id, key("uuid:a"));
    assert_eq!(
        registry.apply(alive("uuid:inner", "10.0.0.7"), at(2)),
        Decision::default()
    );
}

#[test]
fn programs_at_one_address_are_one_device_and_its_best_face_shows() {
    let mut registry = with_nas();
    let decision = registry.apply(
        service(
            "_googlecast._tcp",
            "TV",
            DeviceClass::Television,
            "10.0.0.7",
        ),
        at(2),
    );
    assert_eq!(decision.events, [Event::Changed(key("uuid:a"))]);
    registry.apply(
        service("_mpd._tcp", "Juke", DeviceClass::Jukebox, "10.0.0.8"),
        at(2),
    );
    let [device, juke] = &registry.snapshot()[..] else {
        panic!("two devices")
    };
    assert_eq!(
        (device.name.as_str(), device.class),
        ("TV", DeviceClass::Television)
    );
    assert!(device.is(&key("uuid:a")) && device.is(&key("mdns:_googlecast._tcp:TV")));
    assert!(device.capabilities.contains(&Capability::ListMedia));
    assert_eq!(
        (juke.name.as_str(), juke.model.as_deref()),
        ("Juke", Some("M1"))
    );
    let origin = "TV._googlecast._tcp.local.".to_owned();
    let decision = registry.apply(Input::Lost { origin }, at(3));
    assert_eq!(decision.events, [Event::Changed(key("uuid:a"))]);
    assert_eq!(registry.snapshot()[0].name, "NAS");
}

#[test]
fn programs_on_this_machine_stay_apart() {
    let mut registry = Registry::default();
    registry.apply(Input::OwnAddresses(BTreeSet::from([ip("10.0.0.7")])), at(0));
    for (udn, host, second) in [("uuid:a", "10.0.0.7", 0), ("uuid:l", "127.0.0.1", 2)] {
        registry.apply(alive(udn, host), at(second));
        registry.apply(described(udn, udn, host), at(second + 1));
        registry.apply(
            service("_mpd._tcp", host, DeviceClass::Jukebox, host),
            at(second + 1),
        );
    }
    assert_eq!(registry.snapshot().len(), 4);
}

#[test]
fn an_address_handed_on_makes_a_new_device() {
    let mac = |last| vec![(ip("10.0.0.7"), MacAddress([2, 0, 0, 0, 0, last]))];
    let mut registry = with_nas();
    assert_eq!(
        registry.apply(Input::Neighbours(mac(1)), at(2)).events,
        [Event::Changed(key("uuid:a"))]
    );
    registry.apply(Input::Neighbours(mac(2)), at(500));
    registry.apply(
        service("_mpd._tcp", "Juke", DeviceClass::Jukebox, "10.0.0.7"),
        at(501),
    );
    let [nas, juke] = &registry.snapshot()[..] else {
        panic!("two devices")
    };
    assert_eq!(nas.mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
    assert_eq!(juke.mac, Some(MacAddress([2, 0, 0, 0, 0, 2])));
}

#[test]
fn a_device_with_a_new_address_is_followed_as_soon_as_the_old_one_is_silent() {
    let mut registry = with_nas();
    let decision = registry.apply(alive("uuid:a", "10.0.0.8"), at(5));
    assert_eq!(decision.actions, [Action::Describe(url("10.0.0.7"))]);
    let late = HttpError::TimedOut(Duration::from_secs(10));
    let decision = registry.apply(failed("10.0.0.7", late), at(8));
    assert_eq!(decision.actions, [Action::Describe(url("10.0.0.8"))]);
    let decision = registry.apply(described("uuid:a", "NAS", "10.0.0.8"), at(8));
    assert_eq!(decision.events, [Event::Changed(key("uuid:a"))]);
    let [device] = &registry.snapshot()[..] else {
        panic!("one device")
    };
    assert_eq!(device.addresses, [ip("10.0.0.8")]);
    assert_eq!(device.state, DeviceState::Online);
}

#[test]
fn what_announces_itself_before_it_listens_is_asked_again_at_once() {
    let refused = || HttpError::Connect {
        to: "10.0.0.7:80".to_owned(),
        source: std::io::ErrorKind::ConnectionRefused.into(),
    };
    let mut registry = Registry::default();
    registry.apply(alive("uuid:a", "10.0.0.7"), at(0));
    let mut now = at(0);
    for pause in QUICK_RETRIES {
        assert_eq!(
            registry.apply(failed("10.0.0.7", refused()), now).events,
            []
        );
        let wake = registry.next_wake().expect("a retry");
        assert_eq!(wake, now.monotonic + pause);
        now.monotonic = wake;
        let decision = registry.apply(Input::Tick, now);
        assert_eq!(decision.actions, [Action::Describe(url("10.0.0.7"))]);
        assert_eq!(registry.next_wake(), None);
    }
    let decision = registry.apply(failed("10.0.0.7", refused()), now);
    assert_eq!(decision.events, [Event::Appeared(key("uuid:a"))]);
    let problem = registry.snapshot()[0].problem.clone().expect("told");
    assert!(problem.contains("accepts no connection"), "{problem}");
}

/// A camera by WS-Discovery.
fn camera(name: &str, host: &str, mac: Option<MacAddress>) -> Input {
    let Input::Seen(mut sighting) = service("_x._tcp", name, DeviceClass::Camera, host) else {
        unreachable!("made so above")
    };
    sighting.key = key(&format!("onvif:{name}"));
    sighting.origin = format!("{name} {host}");
    sighting.mac = mac;
    Input::Seen(sighting)
}

const UUID: &str = "5f5a69c2-e0ae-504f-829b-02000000000a";
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x0a]);

#[test]
fn one_device_by_four_protocols_is_one_row() {
    let mut registry = Registry::default();
    let tv = format!("uuid:{UUID}");
    registry.apply(alive(&tv, "10.0.0.7"), at(0));
    registry.apply(described(&tv, "TV", "10.0.0.7"), at(0));
    // By UUID, from its other interface.
    let id = UUID.replace('-', "");
    let cast = service(
        "_googlecast._tcp",
        &id,
        DeviceClass::Television,
        "10.0.0.17",
    );
    registry.apply(cast, at(1));
    // By its own word, which the end of the UUID confirms.
    registry.apply(camera("cam", "10.0.0.27", Some(MAC)), at(2));
    // By the neighbour table.
    let table = vec![(ip("fe80::7"), MAC), (ip("10.0.0.7"), MAC)];
    registry.apply(Input::Neighbours(table), at(3));
    registry.apply(
        service("_mpd._tcp", "Juke", DeviceClass::Jukebox, "fe80::7"),
        at(3),
    );
    let [device] = &registry.snapshot()[..] else {
        panic!("one device: {:#?}", registry.snapshot())
    };
    assert_eq!(device.mac, Some(MAC));
    let cast = format!("mdns:_googlecast._tcp:{id}");
    for part in [&tv, &cast, "onvif:cam", "mdns:_mpd._tcp:Juke"] {
        assert!(device.is(&key(part)), "{part}");
    }
}

#[test]
fn devices_behind_one_extender_are_told_apart() {
    let mut registry = with_nas();
    let table = vec![(ip("10.0.0.7"), MAC), (ip("10.0.0.8"), MAC)];
    registry.apply(Input::Neighbours(table), at(2));
    registry.apply(
        service("_mpd._tcp", "Juke", DeviceClass::Jukebox, "10.0.0.8"),
        at(3),
    );
    assert_eq!(registry.snapshot().len(), 2);
}

#[test]
fn what_is_learned_later_makes_two_rows_one() {
    let mut registry = with_nas();
    registry.apply(
        service("_smb._tcp", "NAS", DeviceClass::Computer, "fe80::7"),
        at(2),
    );
    assert_eq!(registry.snapshot().len(), 2);
    let table = vec![(ip("10.0.0.7"), MAC), (ip("fe80::7"), MAC)];
    let decision = registry.apply(Input::Neighbours(table), at(3));
    assert_eq!(registry.snapshot().len(), 1);
    let gone = Event::Gone(key("mdns:_smb._tcp:NAS"));
    assert!(decision.events.contains(&gone), "{:?}", decision.events);
}

#[test]
fn a_default_serial_number_makes_no_two_devices_one() {
    let told = |name: &str, host: &str, serial: &str| {
        let Input::Seen(mut sighting) = service("_x._tcp", name, DeviceClass::Camera, host) else {
            unreachable!("made so above")
        };
        sighting.maker = Some("Maker".to_owned());
        sighting.serial = Some(serial.to_owned());
        Input::Seen(sighting)
    };
    for (serial, class, rows) in [
        ("12345678", DeviceClass::Speaker, 2),
        ("0000", DeviceClass::Speaker, 2),
        ("XK-77310", DeviceClass::Camera, 2),
        ("XK-77310", DeviceClass::Speaker, 1),
    ] {
        let mut registry = Registry::default();
        registry.apply(told("a", "10.0.0.7", serial), at(0));
        let Input::Seen(mut other) = told("b", "10.0.0.8", serial) else {
            unreachable!("made so above")
        };
        other.class = class;
        registry.apply(Input::Seen(other), at(1));
        assert_eq!(registry.snapshot().len(), rows, "{serial} {class:?}");
    }
}

#[test]
fn a_camera_is_taken_over_by_nobody_while_it_answers_and_is_gone_when_it_is_silent() {
    let mut registry = Registry::default();
    registry.apply(camera("c", "10.0.0.7", None), at(0));
    registry.apply(camera("c", "10.0.0.66", None), at(10));
    assert_eq!(registry.snapshot()[0].addresses, [ip("10.0.0.7")]);
    registry.apply(
        Input::Lost {
            origin: "c 10.0.0.66".to_owned(),
        },
        at(11),
    );
    assert_eq!(registry.snapshot()[0].state, DeviceState::Online);
    // The same hardware may move at once, anybody after a silence.
    registry.apply(
        Input::Neighbours(vec![(ip("10.0.0.7"), MAC), (ip("10.0.0.9"), MAC)]),
        at(12),
    );
    registry.apply(camera("c", "10.0.0.9", None), at(13));
    assert_eq!(registry.snapshot()[0].addresses, [ip("10.0.0.9")]);
    registry.apply(
        camera("c", "10.0.0.66", None),
        at(13 + PROBED_SILENCE.as_secs()),
    );
    assert_eq!(registry.snapshot()[0].addresses, [ip("10.0.0.66")]);
    let decision = registry.apply(Input::Tick, at(60 + SILENCE_LIMIT.as_secs()));
    assert_eq!(decision.events, [Event::Gone(key("onvif:c"))]);
}

#[test]
fn one_that_invents_devices_gets_a_few_rows_and_is_told() {
    let mut registry = with_nas();
    let host = |n: usize| format!("10.1.{}.{}", n / 200, 1 + n % 200);
    let table: Vec<_> = (0..2000).map(|n| (ip(&host(n)), MAC)).collect();
    registry.apply(Input::Neighbours(table), at(2));
    for n in 0..2000 {
        let name = format!("uuid:f{n}");
        let decision = registry.apply(alive(&name, &host(n)), at(2));
        if !decision.actions.is_empty() {
            registry.apply(described(&name, "Fake", &host(n)), at(2));
        }
    }
    assert!(registry.snapshot().len() <= identity::MAX_PARTS_PER_MAC + 1);
    assert!(registry.noisy() > 1000 && registry.noisy() <= MAX_NOISY);
    assert!(
        registry
            .snapshot()
            .iter()
            .any(|device| device.name == "NAS")
    );
    let again = registry.apply(alive("uuid:f1999", &host(1999)), at(3));
    assert_eq!(again.actions, [], "not looked at again so soon");
    registry.apply(Input::Tick, at(2 + identity::CROWD_KEPT.as_secs()));
    assert_eq!(registry.noisy(), 0);
}

#[test]
fn renderers_that_share_one_udn_are_told_apart() {
    let mut registry = Registry::default();
    for host in ["10.0.0.20", "10.0.0.21"] {
        registry.apply(alive("uuid:GMediaRender-1_0-000-000-002", host), at(0));
        registry.apply(
            described("uuid:GMediaRender-1_0-000-000-002", host, host),
            at(1),
        );
    }
    let names: Vec<_> = registry
        .snapshot()
        .into_iter()
        .map(|device| device.name)
        .collect();
    assert_eq!(names, ["10.0.0.20", "10.0.0.21"]);
}

#[test]
fn our_own_announcements_are_never_listed() {
    let mut registry = Registry::new(BTreeSet::from([
        key("uuid:self"),
        key("mdns:_mpd._tcp:self"),
    ]));
    assert_eq!(
        registry.apply(alive("uuid:self", "10.0.0.7"), at(0)),
        Decision::default()
    );
    registry.apply(
        service("_mpd._tcp", "self", DeviceClass::Jukebox, "10.0.0.7"),
        at(0),
    );
    registry.apply(alive("uuid:other", "10.0.0.7"), at(0));
    registry.apply(described("uuid:self", "Self", "10.0.0.7"), at(1));
    assert!(registry.snapshot().is_empty());
}

#[test]
fn a_flood_from_one_address_is_bounded_and_starves_nobody() {
    let mut registry = Registry::default();
    let mut actions = 0;
    for n in 0..10_000 {
        actions += registry
            .apply(alive(&format!("uuid:f{n}"), "10.0.0.66"), at(0))
            .actions
            .len();
    }
    assert!(actions <= MAX_PARTS_PER_ADDRESS);
    assert_eq!(
        registry
            .apply(alive("uuid:a", "10.0.0.7"), at(0))
            .actions
            .len(),
        1
    );
}

#[test]
fn a_full_registry_gives_up_what_went_before_what_works() {
    let mut registry = with_nas();
    for n in 0..2 * MAX_PARTS {
        let host = format!("10.{}.{}.1", 1 + n / 200, n % 200);
        registry.apply(alive(&format!("uuid:n{n}"), &host), at(2));
        if n % 2 == 0 {
            registry.apply(bye(&format!("uuid:n{n}"), &host), at(2));
        }
    }
    assert!(registry.parts.len() <= MAX_PARTS);
    assert!(
        registry
            .snapshot()
            .iter()
            .any(|device| device.name == "NAS")
    );
}

/// A step of the random world below.
#[derive(Clone, Debug)]
enum Step {
    Alive(u8, u8),
    Bye(u8, u8),
    Described(u8, u8),
    Failed(u8),
    Service(u8, u8),
    ServiceGone(u8),
    Neighbours(u8, u8),
    Recheck(u8),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let (n, h) = (0_u8..6, 1_u8..5);
    prop_oneof![
        4 => (n.clone(), h.clone()).prop_map(|(n, h)| Step::Alive(n, h)),
        1 => (n.clone(), h.clone()).prop_map(|(n, h)| Step::Bye(n, h)),
        4 => (n.clone(), h.clone()).prop_map(|(n, h)| Step::Described(n, h)),
        2 => h.clone().prop_map(Step::Failed),
        2 => (n.clone(), h.clone()).prop_map(|(n, h)| Step::Service(n, h)),
        1 => n.clone().prop_map(Step::ServiceGone),
        1 => (h, n.clone()).prop_map(|(h, n)| Step::Neighbours(h, n)),
        1 => n.prop_map(Step::Recheck),
        2 => Just(Step::Tick),
    ]
}

fn input(step: &Step) -> Input {
    let host = |h: &u8| format!("10.0.0.{h}");
    match step {
        Step::Alive(n, h) => alive(&format!("uuid:{n}"), &host(h)),
        Step::Bye(n, h) => bye(&format!("uuid:{n}"), &host(h)),
        Step::Described(n, h) => described(&format!("uuid:{n}"), "x", &host(h)),
        Step::Failed(h) => failed(&host(h), HttpError::Redirect),
        Step::Service(n, h) => service("_mpd._tcp", &n.to_string(), DeviceClass::Jukebox, &host(h)),
        Step::ServiceGone(n) => Input::Lost {
            origin: format!("{n}._mpd._tcp.local."),
        },
        Step::Neighbours(h, n) => {
            Input::Neighbours(vec![(ip(&host(h)), MacAddress([2, 0, 0, 0, 0, *n]))])
        }
        Step::Recheck(n) => Input::Recheck(key(&format!("uuid:{n}"))),
        Step::Tick => Input::Tick,
    }
}

proptest! {
    /// Whatever happens in whatever order: ids are unique, each key belongs to one device, events agree with the
    /// snapshot, and no location is asked twice at once.
    #[test]
    fn any_history_leaves_a_sound_registry(
        history in proptest::collection::vec((step(), 0_u64..90), 0..80)
    ) {
        let mut registry = Registry::default();
        let mut time = 0;
        let mut online = BTreeSet::new();
        let mut asked: BTreeMap<String, u32> = BTreeMap::new();
        for (step, pause) in &history {
            time += pause;
            if let Step::Described(_, h) | Step::Failed(h) = step {
                let location = url(&format!("10.0.0.{h}")).to_string();
                let open = asked.entry(location).or_default();
                if *open == 0 {
                    continue; // nobody asked: the driver answers exactly once
                }
                *open -= 1;
            }
            let decision = registry.apply(input(step), at(time));
            for Action::Describe(location) in decision.actions {
                *asked.entry(location.to_string()).or_default() += 1;
            }
            for event in decision.events {
                match event {
                    Event::Appeared(id) => { online.insert(id); }
                    Event::Gone(id) => { online.remove(&id); }
                    Event::Changed(_) => {}
                }
            }
            let snapshot = registry.snapshot();
            let mut keys = BTreeSet::new();
            for device in &snapshot {
                prop_assert!(device.is(&device.id));
                for alias in &device.aliases {
                    prop_assert!(keys.insert(alias.clone()), "{alias} twice");
                }
                prop_assert_eq!(device.state == DeviceState::Online, online.contains(&device.id), "{:?}", step);
            }
        }
    }
}
