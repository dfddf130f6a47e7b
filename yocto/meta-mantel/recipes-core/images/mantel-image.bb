SUMMARY = "The appliance"
DESCRIPTION = "A read-only root for one slot (squashfs), and a disk image with slot A. Slot B and the data partition are \
    made at the first start."
LICENSE = "Apache-2.0"

inherit core-image features_check
REQUIRED_DISTRO_FEATURES = "rauc systemd usrmerge"
COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"

IMAGE_FEATURES = "read-only-rootfs"
IMAGE_LINGUAS = ""
IMAGE_INSTALL = " \
    packagegroup-core-boot \
    ca-certificates \
    kernel-modules \
    mantel-gateway \
    mantel-system \
    rauc \
"
# Network cards of PCs that stay silent without.
IMAGE_INSTALL:append:x86-64 = " linux-firmware-rtl-nic"
# mantel-good says when a start is good, not RAUC.
BAD_RECOMMENDATIONS += "rauc-mark-good"

IMAGE_FSTYPES = "squashfs-zst wic.bmap wic.zst"
IMAGE_TYPEDEP:wic = "squashfs-zst"
WKS_FILE = "mantel-efi.wks.in"
WKS_FILE:rpi = "mantel-raspberrypi.wks.in"
WKS_FILE_DEPENDS = "dosfstools-native mtools-native parted-native util-linux-native"
do_image_wic[depends] += "mantel-boot:do_deploy ${MANTEL_ESP}"
MANTEL_ESP = "mantel-esp:do_deploy"
MANTEL_ESP:rpi = ""

ROOTFS_POSTPROCESS_COMMAND += "mantel_root"
mantel_root() {
    # The data. systemd-repart has made the partition or made it larger; the file system is made when there is none.
    echo "/dev/disk/by-partlabel/mantel-data /var ext4 nosuid,nodev,noatime,x-systemd.makefs,x-systemd.growfs 0 2" \
        >>${IMAGE_ROOTFS}${sysconfdir}/fstab
    # Nobody logs in.
    for unit in getty@.service serial-getty@.service ctrl-alt-del.target systemd-firstboot.service \
        systemd-networkd-wait-online.service; do
        ln -sf /dev/null ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/$unit
    done
    # Kernel and boot loader lie on partitions of their own.
    rm -rf ${IMAGE_ROOTFS}/boot/*
}
