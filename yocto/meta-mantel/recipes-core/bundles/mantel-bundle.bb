SUMMARY = "A signed update of the appliance"
DESCRIPTION = "Boot partition and root of one version, for the slot that does not run."
LICENSE = "Apache-2.0"

inherit bundle features_check
REQUIRED_DISTRO_FEATURES = "rauc systemd usrmerge"
COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
EXCLUDE_FROM_WORLD = "1"

RAUC_BUNDLE_FORMAT = "verity"
RAUC_BUNDLE_COMPATIBLE = "${MANTEL_COMPATIBLE}"
RAUC_BUNDLE_VERSION = "${MANTEL_VERSION}"
RAUC_BUNDLE_DESCRIPTION = "Mantel"

RAUC_BUNDLE_SLOTS = "boot rootfs"
RAUC_SLOT_boot = "mantel-boot"
RAUC_SLOT_boot[type] = "file"
RAUC_SLOT_boot[file] = "mantel-boot-${MACHINE}.img"
RAUC_SLOT_boot[rename] = "boot.img"
RAUC_SLOT_rootfs = "mantel-image"
RAUC_SLOT_rootfs[fstype] = "squashfs-zst"
RAUC_SLOT_rootfs[rename] = "root.img"

# Their places only; the keys themselves are in no tree.
RAUC_KEY_FILE = "${MANTEL_KEYS}/sign.key"
RAUC_CERT_FILE = "${MANTEL_KEYS}/sign.pem"
BUNDLE_ARGS = "--keyring=${MANTEL_KEYS}/ca.pem"
