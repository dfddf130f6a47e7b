//! Tests of the built files themselves, without a machine: flipped bits, secrets, mutated bundles.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::lab::{contains_any, needles, run, text};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::built::{ROOT_A, TINY, first_image, image, keys, number, seed, spoil, verity};

#[test]
fn flipped_bits_in_the_root_are_noticed() -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let folder = tempfile::tempdir()?;
    let source = first_image()?;
    let (hash, tree) = verity(&source)?;
    let root = folder.path().join("root.img");
    run(
        "dd",
        &[
            &format!("if={}", text(&source)?),
            &format!("of={}", text(&root)?),
            "bs=1M",
            &format!("skip={}", ROOT_A >> 20),
            "conv=sparse",
        ],
    )?;
    let check = || {
        let offset = format!("--hash-offset={tree}");
        let root = text(&root)?;
        let done = Command::new("veritysetup")
            .args(["verify", &offset, root, root, &hash])
            .output()?;
        Ok::<bool, anyhow::Error>(done.status.success())
    };
    ensure!(check()?, "the root as it was built is not whole");
    let mut random = StdRng::seed_from_u64(seed());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&root)?;
    let flips = number("MANTEL_FLIPS", 20);
    for _ in 0..flips {
        let (place, bit) = (random.random_range(0..tree), random.random_range(0..8));
        let mut byte = [0_u8];
        file.read_exact_at(&mut byte, place)?;
        file.write_all_at(&[byte[0] ^ 1 << bit], place)?;
        ensure!(!check()?, "bit {bit} of byte {place} went unnoticed");
        file.write_all_at(&byte, place)?;
    }
    ensure!(check()?, "the root is not whole again");
    println!("{flips} flipped bits, all noticed");
    Ok(())
}

/// Files with keys that are published with their sources: what GnuTLS tries itself with.
const PUBLISHED: [&str; 1] = ["libgnutls.so."];

fn is(entry: &std::fs::DirEntry, name: &str) -> bool {
    entry.file_name().to_string_lossy().starts_with(name)
}

/// Nothing that only one box or only the builder may know is in what all boxes get.
#[test]
fn no_secret_is_in_the_image() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    let source = first_image()?;
    run(
        "unsquashfs",
        &[
            "-q",
            "-n",
            "-no-xattrs",
            "-o",
            &ROOT_A.to_string(),
            "-d",
            text(&root)?,
            text(&source)?,
        ],
    )?;
    let mut pieces = Vec::new();
    for key in ["ca.key", "sign.key"] {
        pieces.extend(needles(&keys()?.join(key), 8)?);
    }
    let found = contains_any(&root, &pieces)?;
    ensure!(found.is_empty(), "the keys of updates: {found:?}");
    let mut folders = vec![root.clone()];
    let (mut files, mut secrets) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && !PUBLISHED.iter().any(|name| is(&entry, name)) {
                files += 1;
                let bytes = std::fs::read(entry.path())?;
                // A key's text begins a line and goes on in the next; programs that read keys know its head only.
                let head = b"PRIVATE KEY-----\n";
                let is_key = |at: usize| {
                    let next = &bytes[at + head.len()..];
                    let text = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
                    next.len() >= 40 && next[..40].iter().all(text)
                };
                let mut heads = bytes.windows(head.len()).enumerate();
                if heads.any(|(at, piece)| piece == head && is_key(at)) {
                    secrets.push(entry.path());
                }
            }
        }
    }
    ensure!(secrets.is_empty(), "private keys: {secrets:?}");
    let etc = |name: &str| std::fs::read_to_string(root.join("etc").join(name));
    ensure!(etc("machine-id")?.is_empty(), "a machine-id");
    let accounts = etc("shadow")?;
    let locked = |line: &str| {
        line.split(':')
            .nth(1)
            .is_some_and(|p| p.starts_with(['!', '*']))
    };
    ensure!(
        accounts.lines().all(locked),
        "an account is open: {accounts}"
    );
    println!("{files} files: no private key, no password, no identity");
    Ok(())
}

