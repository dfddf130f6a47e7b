# Which Debian the appliance is made of, and where its packages come from: for lib.sh, and for the QEMU of the tests
# (../mantel). Sourced, not run.
# shellcheck shell=bash disable=SC2034 # used there
suite=trixie
mirror=${MANTEL_MIRROR:-http://deb.debian.org/debian}
