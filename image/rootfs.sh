#!/usr/bin/env bash
# Builds the appliance's root file system from Debian packages: a squashfs, with the kernel and the initial RAM disk
# beside it. Called by ./mantel; needs root.
#
#   rootfs.sh PROGRAMS WORK
#
# PROGRAMS holds mantel-gateway. WORK gets root.squashfs, vmlinuz, initrd and version; its folder `base` keeps the
# Debian packages unpacked, for the next time (a changed `packages` file or a new month makes them anew).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$1
work=$2
suite=trixie
mirror=${MANTEL_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$work"
# Files in the image carry the time of the commit, so that the same sources give the same image.
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export SOURCE_DATE_EPOCH=$epoch

say() { printf '    %s\n' "$*"; }

# What a Debian package leaves out: manuals, translations.
excludes=('/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/info/*' '/usr/share/lintian/*')

base() {
    local list stamp include
    include=$(sed 's/#.*//' "$here/packages" | awk 'NF { print $1 }' | paste -sd,)
    stamp="$suite $(date -u +%Y-%m) $(sha256sum <"$here/packages")"
    [[ -f $work/base.tar && $(cat "$work/base.stamp" 2>/dev/null || true) == "$stamp" ]] && return
    say "Debian $suite packages (mmdebstrap)"
    list=()
    for path in "${excludes[@]}"; do
        list+=(--dpkgopt="path-exclude=$path")
    done
    # shellcheck disable=SC2016 # $1 is the root that mmdebstrap gives its hook
    mmdebstrap --quiet --mode=root --variant=minbase --include="$include" "${list[@]}" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
        --essential-hook='d=$1/usr/share/initramfs-tools/modules.d && mkdir -p "$d" && printf "squashfs\nvirtio_blk\nvirtio_pci\n" >"$d/mantel"' \
        "$suite" "$work/base.tar" "$mirror"
    echo "$stamp" >"$work/base.stamp"
}

fill() {
    local root=$1
    say "The gateway, its units and accounts"
    install -D -m 755 "$programs/mantel-gateway" "$root/usr/lib/mantel/mantel-gateway"
    strip "$root/usr/lib/mantel/mantel-gateway"
    install -D -m 644 "$here/../systemd/mantel-users.conf" "$root/usr/lib/sysusers.d/mantel.conf"
    local unit
    for unit in "$here"/../systemd/*.{service,socket,path,target,timer,mount}; do
        [[ -f $unit ]] && install -D -m 644 "$unit" -t "$root/usr/lib/systemd/system"
    done
    for unit in "$here"/../systemd/*.rules; do
        [[ -f $unit ]] && install -D -m 644 "$unit" -t "$root/usr/lib/udev/rules.d"
    done
    install -D -m 644 "$here/../systemd/mantel-media.conf" "$root/usr/lib/tmpfiles.d/mantel-media.conf"
    install -D -m 644 "$here/../systemd/mantel-modules.conf" "$root/usr/lib/modules-load.d/mantel.conf"
    install -D -m 755 "$here/../systemd/media-eject" "$root/usr/lib/mantel/media-eject"
    cp -a "$here/root/." "$root/"
    # Their warnings that /proc is missing say nothing here: both only write files.
    chroot "$root" systemd-sysusers 2>/dev/null
    chroot "$root" systemctl --quiet enable mantel-gateway.service mantel-media-eject.path systemd-networkd.service 2>/dev/null
    chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service getty@.service \
        serial-getty@.service 2>/dev/null
    # Nobody logs in: no password, no shell to reach.
    sed -i 's/^\(root\):[^:]*:/\1:!*:/' "$root/etc/shadow"
    : >"$root/etc/machine-id"
    echo mantel >"$root/etc/hostname"
    rm -rf "$root"/var/cache/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc \
        "$root"/usr/share/man "$root"/usr/share/info
    find "$root/usr/share/locale" -mindepth 1 -delete 2>/dev/null || true
}

pack() {
    local root=$1
    say "Kernel, initial RAM disk, squashfs"
    cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
    cp "$root"/boot/initrd.img-* "$work/initrd"
    rm -rf "${root:?}"/boot/* "$root"/initrd.img* "$root"/vmlinuz*
    rm -f "$work/root.squashfs"
    mksquashfs "$root" "$work/root.squashfs" -quiet -no-progress -noappend -comp zstd -Xcompression-level 6
}

base
root=$work/root
rm -rf "$root"
mkdir "$root"
tar -C "$root" -xf "$work/base.tar"
fill "$root"
pack "$root"
rm -rf "$root"
