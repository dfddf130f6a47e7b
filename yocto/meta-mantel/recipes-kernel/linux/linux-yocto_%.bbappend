# PCs: what the appliance needs of the kernel.
FILESEXTRAPATHS:prepend:mantel := "${THISDIR}/files:"
SRC_URI:append:x86-64:mantel = " file://mantel.cfg file://mantel-pc.cfg"
