SUMMARY = "The first partition of a UEFI machine: GRUB and its variables"
DESCRIPTION = "GRUB with the configuration of the image from Debian packages (image/grub.cfg). Never updated."
require mantel-source.inc

inherit deploy nopackages

DEPENDS = "dosfstools-native grub-native mtools-native"
COMPATIBLE_HOST = "x86_64.*-linux"
do_configure[noexec] = "1"
do_install[noexec] = "1"
do_compile[depends] += "grub-efi:do_deploy"
do_compile[cleandirs] = "${B}"
B = "${WORKDIR}/build"
PACKAGE_ARCH = "${MACHINE_ARCH}"

MANTEL_ESP_MIB = "64"

do_compile() {
    grub-editenv grubenv create
    grub-editenv grubenv set "ORDER=A B" A_OK=1 A_TRY=0 B_OK=0 B_TRY=0 RESET=0
    cp ${DEPLOY_DIR_IMAGE}/grub-efi-bootx64.efi BOOTX64.EFI
    cp ${S}/image/grub.cfg grub.cfg
    truncate -s ${MANTEL_ESP_MIB}M esp.img
    mkfs.vfat -F 32 --invariant -s 1 -i 4d414e45 -n MANTELESP esp.img
    export MTOOLS_SKIP_CHECK=1
    mmd -i esp.img ::EFI ::EFI/BOOT
    # The variables first: their place is then always the same, and boot-env writes there without mounting anything.
    mcopy -i esp.img grubenv ::EFI/BOOT/
    mcopy -i esp.img BOOTX64.EFI grub.cfg ::EFI/BOOT/
    found=$(grep -abo '# GRUB Environment Block' esp.img | awk -F: '$1 % 512 == 0 { print $1 / 512; exit }')
    wanted=$(sed -n 's/^sector=//p' ${S}/image/root/usr/lib/mantel/boot-env)
    if [ "$found" != "$wanted" ]; then
        bbfatal "the boot loader's variables are at sector $found of the ESP, boot-env looks at $wanted"
    fi
}

do_deploy() {
    install -m 644 ${B}/esp.img ${DEPLOYDIR}/mantel-esp-${MACHINE}.img
}
addtask deploy after do_compile before do_build
