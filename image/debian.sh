# Which Debian the appliance is made of, and where its packages come from: for lib.sh, and for the QEMU of the tests
# (../mantel). Sourced, not run.
# shellcheck shell=bash disable=SC2034 # used there
suite=trixie
mirror=${MANTEL_MIRROR:-http://deb.debian.org/debian}
security=${MANTEL_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
debian_sources=("deb $mirror $suite main" "deb $mirror $suite-updates main" "deb $security $suite-security main")
