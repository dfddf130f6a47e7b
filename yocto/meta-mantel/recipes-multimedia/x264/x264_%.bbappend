# The library alone: its program would want ffmpeg, which wants it.
PACKAGECONFIG:mantel = ""
