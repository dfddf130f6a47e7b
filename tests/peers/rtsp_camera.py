#!/usr/bin/python3
"""An RTSP camera played by gst-rtsp-server: streams of several codings, open and behind a digest log-in.

Arguments: ADDRESS PORT [USER PASSWORD]. Each kind is at its own path; with a log-in all need it. Prints "ready NAMES" once it listens.
"""
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

WIDTH, HEIGHT, RATE = 640, 360, 15

PICTURE = (
    "videotestsrc is-live=true pattern=ball"
    f" ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={RATE}/1"
)
SOUND = "audiotestsrc is-live=true wave=ticks ! audioconvert ! audioresample"
H264 = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 bitrate=1000 ! rtph264pay name=pay0 pt=96"
KINDS = {
    "h264-aac": ("x264enc", f"{PICTURE} ! {H264} {SOUND} ! avenc_aac ! rtpmp4gpay name=pay1 pt=97"),
    "h264-pcma": ("x264enc", f"{PICTURE} ! {H264} {SOUND} ! alawenc ! rtppcmapay name=pay1 pt=8"),
    "h265": (
        "x265enc",
        f"{PICTURE} ! x265enc tune=zerolatency speed-preset=ultrafast key-int-max=15 bitrate=1000"
        " ! rtph265pay name=pay0 pt=96 config-interval=1",
    ),
    "mjpeg-pcmu": (
        "jpegenc",
        f"{PICTURE} ! jpegenc quality=80 ! rtpjpegpay name=pay0 pt=26 {SOUND} ! mulawenc"
        " ! rtppcmupay name=pay1 pt=0",
    ),
    "pcmu": ("mulawenc", f"{SOUND} ! mulawenc ! rtppcmupay name=pay0 pt=0"),
}


def main():
    address, port = sys.argv[1:3]
    login = sys.argv[3:5]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(address)
    server.set_service(port)
    if login:
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "household")
        auth.add_digest(*login, token)
        server.set_auth(auth)
    served = []
    for name, (encoder, pipeline) in KINDS.items():
        if Gst.ElementFactory.find(encoder) is None:
            continue
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {pipeline} )")
        factory.set_shared(True)
        if login:
            role = Gst.Structure.new_empty("household")
            for right in ("media.factory.access", "media.factory.construct"):
                role.set_value(right, True)
            factory.add_role_from_structure(role)
        server.get_mount_points().add_factory(f"/{name}", factory)
        served.append(name)
    if server.attach(None) == 0:
        sys.exit(f"{address}:{port} cannot be listened at")
    print("ready", *served, flush=True)
    GLib.MainLoop().run()


main()
