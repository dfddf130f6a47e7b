"""A household's player program: browses a media server with async-upnp-client, Home Assistant's UPnP library.

    control_point.py find OWN_ADDRESS            the media servers that answer a search, as JSON lines
    control_point.py tree LOCATION               everything below the top, as one JSON object
    control_point.py search LOCATION CRITERIA    what a search finds, as one JSON object
    control_point.py page LOCATION ID START COUNT   one page of a container
    control_point.py fetch URL...                each file's size, SHA-256 and headers, as JSON lines
    control_point.py watch LOCATION OWN_ADDRESS  events, as JSON lines, until killed
"""

import asyncio
import hashlib
import json
import sys

import aiohttp
from async_upnp_client.aiohttp import AiohttpNotifyServer, AiohttpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.exceptions import UpnpActionError
from async_upnp_client.profiles.dlna import DmsDevice
from async_upnp_client.search import async_search

MEDIA_SERVER = "urn:schemas-upnp-org:device:MediaServer:1"
MOST_OBJECTS = 5000


def say(what):
    print(json.dumps(what), flush=True)


def plain(entry):
    """An object of a listing as JSON."""
    known = {
        name: getattr(entry, name, None)
        for name in ("id", "parent_id", "ref_id", "title", "upnp_class", "artist", "album", "date",
                     "original_track_number", "album_art_uri", "child_count")
    }
    known["resources"] = [
        {
            "url": res.uri,
            "protocol": res.protocol_info,
            "size": res.size,
            "duration": res.duration,
            "resolution": res.resolution,
        }
        for res in entry.res
    ]
    return known


async def media_server(location):
    requester = AiohttpRequester(timeout=30)
    device = await UpnpFactory(requester).async_create_device(location)
    return requester, device


async def find(own):
    seen = set()

    async def answer(headers):
        location = headers.get("location")
        if location not in seen:
            seen.add(location)
            say({"location": location, "usn": headers.get("usn")})

    await async_search(answer, timeout=3, search_target=MEDIA_SERVER, source=(own, 0))


async def tree(location):
    _, device = await media_server(location)
    server = DmsDevice(device, None)
    await server.async_update()
    out = {
        "name": server.name,
        "udn": server.udn,
        "search": list(server.search_capabilities),
        "sort": list(server.sort_capabilities),
        "update": server.system_update_id,
        "source": server.source_protocol_info,
        "containers": [],
        "items": [],
    }
    waiting = ["0"]
    while waiting and len(out["containers"]) + len(out["items"]) < MOST_OBJECTS:
        parent, start = waiting.pop(0), 0
        itself = await server.async_browse_metadata(parent)
        assert itself.id == parent, (itself.id, parent)
        while True:
            page = await server.async_browse_direct_children(
                parent, starting_index=start, requested_count=2)
            assert page.number_returned == len(page.result)
            for entry in page.result:
                if entry.upnp_class.startswith("object.container"):
                    assert entry.parent_id == parent, (entry.id, entry.parent_id, parent)
                    out["containers"].append(plain(entry))
                    waiting.append(entry.id)
                else:
                    alone = await server.async_browse_metadata(entry.id)
                    assert plain(alone) == plain(entry), (plain(alone), plain(entry))
                    out["items"].append(plain(entry) | {"listed_in": parent})
            start += page.number_returned
            if page.number_returned == 0 or start >= page.total_matches:
                break
    say(out)


async def search(location, criteria):
    _, device = await media_server(location)
    found = await DmsDevice(device, None).async_search_directory("0", criteria)
    say({"total": found.total_matches, "found": [plain(entry) for entry in found.result]})


async def one_page(location, container, start, count):
    _, device = await media_server(location)
    page = await DmsDevice(device, None).async_browse_direct_children(
        container, starting_index=int(start), requested_count=int(count))
    say({"total": page.total_matches, "returned": page.number_returned,
         "titles": [entry.title for entry in page.result]})


async def fetch(urls):
    asked = {"getcontentFeatures.dlna.org": "1", "transferMode.dlna.org": "Streaming"}
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(url, headers=asked) as answer:
                body = await answer.read()
                say({
                    "status": answer.status,
                    "bytes": len(body),
                    "sha256": hashlib.sha256(body).hexdigest(),
                    "headers": {name.lower(): value for name, value in answer.headers.items()},
                })


async def watch(location, own):
    requester, device = await media_server(location)
    notify = AiohttpNotifyServer(requester, source=(own, 0))
    await notify.async_start_server()
    server = DmsDevice(device, notify.event_handler)
    server.on_event = lambda service, variables: say(
        {"service": service.service_id, "changed": {v.name: str(v.value) for v in variables}})
    await server.async_subscribe_services(auto_resubscribe=True)
    say({"subscribed": True})
    await asyncio.sleep(3600)


def main():
    what, *rest = sys.argv[1:]
    jobs = {"find": find, "tree": tree, "search": search, "page": one_page, "watch": watch}
    try:
        if what == "fetch":
            asyncio.run(fetch(rest))
        else:
            asyncio.run(jobs[what](*rest))
    except UpnpActionError as error:
        say({"refused": error.error_code, "why": error.error_desc})
        sys.exit(3)


main()
