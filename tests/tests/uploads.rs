//! What devices and phones send to a gateway (F2, F3): lftp and curl as cameras over FTP and FTPS, curl and cadaver over
//! WebDAV, Chromium as a phone whose upload survives a killed gateway and a page that is loaded again. All of it in
//! namespaces; every file's bytes are compared, and none of them is on the gateway's disk in the clear.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fantoccini::Locator;
use mantel_tests::actors::{GatewayHandle, Household, Person, Status};
use mantel_tests::lab::{Mode, Net, Place, until};
use mantel_tests::media::noise;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
const FTP_PORT: u16 = 2121;
const PASSWORD: &str = "correct horse battery";

/// A home with a gateway, a camera's place and a phone's.
struct Stage {
    gateway: GatewayHandle,
    house: Household,
    net: Net,
}

/// A camera's log-in.
struct Login {
    id: String,
    user: String,
    password: String,
}

impl Login {
    fn both(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }
}

impl Stage {
    async fn up(small_disk: Option<&str>) -> Result<Self> {
        let net = Net::builder().home("a", &["cam", "pc"]);
        let net = net.mode(Mode::Namespaces).up()?;
        let gateway = GatewayHandle::lone(&net, "a", "", small_disk).await?;
        let house = Household::move_in("Anna", &gateway.url(), PASSWORD).await?;
        Ok(Self {
            gateway,
            house,
            net,
        })
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.net.home("a")?.device(name)
    }

    fn host(&self) -> String {
        self.gateway.place().addr().to_string()
    }

    async fn let_send(&self, name: &str) -> Result<Login> {
        let made = self
            .house
            .done("/uploads", &[("name", name), ("limit_gb", "5")])
            .await?;
        let text = |key: &str| made[key].as_str().map(str::to_owned).context("a log-in");
        ensure!(made["ftp_port"] == FTP_PORT, "{made}");
        Ok(Login {
            id: text("id")?,
            user: text("user")?,
            password: text("password")?,
        })
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.net.folder().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Runs a program at the camera's place: whether it succeeded, and what it said.
    async fn run(&self, program: &str, args: &[&str]) -> Result<(bool, String)> {
        let proc = self
            .place("cam")?
            .run(program)
            .args(args)
            .env("HOME", self.net.folder())
            .folder(self.net.folder())
            .log(self.net.folder().join(format!("{program}.log")))
            .spawn()
            .await?;
        let status = proc.wait_exit(LONG).await?;
        Ok((status.success(), proc.output()))
    }

    async fn curl(&self, login: &Login, args: &[&str]) -> Result<(bool, String)> {
        let both = login.both();
        let mut all = vec!["-sS", "-v", "-m", "100", "-u", &both];
        all.extend(args);
        self.run("curl", &all).await
    }

    /// The titles of this name hold these bytes.
    async fn has(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let title = self
            .house
            .wait(&format!("the title {name}"), LONG, |status| {
                let ready = status.titles.iter().filter(|t| t.state == "ready");
                ready.clone().find(|t| t.name == name).map(|t| t.id.clone())
            })
            .await?;
        let read = self.house.read_media(&title).await?;
        ensure!(
            read == bytes,
            "{name}: {} bytes came back of {}",
            read.len(),
            bytes.len()
        );
        Ok(())
    }

    async fn names(&self) -> Result<Vec<String>> {
        let status = self.house.status().await?;
        Ok(status.titles.into_iter().map(|title| title.name).collect())
    }

    /// No file below the data folder shows a piece of these bytes.
    fn sealed(&self, bytes: &[u8]) -> Result<()> {
        let needle = &bytes[bytes.len() / 2..][..48];
        let mut folders = vec![self.gateway.data.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(stored) = std::fs::read(&path) {
                    let shown = stored.windows(needle.len()).any(|window| window == needle);
                    ensure!(!shown, "plaintext in {}", path.display());
                }
            }
        }
        Ok(())
    }

