#!/usr/bin/python3
"""A camera's snapshot page: one JPEG behind an HTTP digest log-in (RFC 7616, MD5, qop=auth).

Arguments: ADDRESS PORT FILE USER PASSWORD. Prints "ready" once it listens, and a line for each request.
"""
import hashlib
import re
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS, PORT, FILE, USER, PASSWORD = sys.argv[1:]
REALM = "camera"
NONCES = set()


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


class Snapshot(BaseHTTPRequestHandler):
    def admitted(self):
        given = self.headers.get("Authorization", "")
        if not given.startswith("Digest "):
            return False
        told = {key: quoted or plain for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', given)}
        if told.get("nonce") not in NONCES or told.get("uri") != self.path or told.get("username") != USER:
            return False
        secret = md5(f"{USER}:{REALM}:{PASSWORD}")
        request = md5(f"{self.command}:{self.path}")
        parts = [secret, told["nonce"], told["nc"], told["cnonce"], told["qop"], request]
        return secrets.compare_digest(md5(":".join(parts)), told["response"])

    def do_GET(self):
        if not self.admitted():
            nonce = secrets.token_hex(16)
            NONCES.add(nonce)
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Digest realm="{REALM}", nonce="{nonce}", qop="auth"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with open(FILE, "rb") as file:
            picture = file.read()
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(picture)))
        self.end_headers()
        self.wfile.write(picture)

    def log_message(self, form, *values):
        print(form % values, flush=True)


server = ThreadingHTTPServer((ADDRESS, int(PORT)), Snapshot)
print("ready", flush=True)
server.serve_forever()
