#!/bin/bash
# dracut module: the data partition is made, opened and mounted before the system proper starts.
check() { return 0; }
depends() { echo systemd-udevd systemd-veritysetup tpm2-tss dm; }
installkernel() {
    hostonly='' instmods dm_crypt dm_verity ext4 squashfs overlay algif_skcipher xts aes sha256 sha512 \
        virtio_blk virtio_pci virtio_scsi ahci nvme sd_mod usb_storage uas xhci_pci ehci_pci ohci_pci uhci_hcd \
        mmc_block sdhci_pci sdhci_acpi i6300esb iTCO_wdt sp5100_tco
}
install() {
    inst_multiple bash cat dd sed tr mkdir mount umount sync sleep blkid blockdev udevadm cryptsetup mkfs.ext4 mke2fs \
        fsck.ext4 e2fsck resize2fs systemd-repart systemd-cryptenroll systemd-id128 od touch rm head readlink mv
    inst_multiple /usr/lib/systemd/systemd-cryptsetup /etc/mke2fs.conf
    inst_libdir_file 'libcryptsetup.so.*' '/cryptsetup/libcryptsetup-token-systemd-tpm2.so' 'libfdisk.so.*' \
        'libtss2-*.so.*' 'ossl-modules/legacy.so'
    inst_simple "$moddir/mantel-data" /usr/lib/mantel/mantel-data
    inst_simple "$moddir/boot-env" /usr/lib/mantel/boot-env
    inst_simple "$moddir/mantel-data.service" /usr/lib/systemd/system/mantel-data.service
    mkdir -p "$initdir/usr/lib/mantel/repart.d"
    cp "$moddir"/repart.d/*.conf "$initdir/usr/lib/mantel/repart.d/"
    systemctl -q --root "$initdir" add-requires initrd-fs.target mantel-data.service
}
