//! A machine on a home's network that invents devices: for tests of what a gateway does about it. Run it in a network
//! namespace of its own, as root: it takes addresses as it likes.
//!
//! It says, all at once: SSDP announcements by IPv4 and IPv6 from many addresses, each with a name of its own, of which
//! some have a description, some accept a connection and say nothing, and some are not there; DNS-SD records with ever
//! new names; WS-Discovery envelopes that are bombs.
#![allow(clippy::print_stdout, reason = "its figures are its output")]
#![allow(
    clippy::disallowed_methods,
    reason = "it floods in real time; there is no clock to inject"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

/// Where descriptions are.
const DESCRIBED: u16 = 8080;
/// Where connections are accepted and nothing is said.
const SILENT: u16 = 8081;
/// Where nothing listens.
const ABSENT: u16 = 8082;
/// IPv4 addresses taken: .128 to .223 of the network; the rest is for real devices.
const V4_NETS: [(u8, u8, u8); 2] = [(128, 26, 64), (192, 27, 32)];

/// Floods the network it is on.
#[derive(Parser)]
struct Args {
    /// Own address.
    address: Ipv4Addr,
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// SSDP announcements per second.
    #[arg(long, default_value_t = 10_000)]
    per_second: u64,
    /// Invented devices with IPv6 addresses of their own.
    #[arg(long, default_value_t = 5_000)]
    devices: u16,
    /// DNS-SD services in all.
    #[arg(long, default_value_t = 10_000)]
    services: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let index: u32 = std::fs::read_to_string("/sys/class/net/eth0/ifindex")?
        .trim()
        .parse()?;
    let v4 = take_v4(args.address)?;
    let v6 = take_v6(args.devices)?;
    serve()?;
    println!(
        "flooding from {} IPv4 and {} IPv6 addresses",
        v4.len(),
        v6.len()
    );
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let sent = Arc::new(Sent::default());
    let mut threads = Vec::new();
    {
        let (sent, v4) = (Arc::clone(&sent), v4.clone());
        threads.push(thread::spawn(move || {
            ssdp(&v4, &v6, index, args.per_second, until, &sent)
        }));
    }
    {
        let (sent, address) = (Arc::clone(&sent), args.address);
        threads.push(thread::spawn(move || {
            dns_sd(address, args.services, until, &sent)
        }));
    }
    {
        let sent = Arc::clone(&sent);
        threads.push(thread::spawn(move || bombs(&v4, until, &sent)));
    }
    for thread in threads {
        thread.join().ok().context("a thread ended badly")??;
    }
    println!(
        "sent {} announcements, {} services, {} bombs in {} s",
        sent.ssdp.load(Ordering::Relaxed),
        sent.dns_sd.load(Ordering::Relaxed),
        sent.bombs.load(Ordering::Relaxed),
        args.seconds
    );
    Ok(())
}

#[derive(Default)]
struct Sent {
    ssdp: AtomicU64,
    dns_sd: AtomicU64,
    bombs: AtomicU64,
}

fn ip(words: &[&str]) -> Result<()> {
    let status = Command::new("ip")
        .args(words)
        .status()
        .context("running ip")?;
    ensure!(status.success(), "ip {words:?} failed");
    Ok(())
}

/// Makes whole networks this machine's own: it answers ARP for every address in them.
fn take_v4(own: Ipv4Addr) -> Result<Vec<Ipv4Addr>> {
    let [a, b, c, _] = own.octets();
    let mut taken = Vec::new();
    for (first, length, count) in V4_NETS {
        let net = format!("{a}.{b}.{c}.{first}/{length}");
        ip(&["route", "add", "local", &net, "dev", "lo"])?;
        taken.extend((0..count).map(|n| Ipv4Addr::new(a, b, c, first + n)));
    }
    Ok(taken)
}

fn take_v6(count: u16) -> Result<Vec<Ipv6Addr>> {
    let addresses: Vec<Ipv6Addr> = (1..=count)
        .map(|n| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xbad, 0, n))
        .collect();
    let mut batch = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running ip")?;
    let mut input = batch.stdin.take().context("its input")?;
    for address in &addresses {
        writeln!(input, "addr add {address}/64 dev eth0 nodad")?;
    }
    drop(input);
    ensure!(batch.wait()?.success(), "addresses were refused");
    Ok(addresses)
}

/// Descriptions for whoever asks; and a port that accepts and says nothing.
fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, DESCRIBED))?;
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut asked = [0; 2048];
                let length = stream.read(&mut asked).unwrap_or(0);
                let text = String::from_utf8_lossy(&asked[..length]).into_owned();
                let name = text
                    .split_ascii_whitespace()
                    .nth(1)
                    .unwrap_or("/")
                    .to_owned();
                let body = description(name.trim_start_matches('/'), number);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            });
        }
    });
    let silent = TcpListener::bind((Ipv6Addr::UNSPECIFIED, SILENT))?;
    thread::spawn(move || {
        let held: Vec<_> = silent.incoming().flatten().collect();
        drop(held);
    });
    Ok(())
}

