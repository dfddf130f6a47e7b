# What rootfs.sh and disk.sh share: Debian's packages unpacked, the gateway and its units put in. Sourced, not run.
# shellcheck shell=bash

# Set by the caller to have a screen's pages put in; the root of such an image is unpacked apart from the usual one.
: "${kiosk:=}"
# shellcheck source=image/debian.sh
source "$here/debian.sh"
# Files in the image carry the time of the commit, so that the same sources give the same image.
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export SOURCE_DATE_EPOCH=$epoch TZ=UTC LC_ALL=C

say() { printf '    %s\n' "$*"; }

# What a Debian package leaves out: manuals, translations.
excludes=('/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/info/*' '/usr/share/lintian/*')

# Unpacks Debian packages, listed in the file $1, into the archive $2.tar, unless it is there and younger than $days (set
# by the caller). Further arguments go to mmdebstrap.
debian() {
    local list=$1 out=$2 wanted include path
    local -a leave_out=()
    shift 2
    include=$(sed 's/#.*//' "$list" | awk 'NF { print $1 }' | paste -sd,)
    wanted="${debian_sources[*]} $(sha256sum <"$list")"
    if [[ -f $out.tar && $(head -n 1 "$out.stamp" 2>/dev/null) == "$wanted" && $(find "$out.stamp" -mtime "-$days") ]]; then
        return
    fi
    say "Debian $suite packages of image/${list##*/} (mmdebstrap)"
    for path in "${excludes[@]}"; do
        leave_out+=(--dpkgopt="path-exclude=$path")
    done
    mmdebstrap --quiet --mode=root --variant=minbase --include="$include" "${leave_out[@]}" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' "$@" \
        "$suite" "$out.tar" "${debian_sources[@]}"
    printf '%s\n%s\n' "$wanted" "$(date -u +%FT%T)" >"$out.stamp"
}

base() {
    local list=$here/packages
    base=$work/base
    if [[ -n $kiosk ]]; then
        list=$work/packages-kiosk
        base=$work/base-kiosk
        cat "$here/packages" "$here/packages-kiosk" >"$list"
    fi
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    debian "$list" "$base" \
        --essential-hook='d=$1/usr/share/initramfs-tools/modules.d && mkdir -p "$d" && printf "squashfs\nvirtio_blk\nvirtio_pci\n" >"$d/mantel"'
}

fill() {
    local root=$1
    say "The gateway, its units and accounts"
    install -D -m 755 "$programs/mantel-gateway" "$root/usr/lib/mantel/mantel-gateway"
    strip "$root/usr/lib/mantel/mantel-gateway"
    # Its number stays the same in all versions: it owns what is on the data partition.
    install -d "$root/usr/lib/sysusers.d"
    sed 's/^\(u!* *mantel\) *-/\1 900/' "$here/../systemd/mantel-users.conf" >"$root/usr/lib/sysusers.d/mantel.conf"
    local unit
    for unit in "$here"/../systemd/*.{service,socket,path,target,timer,mount}; do
        # The server's is for the operator's machine.
        [[ -f $unit && $unit != */mantel-server.service ]] && install -D -m 644 "$unit" -t "$root/usr/lib/systemd/system"
    done
    for unit in "$here"/../systemd/*.rules; do
        [[ -f $unit ]] && install -D -m 644 "$unit" -t "$root/usr/lib/udev/rules.d"
    done
    install -D -m 644 "$here/../systemd/mantel-media.conf" "$root/usr/lib/tmpfiles.d/mantel-media.conf"
    install -D -m 644 "$here/../systemd/mantel-modules.conf" "$root/usr/lib/modules-load.d/mantel.conf"
    install -D -m 755 "$here/../systemd/media-eject" "$root/usr/lib/mantel/media-eject"
    cp -R --preserve=mode,links "$here/root/." "$root/"
    if [[ -n $kiosk ]]; then
        cp -R --preserve=mode,links "$here/root-kiosk/." "$root/"
        # Their order may be that of a folder on the builder's disk; without them icons are looked for.
        rm -f "$root"/usr/share/icons/*/icon-theme.cache
    fi
    chown -R 0:0 "$root/usr/lib/mantel" "$root/etc/rauc"
    # Their warnings that /proc is missing say nothing here: both only write files.
    chroot "$root" systemd-sysusers 2>/dev/null
    chroot "$root" systemctl --quiet enable mantel-gateway.service mantel-media-worker.socket mantel-media-eject.path systemd-networkd.service \
        systemd-resolved.service systemd-timesyncd.service mantel-system.service mantel-good.service \
        mantel-console.service mantel-request.path ${kiosk:+mantel-kiosk.service} 2>/dev/null
    chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service getty@.service \
        serial-getty@.service systemd-firstboot.service ctrl-alt-del.target ${kiosk:+seatd.service} 2>/dev/null
    # Nobody logs in: no password, no shell to reach.
    sed -i 's/^\(root\):[^:]*:/\1:!*:/' "$root/etc/shadow"
    : >"$root/etc/machine-id"
    echo mantel >"$root/etc/hostname"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    # What differs between two builds and means nothing.
    rm -f "$root"/etc/{passwd,group,shadow,gshadow,subuid,subgid}- "$root/var/lib/systemd/random-seed"
    rm -rf "$root"/var/cache/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc \
        "$root"/usr/share/man "$root"/usr/share/info
    find "$root/usr/share/locale" -mindepth 1 -delete 2>/dev/null || true
}
