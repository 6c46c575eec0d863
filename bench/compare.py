#!/usr/bin/env python3
"""Runs stave, buildah and podman side by side and prints a table of times and ratios.

    bench/compare.py                    all, median of 5, with target/release/stave
    bench/compare.py --runs 9 --stave PATH

Needs root, busybox-static, and of buildah, podman and runc what shall be compared; a peer that is
missing or cannot do a task is reported, not fatal. Everything happens in a temporary folder; nothing
is downloaded. The tools take turns within each round, so that what else the machine does hits all.

Every tool works on its own storage with overlay mounts on the same file system, with the host's
network in build steps. Peers run steps with runc, which makes the namespaces, filters and limits that
stave makes; buildah's chroot isolation, which makes almost none, is a column of its own.
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = "localhost/bench-base"

SIX_STEPS = f"""FROM {BASE}
RUN echo one > /one
COPY file /file
RUN echo two > /two
RUN mkdir /folder && cp /file /folder/
COPY file /folder/again
RUN cat /one /two > /three
"""

EIGHT_STAGES = "".join(
    f"FROM {BASE} AS stage{n}\nRUN sleep 1; echo {n} > /made{n}\n" for n in range(8)
) + f"FROM {BASE}\n" + "".join(f"COPY --from=stage{n} /made{n} /\n" for n in range(8))

TASKS = {
    "six steps, no cache": ("build", "six", ["--no-cache"]),
    "six steps, unchanged": ("build", "six", []),
    "8 stages of sleep 1": ("build", "eight", ["--no-cache"]),
    "run true, host network": ("run", "host", []),
    "run true, no network": ("run", "none", []),
}


class Tool:
    """One builder: how it is called, and where it keeps its things."""

    def __init__(self, name, program, options, build, jobs):
        self.name, self.program = name, program
        self.options, self.build_words, self.jobs = options, build, jobs

    def command(self, task, contexts):
        kind, which, flags = task
        start = [self.program, *self.options]
        if kind == "build":
            jobs = self.jobs if which == "eight" else []
            return [*start, *self.build_words, *jobs, *flags, "-t", f"bench-{which}", str(contexts / which)]
        if "podman" not in self.name and "stave" not in self.name:
            return None
        return [*start, "run", "--rm", "--network", which, BASE, "true"]

    def import_base(self, archive):
        if self.name == "stave":
            return [[self.program, *self.options, "import", str(archive), BASE]]
        # buildah has no import of its own; it shares its storage format with podman.
        if self.name == "podman":
            return [[self.program, *self.options, "import", str(archive), BASE]]
        containerfile = archive.parent / "import"
        return [[self.program, *self.options, "bud", "-t", BASE, str(containerfile)]]


def tools(stave, folder):
    def storage(name):
        return ["--root", f"{folder}/{name}/root", "--runroot", f"{folder}/{name}/run",
                "--storage-driver", "overlay"]

    def build(isolation):
        words = ["--isolation", isolation, "--network", "host", "--layers"]
        return words + (["--runtime", "runc"] if isolation == "oci" else [])

    return [
        Tool("stave", stave, ["--root", f"{folder}/stave"], ["build"], []),
        Tool("buildah", "buildah", storage("buildah"), ["bud", *build("oci")], ["--jobs", "8"]),
        Tool("buildah chroot", "buildah", storage("chroot"), ["bud", *build("chroot")], ["--jobs", "8"]),
        Tool("podman", "podman", ["--runtime", "runc", *storage("podman")],
             ["build", "--isolation", "oci", "--network", "host"], ["--jobs", "8"]),
    ]


def make_base(folder):
    """A root file system of one static program, and contexts to build from."""
    busybox = shutil.which("busybox") or sys.exit("error: there is no busybox (Debian: busybox-static)")
    root = folder / "import" / "root"
    (root / "bin").mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir()
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in ("sh", "true", "sleep", "echo", "cat", "cp", "mkdir"):
        (root / "bin" / name).symlink_to("busybox")
    (folder / "import" / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
    archive = folder / "base.tar"
    subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", archive, "."], check=True)
    for name, text in (("six", SIX_STEPS), ("eight", EIGHT_STAGES)):
        (folder / name).mkdir()
        (folder / name / "Dockerfile").write_text(text)
        (folder / name / "file").write_text("some text\n")
    return archive


def peers_environment(folder):
    """Limits that this process may set: the peers' defaults ask for more than a container may."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = min(resource.getrlimit(resource.RLIMIT_NPROC)[1] % (1 << 63), 32768)
    config = folder / "containers.conf"
    config.write_text(
        "[containers]\n"
        f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    return {**os.environ, "CONTAINERS_CONF": str(config)}


def run(command, environment):
    """Seconds, or why it failed."""
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    took = time.perf_counter() - begin
    if done.returncode == 0:
        return took, None
    lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
    return None, (lines[-1] if lines else f"exit code {done.returncode}")[:150]


def measure(contenders, contexts, environment, runs):
    """{(task, tool): [seconds]} and {(task, tool): why not}."""
    times, troubles = {}, {}
    for name, task in TASKS.items():
        for round_ in range(runs + 1):  # The first is to warm up.
            for tool in contenders:
                key = (name, tool.name)
                command = tool.command(task, contexts)
                if command is None or key in troubles:
                    continue
                took, trouble = run(command, environment)
                if trouble:
                    troubles[key] = trouble
                elif round_:
                    times.setdefault(key, []).append(took)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return times, troubles


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "?")
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo")) // (1 << 20)
    debian = Path("/etc/debian_version").read_text().strip()
    return f"{os.cpu_count()} cores of {cpu}, {memory} GiB, Linux {platform.release()}, Debian {debian}"


