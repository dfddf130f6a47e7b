# Raspberry Pi: what the appliance needs of the kernel.
FILESEXTRAPATHS:prepend:mantel := "${THISDIR}/../../../../recipes-kernel/linux/files:"
SRC_URI:append:rpi:mantel = " file://mantel.cfg"
