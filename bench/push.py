#!/usr/bin/env python3
"""Pushes of 1 GiB to a registry on loopback: stave beside skopeo, podman and buildah.

    bench/push.py                     median of 5, with target/release/stave
    bench/push.py --runs 3 --stave PATH --megabytes 256

Needs root, docker-registry, and of buildah, podman and skopeo what shall be compared. Everything happens
in a temporary folder; nothing is downloaded.

The image has four layers, two of noise and two of text. Three tasks:

    fresh      it was just built, so each layer is compressed; the registry is empty
    again      the same with one small layer more; the registry has the rest
    unchanged  the very image that the registry has

Before `fresh` whatever a tool remembers of compressed layers is removed. skopeo and podman share the
storage of buildah's build. The tools take turns within each round, so that what else the machine does
hits all. CPU seconds and peak memory are the tool's own, with all that it waited for; some 15 MiB of
Python are the least that can be seen.
"""

import argparse
import os
import random
import resource
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare import peers_environment

LAYERS = 4


def make_contexts(folder, megabytes):
    """The image, and the same with one small layer more."""
    big = folder / "big"
    big.mkdir()
    numbers = random.Random(7)
    words = ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=numbers.randint(2, 10))) for _ in range(4000)]
    text = " ".join(numbers.choices(words, k=1_400_000)).encode()[: 8 << 20]
    size = megabytes * (1 << 20) // LAYERS
    lines = ["FROM scratch"]
    for layer in range(LAYERS):
        with open(big / f"layer{layer}", "wb") as out:
            left = size
            while left > 0:
                piece = text if layer % 2 else os.urandom(8 << 20)
                out.write(piece[:left])
                left -= len(piece)
        lines.append(f"COPY layer{layer} /")
    (big / "Dockerfile").write_text("\n".join(lines) + "\n")
    small = folder / "small"
    small.mkdir()
    (small / "file").write_text("a small layer\n")


class Registry:
    """docker-registry with nothing in it."""

    def __init__(self, folder):
        self.folder = folder / "registry"
        self.process = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"

    def start_empty(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        config = self.folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.folder}/data\nhttp:\n  addr: {self.host}\n"
        )
        self.process = subprocess.Popen(["docker-registry", "serve", config],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("error: docker-registry does not start")

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Stave:
    name = "stave"

    def __init__(self, program, folder, registry):
        self.start = [program, "--root", f"{folder}/stave"]
        self.root, self.registry = folder / "stave", registry

    def build(self, contexts, name):
        return [*self.start, "build", "-q", "-t", f"{self.registry.host}/{name}", str(contexts)]

    def push(self, name):
        return [*self.start, "push", "-q", f"{self.registry.host}/{name}"]

    def forget(self):
        with sqlite3.connect(self.root / "stave.db") as database:
            database.execute("DELETE FROM layer_blob")
            database.execute("DELETE FROM place")
            database.execute("UPDATE image SET manifest = NULL")
        for blob in (self.root / "blobs/sha256").iterdir():
            if blob.stat().st_size > 1 << 16:
                blob.unlink()


class Peer:
    def __init__(self, name, folder, registry):
        self.name, self.registry = name, registry
        self.storage = ["--root", f"{folder}/peers/root", "--runroot", f"{folder}/peers/run",
                        "--storage-driver", "overlay"]
        self.store = f"[overlay@{folder}/peers/root+{folder}/peers/run]"

    def build(self, contexts, name):
        return ["buildah", *self.storage, "bud", "--isolation", "chroot", "--layers", "-q",
                "-t", f"{self.registry.host}/{name}", str(contexts)]

    def push(self, name):
        name = f"{self.registry.host}/{name}"
        if self.name == "skopeo":
            return ["skopeo", "copy", "-q", "--dest-tls-verify=false",
                    f"containers-storage:{self.store}{name}", f"docker://{name}"]
        return [self.name, *self.storage, "push", "-q", "--tls-verify=false", name]

    def forget(self):
        for cache in ("/var/lib/containers/cache", os.path.expanduser("~/.local/share/containers/cache")):
            for file in Path(cache).glob("blob-info-cache*"):
                file.unlink()


def run(command, environment):
    """(seconds, CPU seconds, peak MiB), or why it failed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == 0:
        return (took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), None
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return None, (lines[-1] if lines else f"exit code {process.returncode}")[:150]


def must(command, environment):
    _, trouble = run(command, environment)
    if trouble:
        sys.exit(f"error: {' '.join(command)}: {trouble}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--stave", default="target/release/stave")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--megabytes", type=int, default=1024)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="stave-bench-") as folder:
        folder = Path(folder)
        environment = peers_environment(folder)
        # In a process of its own: what this one holds counts as the first memory of all that it starts.
        if (child := os.fork()) == 0:
            make_contexts(folder, options.megabytes)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("error: the image's files could not be made")
        registry = Registry(folder)
        contenders = [Stave(str(Path(options.stave).resolve()), folder, registry)]
        if shutil.which("buildah"):
            peers = [name for name in ("skopeo", "podman", "buildah") if shutil.which(name)]
            contenders += [Peer(name, folder, registry) for name in peers]
        (folder / "small" / "Dockerfile").write_text(f"FROM {registry.host}/big\nCOPY file /\n")
        for tool in contenders[:2]:
            must(tool.build(folder / "big", "big"), environment)
            must(tool.build(folder / "small", "small"), environment)
        measured = {}
        for round_ in range(options.runs):
            for tool in contenders:
                registry.start_empty()
                tool.forget()
                for task, name in (("fresh", "big"), ("again", "small"), ("unchanged", "small")):
                    result, trouble = run(tool.push(name), environment)
                    if trouble:
                        sys.exit(f"error: {tool.name}, {task}: {trouble}")
                    measured.setdefault((task, tool.name), []).append(result)
                    print(f"{round_} {task:10} {tool.name:8} {result[0]:7.2f} s", file=sys.stderr)
        registry.stop()
        # What overlay storage keeps mounted would keep the folder from being removed.
        subprocess.run(["umount", f"{folder}/peers/root/overlay"], stderr=subprocess.DEVNULL)
    print(f"{'task':10} {'tool':8} {'seconds':>8} {'ratio':>6} {'CPU s':>7} {'peak MiB':>9}")
    for task in ("fresh", "again", "unchanged"):
        ours = statistics.median(one[0] for one in measured[task, "stave"])
        for tool in contenders:
            wall, cpu, memory = (statistics.median(column) for column in zip(*measured[task, tool.name]))
            print(f"{task:10} {tool.name:8} {wall:8.2f} {wall / ours:6.2f} {cpu:7.2f} {memory:9.0f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
