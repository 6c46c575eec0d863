"""Inputs of the benches of big layers: the same bytes on every machine.

    context(folder)     1 GiB for COPY: half of it noise in files of 4 MiB, half of it text in files of 64 KiB
    layout(folder)      an OCI layout with an image of four layers of 256 MiB, compressed by gzip -6; tag `bench`

Text is drawn from some thousand words, the common ones far more often than the rare ones, as in a language:
gzip makes about a third of it, as it does of sources and of English. Both take megabytes as an argument, and
leave alone what an earlier run has finished.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

MIB = 1 << 20
NOISE = 4 * MIB
TEXT = 64 << 10


class Source:
    """Files of noise and of text, by a seed."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        letters = "eeeeetttaaaooiinnsshhrrddlucmfwygpb"
        words = ["".join(self.chance.choices(letters, k=self.chance.randint(2, 9))) for _ in range(4000)]
        weights = [1 / (rank + 3) for rank in range(len(words))]
        prose = self.chance.choices(words, weights, k=4 << 20)
        self.prose = " ".join(prose).encode()

    def files(self, mib):
        """Names and bytes of so many MiB."""
        for number in range(mib // 2 * MIB // NOISE):
            yield f"noise/{number}", self.chance.randbytes(NOISE)
        for number in range((mib - mib // 2) * MIB // TEXT):
            at = self.chance.randrange(len(self.prose) - TEXT)
            yield f"text/{number % 64}/{number}", self.prose[at:at + TEXT]


def context(folder, mib=1024):
    """A build context below `folder`: `Dockerfile` copies `data`."""
    folder = Path(folder)
    if (folder / "Dockerfile").exists():
        return
    for name, data in Source(1).files(mib):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in [folder / "data", *(folder / "data").rglob("*")]:
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY data /data\n")


def layer(number, mib):
    """A layer's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in Source(100 + number).files(mib):
            header = tarfile.TarInfo(f"layer{number}/{name}")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


def layout(folder, mib=1024, layers=4):
    """An OCI layout with an image of so many layers."""
    folder = Path(folder)
    if (folder / "index.json").exists():
        return
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    diff_ids, entries = [], []
    for number in range(layers):
        tar = layer(number, mib // layers)
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        packed = subprocess.run(["gzip", "-n", "-6"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        entries.append(blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": entries,
    }
    entry = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    entry["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    # Last: it says that all the others are there.
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def in_a_child(make, *arguments):
    """Makes it in a process of its own: memory that this one ever had would count as every tool's peak."""
    child = os.fork()
    if child == 0:
        try:
            make(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"error: cannot make the input `{make.__name__}`")


if __name__ == "__main__":
    {"context": context, "layout": layout}[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
