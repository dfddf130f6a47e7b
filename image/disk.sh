#!/usr/bin/env bash
# Builds the appliance: a disk image for UEFI x86-64 and a signed update bundle of the same version. Called by ./mantel;
# needs root.
#
#   disk.sh PROGRAMS WORK KEYS VERSION [--kiosk] [--bundle-only] [--trial] [--broken] [--tiny]
#
# PROGRAMS holds mantel-gateway. WORK/VERSION gets mantel.img, mantel.raucb and packages.txt; with --kiosk, which puts in
# what shows pages on a screen, they are in WORK/VERSION-kiosk and named mantel-kiosk. KEYS holds what bundles are signed
# with; it is made when missing (see README.md). --bundle-only leaves the disk image out. For the tests: --trial puts all
# of it into WORK/trial; --broken puts a gateway in that ends at once, for the fallback; --tiny makes a small bundle that
# is rightly signed and holds no system, for refusals.
#
# The same sources, packages, keys and version give the same mantel.img, bit for bit.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Mounts of this script end with it.
if [[ -z ${MANTEL_IMAGE_NS:-} ]]; then
    MANTEL_IMAGE_NS=1 exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi
programs=$1
work=$2
keys=$3
version=$4
shift 4
# What is shipped holds Debian's packages of the day.
bundle_only='' broken='' tiny='' kiosk='' trial='' days=1
for word in "$@"; do
    case $word in
        --bundle-only) bundle_only=yes ;;
        --broken) broken=yes ;;
        --kiosk) kiosk=yes ;;
        --tiny) tiny=yes ;;
        --trial) trial=trial/ days=28 ;;
        *) echo "disk.sh: what is $word?" >&2 && exit 2 ;;
    esac
done
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || {
    echo "disk.sh: a version is three numbers with dots, such as 1.2.3" >&2
    exit 2
}
mkdir -p "$work" "$keys"
chmod 700 "$keys"
work=$(cd "$work" && pwd)
keys=$(cd "$keys" && pwd)
# shellcheck source=image/lib.sh
source "$here/lib.sh"
name=mantel${kiosk:+-kiosk}
# Its folder below WORK. Boxes take bundles of their own kind only, whatever the version.
folder=$trial$version${kiosk:+-kiosk}
compatible=$name-x86_64
out=$work/$folder
root=$work/root-$version
tools=$work/tools
# MiB, the same as in repart/: a slot cannot grow once it is in a home.
esp_mib=64
boot_mib=96
root_mib=768

in_tools() {
    chroot "$tools" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TZ=UTC LC_ALL=C \
        SOURCE_DATE_EPOCH="$epoch" MTOOLS_SKIP_CHECK=1 "$@"
}
# A lasting UUID for a name.
uuid() { sha256sum <<<"mantel $1" | sed 's/\(.\{8\}\)\(....\).\(...\).\(...\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/'; }

unpack_tools() {
    debian "$here/tools" "$work/tools"
    if [[ $(cat "$tools/.stamp" 2>/dev/null || true) != $(cat "$work/tools.stamp") ]]; then
        rm -rf "$tools"
        mkdir "$tools"
        tar -C "$tools" -xf "$work/tools.tar"
        cp "$work/tools.stamp" "$tools/.stamp"
    fi
    mkdir -p "$tools/work"
    mount --bind "$work" "$tools/work"
    mount -t proc proc "$tools/proc"
    mount -t tmpfs tmpfs "$tools/tmp"
    mount --rbind /dev "$tools/dev"
}

# ---- The keys --------------------------------------------------------------------------------------