/// A media server whose name is another each time.
fn description(udn: &str, number: usize) -> String {
    format!(
        "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
         <deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType><friendlyName>Fake {number}</friendlyName>\
         <manufacturer>Nobody</manufacturer><modelName>Nothing</modelName><UDN>uuid:{udn}</UDN><serviceList><service>\
         <serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType>\
         <serviceId>urn:upnp-org:serviceId:ContentDirectory</serviceId><controlURL>/c</controlURL>\
         <eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList></device></root>"
    )
}

fn ssdp(
    v4: &[Ipv4Addr],
    v6: &[Ipv6Addr],
    index: u32,
    per_second: u64,
    until: Instant,
    sent: &Sent,
) -> Result<()> {
    let began = Instant::now();
    let sockets: Vec<(Ipv4Addr, UdpSocket)> = v4
        .iter()
        .map(|address| Ok((*address, UdpSocket::bind((*address, 0))?)))
        .collect::<Result<_>>()?;
    let group_v4: SocketAddr = ([239, 255, 255, 250], 1900).into();
    let group_v6 = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc), 1900, 0, index);
    let mut number = 0_u64;
    while Instant::now() < until {
        let due = per_second * u64::try_from(began.elapsed().as_millis())? / 1000;
        if number >= due {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        number += 1;
        let port = [DESCRIBED, SILENT, ABSENT][usize::try_from(number % 3)?];
        // Every second message is of a known invention, every other of a new one: names churn.
        let name = if number.is_multiple_of(2) {
            number % 5000
        } else {
            number
        };
        if number.is_multiple_of(2) || v6.is_empty() {
            let (address, socket) = &sockets[usize::try_from(number / 2)? % sockets.len()];
            let text = alive(&address.to_string(), port, name);
            if socket.send_to(text.as_bytes(), group_v4).is_err() {
                continue;
            }
        } else {
            let address = v6[usize::try_from(number / 2)? % v6.len()];
            let socket = UdpSocket::bind(SocketAddrV6::new(address, 0, 0, index))?;
            let text = alive(&format!("[{address}]"), port, name);
            if socket.send_to(text.as_bytes(), group_v6).is_err() {
                continue;
            }
        }
        sent.ssdp.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn alive(host: &str, port: u16, name: u64) -> String {
    let udn = format!("bad00000-0000-4000-8000-{name:012x}");
    format!(
        "NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nNTS: ssdp:alive\r\nNT: upnp:rootdevice\r\n\
         USN: uuid:{udn}::upnp:rootdevice\r\nLOCATION: http://{host}:{port}/{udn}\r\nCACHE-CONTROL: max-age=1800\r\n\
         SERVER: x\r\n\r\n"
    )
}

/// Services of the type that jukeboxes have, each said once, for hours.
fn dns_sd(own: Ipv4Addr, services: u64, until: Instant, sent: &Sent) -> Result<()> {
    // From the port of multicast DNS: answers from others are not looked at (RFC 6762 §6).
    let socket = UdpSocket::bind((own, 5353))?;
    for number in 0..services {
        if Instant::now() >= until {
            break;
        }
        socket.send_to(&service(number, own), ("224.0.0.251", 5353))?;
        sent.dns_sd.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(10) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// An announcement: PTR, SRV, TXT and A (RFC 6763 §4, §5, §6).
fn service(number: u64, own: Ipv4Addr) -> Vec<u8> {
    let service = ["_mpd", "_tcp", "local"];
    let instance = format!("Fake {number}");
    let host = format!("fake{number}");
    let named = |labels: &[&str]| {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    };
    let full = named(&[&[instance.as_str()][..], &service].concat());
    let target = named(&[&host, "local"]);
    let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let mut record = |name: &[u8], kind: u16, class: u16, content: &[u8]| {
        bytes.extend(name);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(class.to_be_bytes());
        bytes.extend(4500_u32.to_be_bytes());
        bytes.extend(u16::try_from(content.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(content);
    };
    record(&named(&service), 12, 1, &full);
    let srv = [&[0, 0, 0, 0, 0x19, 0xc8][..], &target].concat();
    record(&full, 33, 0x8001, &srv);
    record(&full, 16, 0x8001, &[0]);
    record(&target, 1, 0x8001, &own.octets());
    bytes
}

/// Nesting, entities and sheer size, by turns.
fn bombs(v4: &[Ipv4Addr], until: Instant, sent: &Sent) -> Result<()> {
    let head = "<e:Envelope xmlns:e='http://www.w3.org/2003/05/soap-envelope' \
                xmlns:d='http://schemas.xmlsoap.org/ws/2005/04/discovery'><e:Body>";
    let entities = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>\
                    <!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><x>&c;&c;&c;&c;</x>";
    let bombs = [
        format!("{head}{}", "<d:Hello>".repeat(1500)),
        entities.to_owned(),
        format!("{head}<d:Hello{}/>", " a='b'".repeat(2400)),
        format!("{head}<d:Hello>{}</d:Hello>", "x".repeat(60_000)),
    ];
    let group: SocketAddr = ([239, 255, 255, 250], 3702).into();
    for (address, bomb) in v4.iter().cycle().zip(bombs.iter().cycle()) {
        if Instant::now() >= until {
            break;
        }
        let socket = UdpSocket::bind((*address, 0))?;
        if socket.send_to(bomb.as_bytes(), group).is_ok() {
            sent.bombs.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
