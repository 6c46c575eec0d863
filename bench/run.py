#!/usr/bin/env python3
"""Runs `true` in a new container that is removed again, with stave and its peers.

    bench/run.py                        all, 50 runs each, with target/release/stave
    bench/run.py --runs 20 --stave PATH --networks host,none --hundred

Needs root and Debian's busybox-static, and of runc, crun, podman and docker.io what shall be compared.
Everything happens in a network namespace of its own, where an engine of Docker's is started with a bridge
if it can be. The tools take turns, so that whatever else the machine does falls on all of them alike.

runc and crun get a ready bundle, where the others look up an image, mount its layers, and remove what was
written. `bare` is `unshare` with the same namespaces and nothing else: what the kernel wants for them.

`--hundred` also starts a hundred servers at once, asks each of them something, and stops them.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from compare import machine, make_base, peers_environment  # noqa: E402

ULIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


def enter_network():
    """Starts this program again where no network but loopback is."""
    if os.environ.get("BENCH_NETWORK"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    os.environ["BENCH_NETWORK"] = "own"
    os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def bundle(folder, tree, network):
    """An OCI bundle over the tree, with runc's own defaults."""
    place = folder / f"bundle-{network}"
    place.mkdir()
    subprocess.run(["runc", "spec"], cwd=place, check=True)
    config = json.loads((place / "config.json").read_text())
    config["process"].update(terminal=False, args=["true"], rlimits=[])
    config["root"] = {"path": str(tree), "readonly": False}
    if network == "host":
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
    (place / "config.json").write_text(json.dumps(config))
    return place


class Engine:
    """Docker's, for as long as the measurement takes."""

    def __init__(self, folder):
        self.socket = folder / "docker.sock"
        self.data = folder / "docker"
        arguments = [
            "dockerd", "--data-root", self.data, "--exec-root", folder / "exec", "-H", f"unix://{self.socket}",
            "-p", folder / "docker.pid", "--default-ulimit", "nofile=1024:1024",
        ]
        self.log = open(folder / "docker.log", "wb")
        self.bridge = True
        self.process = self.start(arguments)
        if self.process is None:
            self.bridge = False
            self.process = self.start([*arguments, "--iptables=false", "--ip6tables=false", "--bridge=none"])

    def start(self, arguments):
        process = subprocess.Popen(arguments, stdout=self.log, stderr=self.log)
        for _ in range(150):
            if process.poll() is not None:
                return None
            if subprocess.run([*self.command(), "version"], capture_output=True).returncode == 0:
                return process
            time.sleep(0.1)
        process.terminate()
        process.wait()
        return None

    def command(self):
        return ["docker", "-H", f"unix://{self.socket}"]

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
        subprocess.run(f"umount -R {self.data} 2>/dev/null; umount -l {self.data}/* 2>/dev/null", shell=True)


def contenders(arguments, folder, environment, engine):
    """Names, and for each network a command that takes the number of the run."""
    archive = make_base(folder)
    stave = [arguments.stave, "--root", folder / "stave"]
    subprocess.run([*stave, "import", archive, "base"], check=True, stdout=subprocess.DEVNULL)
    tree = folder / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
    found = {"stave": lambda network, run: [*stave, "run", "--rm", "--network", network, "base", "true"]}
    if shutil.which("runc"):
        bundles = {network: bundle(folder, tree, network) for network in ("host", "none")}
        for name in filter(shutil.which, ("runc", "crun")):
            def command(network, run, name=name):
                return network in bundles and [name, "run", "--bundle", bundles[network], f"bench-{name}-{run}"]
            found[name] = command
    if shutil.which("podman"):
        podman = ["podman", "--root", folder / "podman", "--runroot", folder / "podman-run", "--runtime", "runc",
                  "--cgroup-manager", "cgroupfs"]
        subprocess.run([*podman, "import", "-q", archive, "base"], check=True, capture_output=True, env=environment)
        found["podman"] = lambda network, run: [*podman, "run", "--rm", *ULIMITS, "--network", network, "base", "true"]
    if engine:
        docker = engine.command()
        subprocess.run([*docker, "import", archive, "base"], check=True, capture_output=True)
        found["docker"] = lambda network, run: (network != "bridge" or engine.bridge) and [
            *docker, "run", "--rm", "--network", network, "base", "true"]
    flags = {"host": [], "none": ["--net"]}
    found["bare"] = lambda network, run: network in flags and [
        "unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", *flags[network], tree / "bin/busybox", "true"]
    return found


def timed(command, environment):
    """Seconds on the clock, and of processors for all that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    ended = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr.decode(errors="replace").strip().splitlines()[-1:])
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(found, networks, runs, environment):
    for network in networks:
        times = {name: [] for name in found}
        troubles = {}
        for run in range(-2, runs):
            for name, command in found.items():
                words = name not in troubles and command(network, run)
                if not words:
                    continue
                try:
                    taken = timed(words, environment)
                except RuntimeError as trouble:
                    troubles[name] = trouble
                    continue
                # The first two fill caches.
                if run >= 0:
                    times[name].append(taken)
        print(f"\nnetwork {network}: median of {runs}")
        ours = statistics.median(wall for wall, _ in times["stave"])
        for name, taken in times.items():
            if name in troubles:
                print(f"  {name:8} failed: {troubles[name]}")
            elif taken:
                wall = statistics.median(wall for wall, _ in taken)
                cpu = statistics.median(cpu for _, cpu in taken)
                print(f"  {name:8} {wall * 1000:7.1f} ms   {wall / ours:5.2f} of stave's   {cpu * 1000:7.1f} ms of CPU")


def hundred(arguments, folder):
    """A hundred at once: started, asked, stopped."""
    stave = [arguments.stave, "--root", folder / "stave"]
    began = time.monotonic()
    serve = "echo ready; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"
    starts = [subprocess.Popen([*stave, "run", "-d", "--name", f"h{n}", "--network", "none", "base", "sh", "-c", serve],
                               stdout=subprocess.DEVNULL) for n in range(100)]
    failed = sum(start.wait() != 0 for start in starts)
    started = time.monotonic()
    asked = [subprocess.run([*stave, "exec", f"h{n}", "echo", "here"], capture_output=True).returncode for n in range(100)]
    answered = time.monotonic()
    subprocess.run([*stave, "rm", "-f", *[f"h{n}" for n in range(100)]], stdout=subprocess.DEVNULL)
    gone = time.monotonic()
    print(f"\na hundred containers: started in {started - began:.2f} s ({failed} failed), each asked in turn in "
          f"{answered - started:.2f} s ({sum(code != 0 for code in asked)} failed), removed in {gone - answered:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--stave", default=here / "target/release/stave", type=Path)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--networks", default="host,none,bridge")
    parser.add_argument("--no-docker", action="store_true")
    parser.add_argument("--hundred", action="store_true")
    arguments = parser.parse_args()
    enter_network()
    folder = Path(tempfile.mkdtemp(prefix="stave-bench-"))
    environment = peers_environment(folder)
    engine = None
    try:
        if shutil.which("dockerd") and not arguments.no_docker:
            engine = Engine(folder)
            engine = engine if engine.process else None
        found = contenders(arguments, folder, environment, engine)
        print(machine())
        compare(found, arguments.networks.split(","), arguments.runs, environment)
        if arguments.hundred:
            hundred(arguments, folder)
    finally:
        if engine:
            engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
