# Chooses the slot.
FILESEXTRAPATHS:prepend:mantel := "${THISDIR}/files:"
