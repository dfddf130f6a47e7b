//! The frame around every page: navigation, the link's state, icons, notices after a form.

use super::Site;
use super::assets::asset;
use super::live::Follow;
use super::updates::{self, Audience, SystemNote};
use crate::link::LinkStatus;
use std::fmt;

/// Which entry of the navigation is lit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nav {
    /// None of them.
    None,
    /// `/`
    Home,
    /// `/library`
    Library,
    /// `/catalog`
    Catalog,
    /// `/orders`
    Orders,
    /// `/homes`
    Homes,
    /// `/devices`
    Devices,
    /// `/admin`
    Admin,
}

/// An entry of the navigation.
pub struct NavEntry {
    /// Where it leads.
    pub path: &'static str,
    /// Its word.
    pub word: &'static str,
    /// Its icon.
    pub icon: Icon,
    /// Whether the page shown belongs to it.
    pub lit: bool,
    /// How many things are under way there; 0 shows nothing.
    pub badge: usize,
}

/// What the frame shows.
pub struct Shell {
    /// What the frame itself follows: the link's state and the badges.
    pub follow: Follow,
    /// The navigation; empty before log-in.
    pub nav: Vec<NavEntry>,
    /// `online`, `connecting`, `offline` or `not_enrolled`.
    pub link_word: &'static str,
    /// The link's state for a person.
    pub link_text: String,
    /// The home's name, or the product's.
    pub home_name: String,
    /// What a form that led here did.
    pub notice: Option<&'static str>,
    /// Whether the admin entry is lit.
    pub admin_lit: bool,
    /// What every page says of the appliance's system.
    pub system: Vec<SystemNote>,
    /// What that part follows.
    pub system_follow: Follow,
}

impl Shell {
    /// A frame without navigation, for those who are not logged in.
    pub fn bare(site: &Site) -> Self {
        Self {
            nav: Vec::new(),
            system: updates::notes(site, Audience::Anybody),
            ..Self::plain(site, Nav::None)
        }
    }

    /// A frame with navigation.
    pub fn plain(site: &Site, lit: Nav) -> Self {
        let (follow, system_follow) = (
            Follow::new(site, "link orders"),
            Follow::new(site, "updates"),
        );
        let audience = match lit {
            Nav::Admin => Audience::Admin,
            _ => Audience::Household,
        };
        let under_way = site
            .state
            .exchange
            .orders()
            .borrow()
            .iter()
            .filter(|row| !row.entry.state.is_final())
            .count();
        let entry = |nav, path, word, icon, badge| NavEntry {
            path,
            word,
            icon: Icon(icon),
            lit: nav == lit,
            badge,
        };
        let (link_word, link_text) =
            link_words(&site.state.link.status().borrow(), site.state.clock.now());
        Self {
            follow,
            nav: vec![
                entry(Nav::Home, "/", "Home", "home", 0),
                entry(Nav::Library, "/library", "Library", "library", 0),
                entry(Nav::Catalog, "/catalog", "Catalog", "catalog", 0),
                entry(Nav::Orders, "/orders", "Orders", "orders", under_way),
                entry(Nav::Homes, "/homes", "Homes", "homes", 0),
                entry(Nav::Devices, "/devices", "Devices", "devices", 0),
            ],
            link_word,
            link_text,
            home_name: site
                .state
                .link
                .enrolment()
                .map_or_else(|| "Mantel".into(), |at| at.home_name.clone()),
            notice: None,
            admin_lit: lit == Nav::Admin,
            system: updates::notes(site, audience),
            system_follow,
        }
    }

    /// Says what the form that led here did, by its word.
    pub fn with_notice(mut self, done: Option<&str>) -> Self {
        self.notice = done.and_then(notice);
        self
    }
}

/// The link's state: a word for scripts and a sentence.
pub fn link_words(status: &LinkStatus, now: jiff::Timestamp) -> (&'static str, String) {
    match status {
        LinkStatus::NotEnrolled => ("not_enrolled", "Not connected to a server".into()),
        LinkStatus::Connecting => ("connecting", "Connecting to the server…".into()),
        LinkStatus::Online => ("online", "Connected".into()),
        LinkStatus::Offline { since, .. } => (
            "offline",
            format!(
                "Server not reached, lost {}",
                super::format::ago(*since, now)
            ),
        ),
    }
}

/// What each form says when it worked. The word comes back in the address; only these are shown.
fn notice(word: &str) -> Option<&'static str> {
    Some(match word {
        "admitted" => "The device may be used now.",
        "ignored" => "The device is ignored. You find it under “Ignored” below.",
        "ejected" => "It may be unplugged now.",
        "renamed" => "The new name is kept.",
        "class" => "The gateway takes the device for that from now on.",
        "undone" => "Taken back. The device is as it was before.",
        "importing" => "The import has begun. You can leave this page; it goes on by itself.",
        "import-cancelled" => "The import was stopped. What had arrived is in the library.",
        "imported" => "The file is in the library.",
        "picture" => "The picture is in the library.",
        "clip" => {
            "It is being recorded. You can leave this page; the clip comes into the library by itself."
        }
        "clip-ended" => "The recording ends now. What was recorded comes into the library.",
        "login" => "The user name and the password are kept, sealed. They are not shown again.",
        "login-gone" => "The user name and the password are forgotten.",
        "camera-added" => "The camera is added.",
        "camera-removed" => "The camera is removed. Its pictures and clips stay in the library.",
        "offered" => "The title is in the catalog.",
        "offer-waiting" => "The offer is kept here and is sent as soon as the server is reached.",
        "withdrawn" => "The title is no longer offered. Homes that have it keep it.",
        "shared" => "The title is shared. The homes you chose see it in their catalog.",
        "pushed" => "The title is on its way. You see its progress below.",
        "removed" => "The title was removed from this home.",
        "ordered" => "Ordered. You see its progress below; it goes on by itself.",
        "order-waiting" => "The order is kept here and is placed as soon as the server is reached.",
        "cancelled" => "The order was cancelled. Nothing was charged for it.",
        "playing" => "It plays on the device.",
        "queued-next" => "It plays next on the device.",
        "queued" => "It waits for its turn on the device.",
        "recording" => "The recording has begun. You can leave this page; it goes on by itself.",
        "recorded" => "The recording was stopped. Its tracks are in the library, or on their way.",
        "sent" => "Done.",
        "sender-revoked" => "It may not send any more. What it sent stays in the library.",
        "broker" => "Kept. The gateway connects to the broker now.",
        "broker-forgotten" => {
            "The broker is forgotten. Home Assistant shows this gateway as unavailable."
        }
        "restart" => "The box restarts as soon as nothing plays. It is back after a minute or two.",
        "zone" => "The new time zone is kept.",
        "revoked" => "That session has ended.",
        "password" => "The new password is in force. Other browsers have to log in again.",
        "paired" => "The television is let in. Its screen changes in a moment.",
        "enrolled" => "This home is connected to its server.",
        _ => return None,
    })
}

/// An icon of the sprite.
#[derive(Debug, Clone, Copy)]
pub struct Icon(pub &'static str);

impl fmt::Display for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sprite = asset("icons.svg");
        write!(
            f,
            r#"<svg class="i" aria-hidden="true"><use href="{sprite}#{}"/></svg>"#,
            self.0
        )
    }
}

impl askama::filters::HtmlSafe for Icon {}

/// An icon of the sprite, by its name; for templates.
pub fn icon(name: &'static str) -> Icon {
    Icon(name)
}

/// Percent-encodes text for one path segment or one query value.
pub fn escape_query(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