    async fn done(self) -> Result<()> {
        if let Some(proc) = self.gateway.proc {
            proc.stop().await?;
        }
        self.net.done()
    }
}

/// A camera that speaks FTP word by word.
struct Raw {
    control: BufReader<TcpStream>,
    host: String,
}

impl Raw {
    async fn new(host: &str) -> Result<Self> {
        let stream = TcpStream::connect((host, FTP_PORT)).await?;
        let mut raw = Self {
            control: BufReader::new(stream),
            host: host.to_owned(),
        };
        ensure!(raw.answer().await?.starts_with("220"));
        Ok(raw)
    }

    /// The last line of an answer; empty when the connection ended.
    async fn answer(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            let read = self.control.read_line(&mut line);
            tokio::time::timeout(LONG, read).await??;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    async fn say(&mut self, words: &str) -> Result<String> {
        self.control
            .write_all(format!("{words}\r\n").as_bytes())
            .await?;
        self.answer().await
    }

    async fn log_in(&mut self, login: &Login) -> Result<String> {
        self.say(&format!("USER {}", login.user)).await?;
        self.say(&format!("PASS {}", login.password)).await
    }

    async fn data(&mut self) -> Result<TcpStream> {
        let said = self.say("EPSV").await?;
        let port = said.split('|').nth(3).context("a port")?.parse()?;
        ensure!((50_000..=50_063).contains(&port), "{said}");
        Ok(TcpStream::connect((self.host.as_str(), port)).await?)
    }
}

#[tokio::test]
async fn cameras_send_by_ftp_with_and_without_tls() -> Result<()> {
    let stage = Stage::up(None).await?;
    let host = stage.host();
    ensure!(
        TcpStream::connect((host.as_str(), FTP_PORT)).await.is_err(),
        "closed at first"
    );
    ensure!(
        stage.house.session().get("/dav/").await?.status == 404,
        "closed at first"
    );
    let login = stage.let_send("Garden camera").await?;

    // As curl does: folders made on the way, then size and time of what came.
    let photo = noise("photo", 300_000);
    let path = stage.file("IMG_1.JPG", &photo)?;
    let url = format!("ftp://{host}:{FTP_PORT}/DCIM/100/IMG_1.JPG");
    let put = [
        "--ftp-create-dirs",
        "-T",
        path.to_str().context("a path")?,
        &url,
    ];
    let (ok, said) = stage.curl(&login, &put).await?;
    ensure!(ok, "{said}");
    stage.has("IMG_1", &photo).await?;
    let (ok, said) = stage.curl(&login, &["-I", &url]).await?;
    ensure!(
        ok && said.contains("Content-Length: 300000") && said.contains("Last-Modified"),
        "{said}"
    );
    let (ok, said) = stage.curl(&login, &[&url]).await?;
    ensure!(
        !ok && said.contains("[0 bytes data]"),
        "reading is refused: {said}"
    );
    let (ok, said) = stage
        .curl(
            &login,
            &["-a", "-T", path.to_str().context("a path")?, &url],
        )
        .await?;
    ensure!(!ok, "a file that is whole is not gone on with: {said}");

    // As many cameras do: a temporary name first, then its own; a list afterwards.
    let film = noise("film", 5_000_000);
    let local = stage.file("CLIP.MP4", &film)?;
    let script = format!(
        "set net:timeout 20; set net:max-retries 1; set ssl:verify-certificate no; set cmd:fail-exit yes; \
         open -u {},{} -p {FTP_PORT} {host}; mkdir VIDEO; cd VIDEO; put {} -o CLIP.MP4.tmp; \
         mv CLIP.MP4.tmp CLIP.MP4; cls -l; rm CLIP.MP4; cls",
        login.user,
        login.password,
        local.display()
    );
    for tls in [
        "set ftp:ssl-allow no;",
        "set ftp:ssl-force yes; set ftp:ssl-protect-data yes;",
    ] {
        let (ok, said) = stage
            .run("lftp", &["-c", &format!("{tls} {script}")])
            .await?;
        ensure!(ok && said.contains("5000000"), "{tls} {said}");
        stage.has("CLIP", &film).await?;
        let (ok, said) = stage
            .curl(
                &login,
                &["-Q", "RMD VIDEO", &format!("ftp://{host}:{FTP_PORT}/")],
            )
            .await?;
        ensure!(ok, "{said}");
    }
    let secure = noise("secure", 1_000_000);
    let path = stage.file("S.JPG", &secure)?;
    let url = format!("ftp://{host}:{FTP_PORT}/S.JPG");
    let (ok, said) = stage
        .curl(
            &login,
            &[
                "--ssl-reqd",
                "-k",
                "-T",
                path.to_str().context("a path")?,
                &url,
            ],
        )
        .await?;
    ensure!(
        ok && said.contains("SSL connection using TLSv1.3"),
        "{said}"
    );
    stage.has("S", &secure).await?;
    ensure!(
        stage.names().await?.len() == 3,
        "{:?}",
        stage.names().await?
    );
    for bytes in [&photo, &film, &secure] {
        stage.sealed(bytes)?;
    }
    let shown = stage.house.device("Garden camera").await?;
    println!("the camera is listed as {shown:?}");
    ensure!(shown.class == "camera");
    stage.done().await
}

#[tokio::test]
async fn broken_and_hostile_ftp_clients_leave_nothing() -> Result<()> {
    let stage = Stage::up(None).await?;
    let host = stage.host();
    let login = stage.let_send("Door").await?;
    let mut camera = Raw::new(&host).await?;
    ensure!(camera.log_in(&login).await?.starts_with("230"));
    let mut data = camera.data().await?;
    ensure!(camera.say("STOR half.jpg").await?.starts_with("150"));
    data.write_all(&noise("half", 200_000)).await?;
    data.set_zero_linger()?;
    drop(data);
    let said = camera.answer().await?;
    ensure!(said.starts_with("426"), "{said}");
    ensure!(
        camera.say("SIZE half.jpg").await?.starts_with("550"),
        "nothing is kept"
    );
    // Nor when it breaks off at once, or never comes for the data.
    for _ in 0..20 {
        let data = camera.data().await?;
        camera.control.write_all(b"STOR half.jpg\r\n").await?;
        data.set_zero_linger()?;
        drop(data);
        ensure!(camera.answer().await?.starts_with("150"));
        let said = camera.answer().await?;
        ensure!(said.starts_with("426"), "{said}");
    }
    camera.say("EPSV").await?;
    ensure!(camera.say("STOR half.jpg").await?.starts_with("150"));
    let said = camera.answer().await?;
    ensure!(said.starts_with("426"), "{said}");
    ensure!(stage.names().await?.is_empty());
    for escape in ["CWD ../../..", "MKD ../../../../etc"] {
        println!("{escape}: {}", camera.say(escape).await?.trim());
    }
    ensure!(!Path::new("/etc/../etc2").exists());
    let deep = format!("MKD {}", "x/".repeat(40));
    ensure!(camera.say(&deep).await?.starts_with('5'));
    ensure!(camera.say("REST 100").await?.starts_with("502"));
    ensure!(
        !camera.say("PORT 127,0,0,1,0,22").await?.starts_with('2'),
        "no active mode"
    );

    // A line without end is not kept in memory.
    let mut endless = Raw::new(&host).await?;
    let wrote = async {
        loop {
            endless.control.write_all(&[b'A'; 16_384]).await?;
        }
    };
    let ended: Result<(), std::io::Error> = tokio::time::timeout(LONG, wrote).await?;
    ensure!(ended.is_err());

    // Guesses have to wait; the camera that proved itself does not. Once more, with another that never was let in, where
    // the guesses took so long that the wait was over.
    let mut logins = vec![login];
    let waits = async |fresh: &Login| {
        for guess in 0..8 {
            let mut thief = Raw::new(&host).await?;
            thief.say(&format!("USER {}", fresh.user)).await?;
            let said = thief.say(&format!("PASS guess{guess}")).await?;
            ensure!(said.starts_with("530"), "{said}");
        }
        let said = Raw::new(&host).await?.log_in(fresh).await?;
        println!("after eight guesses: {}", said.trim());
        anyhow::Ok(said.starts_with("530"))
    };
    for number in 0.. {
        let fresh = stage.let_send(&format!("Other {number}")).await?;
        let waited = waits(&fresh).await?;
        logins.push(fresh);
        if waited {
            break;
        }
        ensure!(number < 5, "its address never had to wait");
    }
    let mut again = Raw::new(&host).await?;
    ensure!(
        again.log_in(&logins[0]).await?.starts_with("230"),
        "still let in"
    );

    // Revoked: its connections end, and with the last account the port closes.
    for login in &logins {
        stage
            .house
            .done(&format!("/uploads/{}/revoke", login.id), &[])
            .await?;
    }
    let said = camera.say("NOOP").await.unwrap_or_default();
    ensure!(said.is_empty(), "the connection ended: {said}");
    until("the port to close", LONG, async || {
        TcpStream::connect((host.as_str(), FTP_PORT)).await.err()
    })
    .await?;
    stage.done().await
}

#[tokio::test]
async fn programs_send_by_webdav() -> Result<()> {
    let stage = Stage::up(None).await?;
    let login = stage.let_send("Scanner").await?;
    let dav = format!("{}/dav", stage.gateway.url());
    let scan = noise("scan", 700_000);
    let path = stage.file("scan.pdf", &scan)?;
    let path = path.to_str().context("a path")?;
    let code = |said: &str, code: &str| said.contains(&format!("< HTTP/1.1 {code}"));
    let (_, said) = stage
        .curl(&login, &["-T", path, &format!("{dav}/none/scan.pdf")])
        .await?;
    ensure!(code(&said, "409"), "no such folder: {said}");
    let (_, said) = stage
        .curl(&login, &["-X", "MKCOL", &format!("{dav}/scans")])
        .await?;
    ensure!(code(&said, "201"), "{said}");
    let (_, said) = stage
        .curl(&login, &["-T", path, &format!("{dav}/scans/page%201.tmp")])
        .await?;
    ensure!(code(&said, "201"), "{said}");
    let to = format!("Destination: {dav}/scans/page%202.pdf");
    let (_, said) = stage
        .curl(
            &login,
            &[
                "-X",
                "MOVE",
                "-H",
                &to,
                &format!("{dav}/scans/page%201.tmp"),
            ],
        )
        .await?;
    ensure!(code(&said, "201"), "{said}");
    stage.has("page 2", &scan).await?;
    let (_, said) = stage
        .curl(
            &login,
            &["-X", "PROPFIND", "-H", "Depth: 1", &format!("{dav}/scans/")],
        )
        .await?;
    ensure!(
        code(&said, "207") && said.contains("page%202.pdf") && said.contains("700000"),
        "{said}"
    );
    for refused in [vec![], vec!["-X", "COPY", "-H", to.as_str()]] {
        let mut args = refused;
        let from = format!("{dav}/scans/page%202.pdf");
        args.push(&from);
        let (_, said) = stage.curl(&login, &args).await?;
        ensure!(
            code(&said, "403") || code(&said, "405"),
            "reading is refused: {said}"
        );
    }
    // Announced larger than sent: kept is nothing.
    let host = stage.host();
    let mut half = TcpStream::connect((host.as_str(), 8080)).await?;
    let both = data_encoding::BASE64.encode(login.both().as_bytes());
    let head = format!(
        "PUT /dav/half.bin HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {both}\r\nContent-Length: 900000\r\n\r\n"
    );
    half.write_all(head.as_bytes()).await?;
    half.write_all(&scan[..400_000]).await?;
    drop(half);
    until("the broken upload to be told of", LONG, async || {
        let status: Value = stage
            .house
            .session()
            .get("/status.json")
            .await
            .ok()?
            .json()
            .ok()?;
        let row = status["devices"]
            .as_array()?
            .iter()
            .find(|row| row["name"] == "Scanner")?
            .clone();
        row["problem"].as_str().map(str::to_owned)
    })
    .await?;
    ensure!(
        stage.names().await? == ["page 2"],
        "{:?}",
        stage.names().await?
    );

    let netrc = format!(
        "machine {host} login {} password {}\n",
        login.user, login.password
    );
    stage.file(".netrc", netrc.as_bytes())?;
    let words = format!("mkcol more\ncd more\nput {path} a.bin\nmove a.bin b.bin\nls\nquit\n");
    stage.file("cadaver.txt", words.as_bytes())?;
    let (ok, said) = stage
        .run("sh", &["-c", &format!("cadaver {dav}/ < cadaver.txt")])
        .await?;
    ensure!(
        ok && said.contains("b.bin") && said.contains("700000"),
        "{said}"
    );

    let thief = Login {
        id: String::new(),
        user: login.user.clone(),
        password: "guess".into(),
    };
    let mut said = String::new();
    for _ in 0..8 {
        said = stage.curl(&thief, &["-X", "PROPFIND", &dav]).await?.1;
    }
    ensure!(code(&said, "429") && said.contains("retry-after"), "{said}");
    stage.sealed(&scan)?;
    stage.done().await
}

#[tokio::test]
async fn a_full_disk_is_told_to_the_sender_and_the_household() -> Result<()> {
    let stage = Stage::up(Some("300m")).await?;
    let login = stage.let_send("Garden camera").await?;
    let path = stage.file("large.mp4", &noise("large", 90_000_000))?;
    let path = path.to_str().context("a path")?;
    let mut camera = Raw::new(&stage.host()).await?;
    ensure!(camera.log_in(&login).await?.starts_with("230"));
    let mut data = camera.data().await?;
    ensure!(camera.say("STOR large.mp4").await?.starts_with("150"));
    // The gateway closes the connection for data when the disk is full, and says why.
    let _ = data.write_all(&std::fs::read(path)?).await;
    drop(data);
    let said = camera.answer().await?;
    ensure!(said.starts_with("552"), "{said}");
    let (_, said) = stage
        .curl(
            &login,
            &[
                "-T",
                path,
                &format!("{}/dav/large.mp4", stage.gateway.url()),
            ],
        )
        .await?;
    ensure!(said.contains("HTTP/1.1 507"), "{said}");
    let page = stage.house.session().get("/uploads").await?.ok()?;
    ensure!(page.body.contains("disk has"), "the page tells");
    let small = noise("small", 1_000_000);
    let path = stage.file("small.jpg", &small)?;
    let url = format!("ftp://{}:{FTP_PORT}/small.jpg", stage.host());
    let (ok, said) = stage
        .curl(&login, &["-T", path.to_str().context("a path")?, &url])
        .await?;
    ensure!(ok, "what fits is taken: {said}");
    stage.has("small", &small).await?;
    stage.done().await
}

/// How many bytes of a file are there, as the gateway tells.
fn sent(status: &Status, name: &str) -> Option<u64> {
    let row = status.imports.iter().find(|row| row["name"] == name)?;
    row["bytes_done"].as_u64()
}

/// Chooses files at the page, as a person does.
async fn choose(phone: &Person, files: &[&Path]) -> Result<()> {
    let field = phone
        .browser
        .client
        .find(Locator::Css("#upload-form input[type=file]"))
        .await?;
    let paths: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Ok(field.send_keys(&paths.join("\n")).await?)
}

#[tokio::test]
async fn a_phone_sends_its_camera_roll_whatever_happens() -> Result<()> {
    const FILM: usize = 96 * 1024 * 1024;
    let mut stage = Stage::up(None).await?;
    let place = stage.place("pc")?.clone();
    stage.net.limit_rate(&place, 200)?;
    let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mantel-shots");
    let mut phone = Person::at(&place, (412, 860), stage.net.folder(), &shots).await?;
    phone
        .open(&format!("{}/login?next=%2Flibrary", stage.gateway.url()))
        .await?;
    phone.fill("password", PASSWORD).await?;
    phone.click("form button.primary").await?;
    phone.see("document.getElementById('upload-form')").await?;
    phone.shot("upload-empty-phone").await?;

    let (film, photo) = (
        noise("film of the phone", FILM),
        noise("photo of the phone", 3_333_333),
    );
    let (film_at, photo_at) = (
        stage.file("holiday.mp4", &film)?,
        stage.file("beach.jpg", &photo)?,
    );
    choose(&phone, &[&film_at, &photo_at]).await?;
    let done = |at: u64| move |status: &Status| sent(status, "holiday").filter(|bytes| *bytes > at);
    let before = stage
        .house
        .wait("a part of the film", LONG, done(20_000_000))
        .await?;
    phone.shot("upload-under-way-phone").await?;
    stage.gateway.crash().await?;
    stage.house.wait_up().await?;
    let after = stage.house.wait("the film to go on", LONG, done(0)).await?;
    println!("killed with {before} bytes there, went on from {after} or before");
    ensure!(after >= before / 2, "it began again");
    phone
        .see("document.querySelectorAll('#upload-list [data-upload=done]').length === 2")
        .await?;
    phone.shot("upload-done-phone").await?;
    stage.has("holiday", &film).await?;
    stage.has("beach", &photo).await?;

    // The page is loaded again in the middle; the same file chosen again goes on.
    let other = noise("second film", FILM);
    let other_at = stage.file("party.mp4", &other)?;
    choose(&phone, &[&other_at]).await?;
    let part = |status: &Status| sent(status, "party").filter(|bytes| *bytes > 20_000_000);
    stage
        .house
        .wait("a part of the second film", LONG, part)
        .await?;
    phone
        .browser
        .run("window.onbeforeunload = null; setTimeout(() => location.href = '/devices')")
        .await?;
    if let Err(error) = phone.browser.client.accept_alert().await {
        println!("no question before leaving: {error}");
    }
    phone.see("location.pathname === '/devices'").await?;
    phone
        .open(&format!("{}/library", stage.gateway.url()))
        .await?;
    phone
        .see("!document.getElementById('upload-left').hidden")
        .await?;
    let url = phone
        .see("Object.values(JSON.parse(localStorage['mantel-uploads']))[0]")
        .await?;
    let head = stage
        .house
        .session()
        .request(reqwest::Method::HEAD, url.as_str().context("a path")?)?;
    let head = head.send().await?;
    let offset = head
        .headers()
        .get("upload-offset")
        .context("an offset")?
        .to_str()?
        .parse::<u64>()?;
    ensure!(offset >= 20_000_000, "{offset} bytes are there");
    phone.shot("upload-left-phone").await?;
    choose(&phone, &[&other_at, &photo_at]).await?;
    phone
        .see("document.querySelectorAll('#upload-list [data-upload=done]').length === 2")
        .await?;
    let words = phone
        .see("document.getElementById('upload-list').innerText")
        .await?;
    ensure!(
        words
            .as_str()
            .is_some_and(|words| words.contains("Already in the library")),
        "{words}"
    );
    phone.shot("upload-known-phone").await?;
    stage.has("party", &other).await?;
    ensure!(
        stage.names().await?.len() == 3,
        "{:?}",
        stage.names().await?
    );
    for bytes in [&film, &photo, &other] {
        stage.sealed(bytes)?;
    }
    phone
        .leave(&[
            "ERR_CONNECTION",
            "Failed to load resource",
            "ERR_EMPTY_RESPONSE",
            "beforeunload",
        ])
        .await?;
    stage.done().await
}
