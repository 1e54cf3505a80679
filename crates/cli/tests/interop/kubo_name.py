"""A real Kubo 0.22 that resolves a name and takes what it names.

  kubo_name.py REPO MULTIADDR KEY DEST     (REPO is made; exit 0 once DEST is there)

The library's only way to fetch, `Download`, reads what it is given as a CID and asks for
"/ipfs/CID". Here the loaded library asks for "/ipns/CID" instead, and no longer claims that this
path needs no resolving: two addresses in two instructions are others, found by the library's own
symbols. The rest is Kubo's own: its resolver, its DHT, its check of the record.
Needs kubo_peer.py and libkubo_params.py on the module path, LIBKUBO, and `nm`."""

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
import time

import kubo_peer
import libkubo_params as params

PATH = "go.itab.*github.com/ipfs/boxo/coreiface/path."
DOWNLOAD, RESOLVED, PLAIN = "main.Download", PATH + "resolvedPath,", PATH + "path,"


def symbols():
    """The addresses of the three symbols, as they are in this process."""
    found = {}
    for line in subprocess.check_output(["nm", kubo_peer.SO], text=True).splitlines():
        address, _, name = line.partition(" ")
        for wanted in (DOWNLOAD, RESOLVED, PLAIN):
            name = name.split(" ", 1)[-1]
            if name == wanted or (wanted.endswith(",") and name.startswith(wanted)):
                found[wanted] = params.base + int(address, 16)
    return found


def point_elsewhere(code, at, target):
    """Lets the `lea` at `at` of the function at `code` load `target`."""
    params.w(code + at + 3, struct.pack("<i", target - (code + at + 7)))


def ask_for_names():
    found = symbols()
    code = found[DOWNLOAD]
    loads = {}  # what `lea rbx, [rip + x]` loads -> where in the function
    for match in re.finditer(rb"\x48\x8d\x1d(....)", params.rd(code, 0xA40), re.DOTALL):
        loads[code + match.start() + 7 + struct.unpack("<i", match[1])[0]] = match.start()
    prefix = next(target for target in loads if params.rd(target, 6) == b"/ipfs/")
    # Constants of one length lie side by side, so the other prefix is near.
    near = params.rd(prefix - 4096, 8192)
    ipns = prefix - 4096 + near.index(b"/ipns/")
    point_elsewhere(code, loads[prefix], ipns)
    point_elsewhere(code, loads[found[RESOLVED]], found[PLAIN])


def main():
    repo, address, key, dest = sys.argv[1:5]
    kubo_peer.start(repo)
    ask_for_names()
    repo = repo.encode()
    kubo_peer.ConnectToPeer(repo, address.encode())
    # A look-up asks those whom the DHT knows by then, and waits a minute for them if there are
    # none. Whom it knows cannot be seen from here; a peer enters it within a second.
    time.sleep(5)
    code = kubo_peer.Download(repo, key.encode(), os.path.abspath(dest).encode())
    print(json.dumps({"event": "download", "rc": code}), flush=True)
    sys.stdout.flush()
    os._exit(0 if code == 0 else 1)


main()
