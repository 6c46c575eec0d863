#!/usr/bin/env python3
"""Pulls an image of 1 GiB in four layers from a registry on loopback, with stave and its peers.

    bench/pull.py                       all, median of 5, with target/release/stave
    bench/pull.py --runs 3 --stave PATH --mib 256 --layout FOLDER

Needs root, Debian's docker-registry and skopeo, and of podman and buildah what shall be compared.
Half of each layer is noise and half is text, compressed by gzip; every pull begins with an empty
storage and ends with a root file system that only needs to be mounted. `skopeo copy` into a folder is
beside them as what moving and checking the bytes costs; it unpacks nothing. The tools take turns, and
the disk has written everything down before each begins.

Peak memory is that of the largest process, as the kernel counted it.

What a run wrote is emptied and removed only in the end: ext4 goes a long way round inodes that were freed
in the last minutes, and would do that for whoever comes next. Emptied files give the memory back that
the next run's are written to.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from compare import machine  # noqa: E402

MIB = 1 << 20
WORDS = [f"{a}{b}" for a in "ba ce di fo gu ha je ki lo mu na pe ri so tu".split()
         for b in "ber den gul kam lin mor nas pel rit sun tor vel wis".split()]


def layer(number, mib):
    """A tar of so many MiB: many text files, fewer of noise."""
    chance = random.Random(number)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        def add(name, data):
            header = tarfile.TarInfo(f"layer{number}/{name}")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        for n in range(mib // 2 // 4):
            add(f"noise/{n}", chance.randbytes(4 * MIB))
        prose = " ".join(chance.choices(WORDS, k=1 << 21)).encode()
        for n in range(mib // 2 * 16):
            at = chance.randrange(len(prose) - (64 << 10))
            add(f"text/{n % 64}/{n}", prose[at:at + (64 << 10)])
    return out.getvalue()


def write_layout(folder, mib):
    """An OCI layout with that image, unless it is there."""
    if (folder / "index.json").exists():
        return
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    diff_ids, layers = [], []
    for number in range(4):
        tar = layer(number, mib // 4)
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        packed = subprocess.run(["gzip", "-n", "-6"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        layers.append(blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    entry = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    entry["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def in_a_child(work, *arguments):
    """Does it in a process of its own: memory that this one ever had would count as every tool's peak."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit("error: cannot make the image")


class Registry:
    """docker-registry with that image in it."""

    def __init__(self, folder, layout):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = "127.0.0.1:%d" % probe.getsockname()[1]
        config = folder / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n"
            f"    rootdirectory: {folder}/data\nhttp:\n  addr: {self.host}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(self.host.split(":")).close()
                break
            except OSError:
                time.sleep(0.05)
        self.image = f"{self.host}/bench:latest"
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:bench",
                        f"docker://{self.image}"], check=True)

    def stop(self):
        self.process.kill()
        self.process.wait()


def pulls(stave, image, folder):
    """Name, program and words of each contender, which keeps its things in `folder`."""
    storage = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "overlay"]
    return {
        "stave": [stave, "--root", f"{folder}/root", "pull", "-q", image],
        "podman": ["podman", *storage, "pull", "-q", "--tls-verify=false", image],
        "buildah": ["buildah", *storage, "pull", "-q", "--tls-verify=false", image],
        "skopeo (no unpacking)": ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}",
                                  f"dir:{folder}/dir"],
    }


def timed(command):
    """Seconds, seconds of processor time, and peak MiB; or why it failed."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        return None, (said.strip().splitlines() or [f"exit code {child.returncode}"])[-1][:150]
    return (took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), None


def empty(folder):
    """Takes the bytes of all files away."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if os.path.isfile(path) and not os.path.islink(path):
                os.truncate(path, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stave", default="target/release/stave")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="the size of the unpacked image")
    parser.add_argument("--layout", type=Path, help="keep the image there for the next time")
    parser.add_argument("--only", help="the name of a single contender")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: this needs root, as the peers' fast storage does")
    stave = str(Path(arguments.stave).resolve())
    if not os.access(stave, os.X_OK):
        sys.exit(f"error: there is no {stave}: build it with `cargo build --release`")
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            sys.exit(f"error: there is no {program}")
    with tempfile.TemporaryDirectory(prefix="stave-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        layout = arguments.layout or folder / "layout"
        in_a_child(write_layout, layout, arguments.mib)
        moved = sum(blob.stat().st_size for blob in (layout / "blobs/sha256").iterdir())
        registry = Registry(folder, layout)
        try:
            results, troubles = {}, {}
            for round_ in range(arguments.runs + 1):  # The first is to warm up.
                for number in range(len(pulls(stave, registry.image, folder))):
                    storage = folder / f"storage-{round_}-{number}"
                    tool, command = list(pulls(stave, registry.image, storage).items())[number]
                    absent = shutil.which(command[0]) is None or arguments.only not in (None, tool)
                    if absent or tool in troubles:
                        continue
                    storage.mkdir()
                    os.sync()
                    measured, trouble = timed(command)
                    if trouble:
                        troubles[tool] = trouble
                    elif round_:
                        results.setdefault(tool, []).append(measured)
                    mounts = [line.split()[1] for line in open("/proc/mounts") if str(storage) in line]
                    for mount in reversed(mounts):
                        subprocess.run(["umount", mount], check=False)
                    empty(storage)
                print(".", end="", flush=True, file=sys.stderr)
        finally:
            registry.stop()
    print(file=sys.stderr)
    print(f"{machine()}; {moved / MIB:.0f} MiB moved; median of {arguments.runs}\n")
    own = statistics.median(run[0] for run in results.get("stave", [])) if "stave" in results else None
    for tool, runs in results.items():
        took, cpu, memory = (statistics.median(column) for column in zip(*runs))
        ratio = f"{took / own:.1f}x" if own else ""
        print(f"{tool:24}{took:8.2f} s {ratio:>6}{cpu:8.2f} s of processor{memory:8.0f} MiB")
    for tool, trouble in troubles.items():
        print(f"{tool} fails: {trouble}")


if __name__ == "__main__":
    main()
