# Bundles come as files from the gateway; only root may install (image/root/usr/share/dbus-1).
FILESEXTRAPATHS:prepend:mantel := "${MANTEL_ROOT}/image/root/usr/share/dbus-1/system.d:"
SRC_URI:append:mantel = " file://de.pengutronix.rauc.conf"
PACKAGECONFIG:mantel = "service nocreate"
# Slots are chosen by /usr/lib/mantel/boot-slots.
RAUC_BOOTLOADER_RDEPENDS:mantel = ""

do_install:append:mantel() {
    install -m 644 ${UNPACKDIR}/de.pengutronix.rauc.conf ${D}${datadir}/dbus-1/system.d/de.pengutronix.rauc.conf
}
