SUMMARY = "What runs beside the gateway on the appliance"
DESCRIPTION = "Proof that a version works, updates, restart and reset when the gateway asks, diagnostics on the serial \
    port, network and journal settings: the folder image/root of the repository, as in the image from Debian packages."
require mantel-source.inc

SRC_URI += " \
    file://mantel-data-plain.conf \
    file://mantel-reset.service \
    file://mantel-uboot.conf \
    file://reset-data \
    file://uboot-boot-env \
"

inherit systemd

do_configure[noexec] = "1"
do_compile[noexec] = "1"

# The serial port of the diagnostics.
MANTEL_CONSOLE ?= "ttyS0"
MANTEL_CONSOLE:raspberrypi5 ?= "ttyAMA10"

do_install() {
    # RAUC's own files come with rauc-conf and rauc.
    install -d ${D}${nonarch_libdir}
    cp -R --no-dereference --preserve=mode,links ${S}/image/root/usr/lib/. ${D}${nonarch_libdir}/
    chown -R root:root ${D}${nonarch_libdir}
    # The partitions are those of the image from Debian packages.
    install -d ${D}${nonarch_libdir}/repart.d
    install -m 644 ${S}/image/repart/*.conf ${D}${nonarch_libdir}/repart.d/

    # No initial RAM disk that looks for the disk.
    sed -i 's,/run/mantel-disk/,/dev/disk/by-partlabel/,' ${D}${nonarch_libdir}/mantel/boot-env

    units=${D}${systemd_system_unitdir}
    sed -i 's/\bttyS0\b/${MANTEL_CONSOLE}/g' $units/mantel-console.service
    install -D -m 644 ${UNPACKDIR}/mantel-data-plain.conf $units/mantel-system.service.d/data-plain.conf
    install -m 644 ${UNPACKDIR}/mantel-reset.service $units/mantel-reset.service
    install -m 755 ${UNPACKDIR}/reset-data ${D}${nonarch_libdir}/mantel/reset-data
}
# The same variables, kept by another boot loader.
do_install:append:rpi() {
    install -m 755 ${UNPACKDIR}/uboot-boot-env ${D}${nonarch_libdir}/mantel/boot-env
    for unit in mantel-good mantel-request mantel-system; do
        install -D -m 644 ${UNPACKDIR}/mantel-uboot.conf ${D}${systemd_system_unitdir}/$unit.service.d/uboot.conf
    done
}

PACKAGE_ARCH = "${MACHINE_ARCH}"
FILES:${PN} = "${nonarch_libdir}"
SYSTEMD_SERVICE:${PN} = " \
    mantel-console.service \
    mantel-good.service \
    mantel-request.path \
    mantel-reset.service \
    mantel-system.service \
"
RDEPENDS:${PN} = " \
    bash \
    coreutils \
    gawk \
    iproute2-ip \
    mantel-gateway \
    rauc \
    sed \
    util-linux-blkdiscard \
    util-linux-setpriv \
"
RDEPENDS:${PN}:append:rpi = " libubootenv-bin"
# As the gateway (mantel-gateway).
EXCLUDE_FROM_WORLD = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_ffmpeg', '0', '1', d)}"
