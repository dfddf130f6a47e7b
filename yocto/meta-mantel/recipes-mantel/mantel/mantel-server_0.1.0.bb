SUMMARY = "The relaying server"
DESCRIPTION = "Holds prices, payments and restrictions, signs grants, and relays ciphertext between homes that cannot \
    reach each other."
require mantel-cargo.inc

MANTEL_UNITS = "mantel-server.service"
SYSTEMD_SERVICE:${PN} = "mantel-server.service"
