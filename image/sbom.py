#!/usr/bin/env python3
"""Writes the list of what is in an image (CycloneDX 1.5): Rust crates, npm packages, Debian packages.

    sbom.py VERSION PACKAGES > sbom.json

Runs in the checkout. PACKAGES is packages.txt as disk.sh wrote it: a line "name version architecture" for each Debian
package. The same inputs give the same bytes; SOURCE_DATE_EPOCH is the time that is written.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import uuid
from urllib.parse import quote

PROGRAM = "mantel-gateway"
TARGET = "x86_64-unknown-linux-gnu"
NPM_LOCK = "gateway/web/package-lock.json"


def crates():
    """Crates that are linked into the gateway, in the order of their names."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [key for key, package in packages.items() if package["name"] == PROGRAM]
    seen = set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        for edge in nodes[key]["deps"]:
            if any(kind["kind"] is None for kind in edge["dep_kinds"]):
                todo.append(edge["pkg"])
    for key in sorted(seen, key=lambda key: (packages[key]["name"], packages[key]["version"])):
        package = packages[key]
        component = entry("library", package["name"], package["version"], "cargo")
        if package.get("license"):
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        yield component


def npm():
    """What the pages are made from; `excluded` are the tools that only build them."""
    lock = json.loads(pathlib.Path(NPM_LOCK).read_text())
    for path, package in sorted(lock["packages"].items()):
        if not path or "version" not in package:
            continue
        name = package.get("name") or path.rsplit("node_modules/", 1)[-1]
        component = entry("library", name, package["version"], "npm")
        component["scope"] = "excluded" if package.get("dev") else "required"
        if isinstance(package.get("license"), str):
            component["licenses"] = [{"expression": package["license"]}]
        yield component


def debian(file):
    """Debian packages of the root file system."""
    for line in sorted(pathlib.Path(file).read_text().splitlines()):
        name, version, architecture = line.split()
        component = entry("library", name, version, "deb/debian")
        component["purl"] += f"?arch={architecture}&distro=trixie"
        component["bom-ref"] = component["purl"]
        yield component


def entry(kind, name, version, ecosystem):
    """A component with its package URL."""
    purl = f"pkg:{ecosystem}/{quote(name, safe='/')}@{quote(version, safe='')}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main():
    version, packages = sys.argv[1:]
    parts = {"crates": list(crates()), "npm": list(npm()), "debian": list(debian(packages))}
    components = [component for part in parts.values() for component in part]
    digest = json.dumps(components, sort_keys=True)
    time = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, version + digest)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "operating-system", "bom-ref": "mantel", "name": "mantel", "version": version},
        },
        "components": components,
    }
    json.dump(bom, sys.stdout, indent=1, sort_keys=True)
    print()
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    print(f"    SBOM: {counts}", file=sys.stderr)


main()
