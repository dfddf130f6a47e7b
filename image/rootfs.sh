#!/usr/bin/env bash
# Builds the appliance's root file system from Debian packages: a squashfs, with the kernel and the initial RAM disk
# beside it, to be booted without boot loader and slots. Called by ./mantel; needs root.
#
#   rootfs.sh PROGRAMS WORK
#
# PROGRAMS holds mantel-gateway. WORK gets root.squashfs, vmlinuz and initrd; its file base.tar keeps the Debian
# packages unpacked, for the next time (a changed `packages` file or four weeks make them anew).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$1
work=$2
# For tests alone.
days=28
mkdir -p "$work"
# shellcheck source=image/lib.sh
source "$here/lib.sh"

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
tar -C "$root" -xf "$base.tar"
fill "$root"
pack "$root"
rm -rf "$root"
