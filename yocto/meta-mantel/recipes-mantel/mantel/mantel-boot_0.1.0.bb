SUMMARY = "The boot partition of a slot: kernel and how it is started"
DESCRIPTION = "A FAT file system for mantel-boot-a or -b, the same for both: the boot loader says which slot it is."
require mantel-source.inc

# For GRUB. U-Boot's own script says how the kernel is started there.
SRC_URI:append:x86-64 = " file://slot.cfg"

inherit deploy nopackages

DEPENDS = "dosfstools-native mtools-native"
do_configure[noexec] = "1"
do_install[noexec] = "1"
do_compile[depends] += "virtual/kernel:do_deploy"
do_compile[cleandirs] = "${B}"
B = "${WORKDIR}/build"
PACKAGE_ARCH = "${MACHINE_ARCH}"

# As in image/repart: a slot cannot grow once it is in a home.
MANTEL_BOOT_MIB = "96"

do_compile() {
    mkdir files
    cp ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} files/vmlinuz
    if [ -e ${UNPACKDIR}/slot.cfg ]; then
        cp ${UNPACKDIR}/slot.cfg files/
    fi
    (cd files && sha256sum * >../SHA256SUMS && mv ../SHA256SUMS .)
    truncate -s ${MANTEL_BOOT_MIB}M boot.img
    mkfs.vfat -F 32 --invariant -s 1 -i 4d414e42 -n MANTELBOOT boot.img
    MTOOLS_SKIP_CHECK=1 mcopy -i boot.img files/* ::
}

do_deploy() {
    install -m 644 ${B}/boot.img ${DEPLOYDIR}/mantel-boot-${MACHINE}.img
}
addtask deploy after do_compile before do_build
