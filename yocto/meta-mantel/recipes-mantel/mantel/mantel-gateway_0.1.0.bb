SUMMARY = "The gateway in each home"
DESCRIPTION = "Finds the cameras, media servers and televisions of a home, keeps the household's media sealed, and \
    exchanges titles with other homes."
# Style sheets and scripts of its pages are built files in the repository (gateway/assets/dist) that the program holds in
# itself: neither Node.js nor npm takes part here. `./mantel build` makes them anew from gateway/web.
require mantel-cargo.inc

DEPENDS += "alsa-lib bindgen-cli-native clang-native udev"

# The crate v4l2-sys-mit reads the kernel's headers of Video4Linux with a bindgen of its own (0.65), which silently makes
# empty structures of them with this release's libclang (22). The release's own bindgen reads them here instead, and the
# crate's build script only takes over what it wrote.
SRC_URI += "file://v4l2-build.rs"
do_configure:append() {
    cd ${CARGO_VENDORING_DIRECTORY}/v4l2-sys-mit-*/
    bindgen wrapper.h --output v4l2_bindings.rs -- --target=${TARGET_ARCH}-linux-gnu --sysroot=${STAGING_DIR_TARGET}
    cp ${UNPACKDIR}/v4l2-build.rs build.rs
}

MANTEL_UNITS = " \
    mantel-gateway.service \
    mantel-media-eject.path \
    mantel-media-eject.service \
    mantel-media-worker.socket \
    mantel-media-worker@.service \
"
SYSTEMD_SERVICE:${PN} = "mantel-gateway.service mantel-media-eject.path mantel-media-worker.socket"

do_install:append() {
    install -D -m 644 ${S}/systemd/99-mantel-media.rules ${D}${nonarch_base_libdir}/udev/rules.d/99-mantel-media.rules
    install -D -m 644 ${S}/systemd/mantel-media.conf ${D}${nonarch_libdir}/tmpfiles.d/mantel-media.conf
    install -D -m 644 ${S}/systemd/mantel-modules.conf ${D}${nonarch_libdir}/modules-load.d/mantel.conf
    install -D -m 755 ${S}/systemd/media-eject ${D}${nonarch_libdir}/mantel/media-eject
}
FILES:${PN} += " \
    ${nonarch_base_libdir}/udev/rules.d \
    ${nonarch_libdir}/tmpfiles.d \
    ${nonarch_libdir}/modules-load.d \
"

# ffmpeg and ffprobe read media, in workers of their own.
RDEPENDS:${PN} = "ffmpeg"
# Without these, audio CDs are not read, and sound cards stay as muted as they come.
RRECOMMENDS:${PN} = "alsa-ucm-conf alsa-utils-alsactl libcdio-paranoia-utils libcdio-utils"
# `bitbake world` leaves it out where nobody has accepted ffmpeg's flag; the distribution `mantel` has.
EXCLUDE_FROM_WORLD = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_ffmpeg', '0', '1', d)}"