def versions(contenders, environment):
    said = []
    for program in dict.fromkeys(tool.program for tool in contenders):
        done = subprocess.run([program, "--version"], env=environment, capture_output=True, text=True)
        said.append(" ".join(done.stdout.split()[:3]))
    return ", ".join(said)


def print_table(contenders, times, troubles):
    names = [tool.name for tool in contenders]
    print(f"{'':24}" + "".join(f"{name:>22}" for name in names))
    for task in TASKS:
        own = times.get((task, "stave"))
        cells = []
        for name in names:
            taken = times.get((task, name))
            if taken is None:
                cells.append("fails" if (task, name) in troubles else "-")
                continue
            middle = statistics.median(taken)
            ratio = f" ({middle / statistics.median(own):.1f}x)" if own and name != "stave" else ""
            cells.append(f"{middle * 1000:.0f} ms{ratio}")
        print(f"{task:24}" + "".join(f"{cell:>22}" for cell in cells))
    for (task, name), trouble in troubles.items():
        print(f"{name} fails at `{task}`: {trouble}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stave", default="target/release/stave")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: this needs root, as the peers' fast storage does")
    stave = str(Path(arguments.stave).resolve())
    if not os.access(stave, os.X_OK):
        sys.exit(f"error: there is no {stave}: build it with `cargo build --release`")
    with tempfile.TemporaryDirectory(prefix="stave-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        archive = make_base(folder)
        environment = peers_environment(folder)
        contenders, absent = [], []
        for tool in tools(stave, name):
            if shutil.which(tool.program) is None:
                absent.append(f"{tool.name} is not here (Debian: {tool.program})")
                continue
            troubles = [trouble for words in tool.import_base(archive)
                        if (trouble := run(words, environment)[1])]
            if troubles:
                absent.append(f"{tool.name} cannot import the base image: {troubles[0]}")
            else:
                contenders.append(tool)
        times, troubles = measure(contenders, folder, environment, arguments.runs)
        print(f"{machine()}; {versions(contenders, environment)}; median of {arguments.runs}\n")
        print_table(contenders, times, troubles)
        for line in absent:
            print(line)
        for tool in contenders:  # Overlay mounts of the peers' storage.
            for mount in reversed([line.split()[1] for line in open("/proc/mounts") if name in line]):
                subprocess.run(["umount", mount], check=False)


if __name__ == "__main__":
    main()
