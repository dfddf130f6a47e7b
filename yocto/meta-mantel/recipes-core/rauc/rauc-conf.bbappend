# The configuration of the image from Debian packages, with the version and the compatible name of this one; whose
# signatures count is said by the same authority (MANTEL_KEYS).
FILESEXTRAPATHS:prepend:mantel := "${MANTEL_ROOT}/image/root/etc/rauc:"
FILESEXTRAPATHS:append:mantel = ":${MANTEL_KEYS}"
RAUC_KEYRING_FILE:mantel = "ca.pem"

do_install:append:mantel() {
    sed -i -e 's/@VERSION@/${MANTEL_VERSION}/' -e 's/^compatible=.*/compatible=${MANTEL_COMPATIBLE}/' \
        -e 's,/run/mantel-disk/,/dev/disk/by-partlabel/,' -e 's,^path=/etc/rauc/,path=${nonarch_libdir}/rauc/,' ${D}${nonarch_libdir}/rauc/system.conf
}
PACKAGE_ARCH:mantel = "${MACHINE_ARCH}"