/// What RAUC alone takes must be what was signed: the signature covers the manifest, and the manifest the hash of the
/// payload, which RAUC asks before and while it writes a slot. It leaves a few bytes of its own envelope open; a box
/// refuses changes there by the sum that was offered (`image/root/usr/lib/mantel/request`; `life` sees it).
#[test]
fn mutated_bundles_are_refused() -> Result<()> {
    let folder = image()?;
    let tools = folder.with_file_name("tools");
    let signed = std::fs::read(folder.join(TINY).join("mantel.raucb"))?;
    let keyring = std::fs::read(keys()?.join("ca.pem"))?;
    let inside = tools.join("tmp");
    std::fs::create_dir_all(&inside)?;
    std::fs::write(inside.join("ca.pem"), keyring)?;
    let signed_content = |bundle: &[u8]| -> Result<Option<String>> {
        std::fs::write(inside.join("bundle.raucb"), bundle)?;
        let chroot = |words: &[&str]| {
            let mut command = Command::new("chroot");
            command.arg(&tools).args(words);
            command.output().context("chroot")
        };
        let info = chroot(&[
            "rauc",
            "info",
            "--keyring=/tmp/ca.pem",
            "--output-format=json",
            "/tmp/bundle.raucb",
        ])?;
        if !info.status.success() {
            return Ok(None);
        }
        // The manifest is the signed one. Does its hash fit the payload?
        let signature = u64::from_be_bytes(bundle[bundle.len() - 8..].try_into()?);
        let payload = u64::try_from(bundle.len())? - 8 - signature;
        let manifest = manifest(&chroot)?;
        let word = |name: &str| -> Result<String> {
            let line = manifest.lines().find_map(|l| l.strip_prefix(name));
            Ok(line
                .with_context(|| format!("no {name}"))?
                .trim()
                .to_owned())
        };
        let tree: u64 = word("verity-size=")?.parse()?;
        let data = payload.checked_sub(tree).context("no payload")?;
        let verify = chroot(&[
            "veritysetup",
            "verify",
            "--no-superblock",
            "--hash=sha256",
            "--format=1",
            &format!("--data-blocks={}", data / 4096),
            &format!("--hash-offset={data}"),
            &format!("--salt={}", word("verity-salt=")?),
            "/tmp/bundle.raucb",
            "/tmp/bundle.raucb",
            &word("verity-hash=")?,
        ])?;
        Ok(verify.status.success().then_some(manifest))
    };
    let genuine = signed_content(&signed)?.context("the bundle as it was signed is refused")?;
    let mut random = StdRng::seed_from_u64(seed());
    let count = number("MANTEL_MUTATIONS", 1000);
    let mut envelopes = 0;
    for _ in 0..count {
        let mut bundle = signed.clone();
        while bundle == signed {
            spoil(&mut bundle, &mut random);
        }
        let Some(content) = signed_content(&bundle)? else {
            continue;
        };
        envelopes += 1;
        let length = bundle.len() == signed.len();
        ensure!(length && content == genuine, "RAUC would install {content}");
    }
    println!(
        "{count} mutated bundles: 0 with another content were accepted, {envelopes} with another envelope"
    );
    Ok(())
}

/// The manifest out of a bundle's signature (CMS).
fn manifest(chroot: &impl Fn(&[&str]) -> Result<std::process::Output>) -> Result<String> {
    let done = chroot(&[
        "sh",
        "-c",
        "n=$(stat -c %s /tmp/bundle.raucb); s=$((0x$(tail -c 8 /tmp/bundle.raucb | od -An -tx1 | tr -d ' \\n')))
         tail -c $((s + 8)) /tmp/bundle.raucb | head -c $s >/tmp/signature
         openssl cms -verify -inform DER -in /tmp/signature -CAfile /tmp/ca.pem 2>/dev/null",
    ])?;
    ensure!(done.status.success(), "the signature cannot be read");
    Ok(String::from_utf8(done.stdout)?)
}
