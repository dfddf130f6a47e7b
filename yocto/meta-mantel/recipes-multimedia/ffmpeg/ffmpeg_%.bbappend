# What the gateway runs (gateway/src/library/sandbox.rs), and no more: files in, JPEG and MP4 out. No network, no devices,
# no library of others but zlib (PNG) and x264 (H.264 of recordings). With x264 ffmpeg is under the GPL as a whole; it is a
# program of its own, which the gateway starts.
PACKAGECONFIG:mantel = "avcodec avfilter avformat gpl swresample swscale x264 zlib"

EXTRA_FFCONF:append:mantel = " \
    --disable-autodetect \
    --disable-doc \
    --disable-ffplay \
    --disable-network \
    --disable-devices \
    --disable-hwaccels \
    --disable-protocols --enable-protocol=fd,file,pipe \
    --disable-encoders --enable-encoder=aac,libx264,mjpeg \
    --disable-muxers --enable-muxer=image2pipe,mp4 \
"