make_keys() {
    local file
    local -a missing=()
    for file in ca.pem sign.pem sign.key; do
        [[ -f $keys/$file ]] || missing+=("$file")
    done
    ((${#missing[@]} == 0)) && return
    # New ones in place of some would lock out every box that trusts the others.
    if ((${#missing[@]} < 3)) || [[ -e $keys/ca.key ]]; then
        echo "disk.sh: $keys has no ${missing[*]}; bring the missing files back, or name an empty folder for new keys" >&2
        return 1
    fi
    say "Keys for update bundles in $keys (keep sign.key and ca.key secret; whoever has them updates every box)"
    (
        umask 077
        mkdir -p "$work/newkeys"
        cat >"$work/newkeys/conf" <<'CONF'
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[sign]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
CONF
        in_tools sh -ec 'cd /work/newkeys
            openssl req -x509 -newkey rsa:3072 -nodes -keyout ca.key -out ca.pem -days 7300 -sha256 \
                -subj "/O=Mantel/CN=Mantel updates" -config conf -extensions ca 2>/dev/null
            openssl req -newkey rsa:3072 -nodes -keyout sign.key -out sign.csr -config conf \
                -subj "/O=Mantel/CN=Mantel update signing" 2>/dev/null
            openssl x509 -req -in sign.csr -CA ca.pem -CAkey ca.key -days 7300 -sha256 -out sign.pem \
                -extfile conf -extensions sign -set_serial 1 2>/dev/null'
        mv --no-clobber "$work"/newkeys/{ca.key,ca.pem,sign.key,sign.pem} "$keys/"
        rm -rf "$work/newkeys"
    )
    chmod 644 "$keys/ca.pem" "$keys/sign.pem"
}

# ---- Root ------------------------------------------------------------------------------------------

make_root() {
    rm -rf "$root"
    mkdir "$root"
    tar -C "$root" -xf "$base.tar"
    fill "$root"
    # shellcheck disable=SC2016 # expanded by dpkg-query
    chroot "$root" dpkg-query -W -f='${Package} ${Version} ${Architecture}\n' >"$out/packages.txt"
    cat >"$root/usr/lib/os-release" <<RELEASE
PRETTY_NAME="Mantel $version"
NAME="Mantel"
ID=mantel
ID_LIKE=debian
IMAGE_ID=mantel
IMAGE_VERSION=$version
VERSION_ID=$version
RELEASE
    [[ -z $kiosk ]] || printf 'VARIANT="with a screen"\nVARIANT_ID=kiosk\n' >>"$root/usr/lib/os-release"
    sed -i "s/@VERSION@/$version/; s/^compatible=.*/compatible=$compatible/" "$root/etc/rauc/system.conf"
    install -m 644 "$keys/ca.pem" "$root/etc/rauc/ca.pem"
    [[ -z $broken ]] || printf '#!/bin/sh\nexit 1\n' >"$root/usr/lib/mantel/mantel-gateway"
    cp "$root"/boot/vmlinuz-* "$work/boot/vmlinuz"
    kernel=$(basename "$root"/usr/lib/modules/*)
    make_initrd
    # The initial RAM disk of rootfs.sh, the package manager's memory: nothing there is used.
    rm -rf "${root:?}"/boot/* "$root"/initrd.img* "$root"/vmlinuz* "$root"/var/lib/dpkg "$root"/var/lib/apt
    # Where the data partition and the boot loader's block are seen from; mount points of a read-only root.
    mkdir -p "$root/efi"
    rm -rf "${root:?}/var"/*
}

make_initrd() {
    local stamp
    stamp=$(cat "$work/tools.stamp" "$here"/initrd/* "$here"/repart/* "$here/root/usr/lib/mantel/boot-env" |
        sha256sum | cut -c 1-16)-$kernel-$epoch
    if [[ ! -f $work/initrd-$stamp ]]; then
        say "Initial RAM disk (dracut)"
        local module=$tools/usr/lib/dracut/modules.d/90mantel
        rm -rf "$module" "$tools/usr/lib/modules" "$work"/initrd-*
        mkdir -p "$module/repart.d" "$tools/usr/lib/modules"
        cp "$here"/initrd/* "$here/root/usr/lib/mantel/boot-env" "$module/"
        cp "$here"/repart/*.conf "$module/repart.d/"
        mount --bind "$root/usr/lib/modules" "$tools/usr/lib/modules"
        in_tools dracut --quiet --force --reproducible --no-hostonly --no-early-microcode --kver "$kernel" --zstd \
            -m "base systemd systemd-initrd systemd-udevd systemd-journald systemd-modules-load systemd-veritysetup dm rootfs-block fs-lib tpm2-tss mantel" \
            /work/initrd.new >"$work/dracut.log" 2>&1 || {
            tail -n 20 "$work/dracut.log" >&2
            return 1
        }
        umount "$tools/usr/lib/modules"
        mv "$work/initrd.new" "$work/initrd-$stamp"
    fi
    cp "$work/initrd-$stamp" "$work/boot/initrd"
}

# ---- Slot: root with its tree of hashes, boot partition with the root's hash ------------------------

make_slot() {
    local size hash
    say "Root (squashfs, dm-verity)"
    rm -f "$out/root.img"
    in_tools env -u SOURCE_DATE_EPOCH mksquashfs "/work/root-$version" "/work/$folder/root.img" -quiet -no-progress \
        -noappend -comp zstd -Xcompression-level "${MANTEL_SQUASH_LEVEL:-15}" -b 256K -mkfs-time "$epoch" -all-time "$epoch" \
        >"$work/mksquashfs.log"
    size=$((($(stat -c %s "$out/root.img") + 4095) / 4096 * 4096))
    truncate -s "$size" "$out/root.img"
    hash=$(in_tools veritysetup format --salt="$(sha256sum <<<"mantel $version" | cut -c 1-64)" \
        --uuid="$(uuid "verity $version")" --hash-offset="$size" \
        "/work/$folder/root.img" "/work/$folder/root.img" | sed -n 's/^Root hash:[[:space:]]*//p')
    (($(stat -c %s "$out/root.img") <= root_mib << 20)) || {
        echo "disk.sh: the root is larger than its slot of $root_mib MiB" >&2
        return 1
    }
    say "The root takes $((($(stat -c %s "$out/root.img") + 1048575) >> 20)) of $root_mib MiB"

    # Both slots get the same files: the boot loader says which one it is.
    cat >"$work/boot/slot.cfg" <<SLOT
linux \$p/vmlinuz console=tty0 console=ttyS0,115200 quiet ro root=/dev/mapper/root rootfstype=squashfs gpt systemd.gpt_auto=0 roothash=$hash systemd.verity_root_data=PARTLABEL=mantel-root-\$label systemd.verity_root_hash=PARTLABEL=mantel-root-\$label systemd.verity_root_options=hash-offset=$size,panic-on-corruption panic=5 transparent_hugepage=never rd.shell=0 rd.emergency=reboot systemd.default_device_timeout_sec=60s systemd.condition_needs_update=0 rauc.slot=\$slot \$extra
initrd \$p/initrd
SLOT
    (cd "${work:?}/boot" && sha256sum vmlinuz initrd slot.cfg >SHA256SUMS)
    rm -f "$out/boot.img"
    fat "/work/$folder/boot.img" $boot_mib MANTELBOOT 4d414e42
    in_tools mcopy -i "/work/$folder/boot.img" /work/boot/{SHA256SUMS,slot.cfg,vmlinuz,initrd} ::
}

fat() { # file, MiB, label, volume number
    in_tools truncate -s "$2M" "$1"
    in_tools mkfs.vfat -F 32 --invariant -s 1 -i "$4" -n "$3" "$1" >/dev/null
}

make_bundle() {
    say "Update bundle (RAUC)"
    rm -rf "$work/bundle" "$out/$name.raucb"
    mkdir "$work/bundle"
    ln "$out/boot.img" "$out/root.img" "$work/bundle/"
    cat >"$work/bundle/manifest.raucm" <<MANIFEST
[update]
compatible=$compatible
version=$version

[bundle]
format=verity

[image.boot]
filename=boot.img

[image.rootfs]
filename=root.img
MANIFEST
    mount --bind "$keys" "$tools/mnt"
    in_tools rauc bundle --cert=/mnt/sign.pem --key=/mnt/sign.key --keyring=/mnt/ca.pem \
        --mksquashfs-args="-no-compression" /work/bundle "/work/$folder/$name.raucb" >"$work/rauc.log" 2>&1 || {
        tail "$work/rauc.log" >&2
        return 1
    }
    umount "$tools/mnt"
    rm -rf "$work/bundle"
}

# ---- Disk ------------------------------------------------------------------------------------------

make_esp() {
    local found wanted
    mkdir -p "$work/esp"
    cp "$here/grub.cfg" "$work/esp/"
    in_tools grub-editenv /work/esp/grubenv create
    in_tools grub-editenv /work/esp/grubenv set "ORDER=A B" A_OK=1 A_TRY=0 B_OK=0 B_TRY=0 RESET=0
    in_tools grub-mkimage -O x86_64-efi -o /work/esp/BOOTX64.EFI -p /EFI/BOOT part_gpt fat normal linux loadenv test \
        regexp configfile echo sleep reboot serial terminal all_video hashsum gcry_sha256 halt password_pbkdf2
    rm -f "$out/esp.img"
    fat "/work/$folder/esp.img" $esp_mib MANTELESP 4d414e45
    in_tools mmd -i "/work/$folder/esp.img" ::EFI ::EFI/BOOT
    in_tools mcopy -i "/work/$folder/esp.img" /work/esp/grubenv ::EFI/BOOT/
    in_tools mcopy -i "/work/$folder/esp.img" /work/esp/{BOOTX64.EFI,grub.cfg} ::EFI/BOOT/
    found=$(grep -abo '# GRUB Environment Block' "$out/esp.img" | awk -F: '$1 % 512 == 0 { print $1 / 512; exit }')
    wanted=$(sed -n 's/^sector=//p' "$here/root/usr/lib/mantel/boot-env")
    [[ $found == "$wanted" ]] || {
        echo "disk.sh: the boot loader's variables are at sector $found of the ESP, boot-env looks at $wanted" >&2
        return 1
    }
}

make_disk() {
    say "Disk (GPT: ESP, slot A; the rest is made at the first start)"
    make_esp
    local disk=$out/$name.img end=$((1 + esp_mib + boot_mib + root_mib))
    rm -f "$disk"
    truncate -s $((end + 1))M "$disk"
    kind() { sed -n 's/^Type=//p' "$here/repart/$1.conf"; }
    in_tools sfdisk --quiet "/work/$folder/$name.img" <<TABLE
label: gpt
label-id: $(uuid disk)
first-lba: 2048
start=2048, size=$((esp_mib * 2048)), type=uefi, uuid=$(uuid esp), name=mantel-esp
size=$((boot_mib * 2048)), type=$(kind 20-boot-a), uuid=$(uuid boot-a), name=mantel-boot-a
size=$((root_mib * 2048)), type=$(kind 30-root-a), uuid=$(uuid root-a), name=mantel-root-a
TABLE
    place() { dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,sparse status=none; }
    place "$out/esp.img" 1
    place "$out/boot.img" $((1 + esp_mib))
    place "$out/root.img" $((1 + esp_mib + boot_mib))
    rm -f "$out/esp.img"
}

rm -rf "$out" "${work:?}/boot" "$work/esp"
mkdir -p "$out" "$work/boot"
unpack_tools
make_keys
if [[ -n $tiny ]]; then
    seq 1 40000 >"$out/root.img"
    seq 1 9000 >"$out/boot.img"
    truncate -s 256K "$out/root.img"
    truncate -s 64K "$out/boot.img"
    make_bundle
    rm -rf "${work:?}/boot" "$out/boot.img" "$out/root.img"
    exit 0
fi
base
make_root
make_slot
make_bundle
[[ -n $bundle_only ]] || make_disk
rm -rf "$root" "${work:?}/boot" "$work/esp" "$out/boot.img" "$out/root.img"
