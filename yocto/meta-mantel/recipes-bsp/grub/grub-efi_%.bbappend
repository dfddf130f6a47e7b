# What image/grub.cfg uses.
GRUB_BUILDIN:mantel = "all_video boot configfile echo fat gcry_sha256 halt hashsum linux loadenv normal part_gpt \
    password_pbkdf2 reboot regexp search serial sleep terminal test"
