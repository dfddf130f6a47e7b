# The variables lie on a partition of their own, mantel-env, in two copies.
FILESEXTRAPATHS:prepend:mantel := "${THISDIR}/files:"
SRC_URI:append:rpi:mantel = " file://mantel.cfg"
