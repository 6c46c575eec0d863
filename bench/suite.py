#!/usr/bin/env python3
"""Measures stave beside its peers, and prints a table of ratios.

    bench/suite.py                          everything, median of 5, with target/release/stave: hours, for the peers
    bench/suite.py --only W1,W2,W7          some of the workloads (bench/workloads.py)
    bench/suite.py --quick                  small inputs
    bench/suite.py --stave A --stave B      several programs of ours: the second is called `stave 2`
    bench/suite.py --peers none             or `buildah,buildkit`, ...
    bench/suite.py --profile                where stave's time goes too, with perf and strace (bench/hotspots.py)
    bench/suite.py --patience 20            who took longer than 20 s is not asked again
    bench/suite.py --out FILE.json          stores what was measured there, and the tables beside it as FILE.md

Needs root and Debian's busybox-static, docker-registry, skopeo and iproute2; of buildah, podman, runc, crun, umoci
and docker.io whatever shall be compared; mmdebstrap and slirp4netns for W8, which alone reaches the internet.
A peer that is missing or fails at a task is reported. Everything happens in a temporary folder and in namespaces
for mounts and the network, so the machine's own storage, networks and firewall are never touched. Only Docker's
engine cannot be kept from making groups below `/sys/fs/cgroup`.

Python's standard library is enough. bench/measure.py says what is counted and how.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contenders
import hotspots
import measure
import report
import surroundings
from workloads import WORKLOADS, Case


class Bench:
    """What the workloads ask for: inputs, tools, and places."""

    def __init__(self, folder, arguments):
        self.folder, self.quick = folder, arguments.quick
        self.cores = os.cpu_count()
        self.numbers = itertools.count(1)
        self.inputs = arguments.inputs or folder / "inputs"
        self.inputs.mkdir(exist_ok=True, parents=True)
        self.machine_network = surroundings.enter(folder)
        self.environment = surroundings.environment(folder)
        self.registry = surroundings.Registry(folder)
        self.tree, self.base = self.make_base()
        self.absent = []
        self.engine = None
        self.uplink = None
        self.tools = [contenders.Stave(f"stave {number}" if number > 1 else "stave", str(program.resolve()), folder,
                                       self.environment)
                      for number, program in enumerate(arguments.stave, 1)]
        self.add_peers(arguments.peers.split(","))

    def add_peers(self, wanted):
        for peer in (contenders.Buildah, contenders.Podman):
            if peer.name in wanted:
                if shutil.which(peer.name) and shutil.which("runc"):
                    self.tools.append(peer(self.folder, self.environment))
                else:
                    self.absent.append(f"Not here: {peer.name} (Debian: {peer.name}, runc).")
        dockers = [peer for peer in (contenders.Docker, contenders.BuildKit) if peer.name in wanted]
        if dockers and not shutil.which("dockerd"):
            self.absent.append("Not here: docker and buildkit (Debian: docker.io).")
        elif dockers:
            self.engine = surroundings.Engine(self.folder, self.environment)
            if self.engine.keeper is None:
                self.absent.append(f"Docker's engine does not start: {self.engine.folder}/log.")
                return
            if not self.engine.builds_with_buildkit():
                self.absent.append("Not here: a client of Docker's that builds with BuildKit.")
                dockers.remove(contenders.BuildKit)
            self.tools += [peer(self.engine, self.folder, self.environment) for peer in dockers]

    def builders(self, only=None):
        return [tool for tool in self.tools if only is None or tool.name.split(" ")[0] in only]

    def fresh(self):
        """Empty storages but for the base image. Whoever cannot have that is out."""
        for tool in list(self.tools):
            surroundings.empty(tool.place)
            tool.renew()
            try:
                tool.load(self.base)
            except subprocess.CalledProcessError as error:
                self.tools.remove(tool)
                self.absent.append(f"{tool.name} cannot load the base image: {error.stderr.decode()[-200:]}.")

    def input(self, make, *arguments):
        """What that function makes from those arguments, made once."""
        numbers = [str(argument) for argument in arguments if isinstance(argument, int)]
        place = self.inputs / "-".join([make.__name__, *numbers])
        if not place.exists():
            part = place.with_name(place.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            make(part, *arguments)
            part.rename(place)
        return place

    def make_base(self):
        """A root file system of one static program, and an archive of it."""
        busybox = shutil.which("busybox") or sys.exit("error: there is no busybox (Debian: busybox-static)")
        tree = self.folder / "tree"
        (tree / "bin").mkdir(parents=True)
        for name in ("dev", "etc", "proc", "sys", "tmp"):
            (tree / name).mkdir()
        shutil.copy(busybox, tree / "bin/busybox")
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in listed:
            if name != "busybox":
                (tree / "bin" / name).symlink_to("busybox")
        archive = self.folder / "base.tar"
        subprocess.run(["tar", "-C", tree, "--owner=0", "--group=0", "-cf", archive, "."], check=True)
        return tree, archive

    def bundle(self, network):
        """An OCI bundle over that tree, with runc's own defaults."""
        place = self.folder / f"bundle-{network}"
        if not place.exists() and shutil.which("runc"):
            place.mkdir()
            subprocess.run(["runc", "spec"], cwd=place, check=True)
            config = json.loads((place / "config.json").read_text())
            config["process"].update(terminal=False, args=["true"], rlimits=[])
            config["root"] = {"path": str(self.tree), "readonly": False}
            if network == "host":
                config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
            (place / "config.json").write_text(json.dumps(config))
        return place

    def debian(self):
        """An archive of a small Debian and its tree; nothing without a way to Debian's mirror."""
        self.uplink = self.uplink or surroundings.Uplink(self.machine_network)
        if not shutil.which("mmdebstrap") or not self.uplink.reaches("deb.debian.org"):
            self.absent.append("Left out: W8 (Debian: mmdebstrap, slirp4netns, and a way to deb.debian.org).")
            return None
        archive = self.inputs / "debian.tar"
        if not archive.exists():
            part = archive.with_name("debian.part.tar")
            subprocess.run(["mmdebstrap", "--quiet", "--variant=apt", "bookworm", part, "http://deb.debian.org/debian"],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            part.rename(archive)
        tree = self.folder / "debian"
        if not tree.exists():
            tree.mkdir()
            subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
        return archive, tree

    def marks(self, tool, context, kind):
        """How many lines steps of a kind have left in their cache mount, which has none afterwards."""
        turn = next(self.numbers)
        dest = self.folder / f"marks-{turn}"
        # BuildKit gives a build without cache another cache mount.
        words = ["--build-arg", f"TURN={turn}", "-o", f"type=local,dest={dest}"]
        tool.do(tool.build(context / f"count-{kind}", "bench-count", *words))
        return int((dest / "count").read_text())

    def stop(self):
        self.registry.stop()
        if self.engine:
            self.engine.stop()
        if self.uplink:
            self.uplink.stop()


def run_case(case: Case, bench, rounds, patience, limit):
    """What each contender did: runs, and why there are none."""
    results = {name: {"tool": name, "runs": [], "trouble": ""} for name in case.actions}
    waiting = set(case.actions)
    for round_ in range(-case.warm, rounds):
        for name, action in case.actions.items():
            if name not in waiting:
                continue
            tool, result = action.tool, results[name]
            try:
                action.before(round_)
                # What is still on its way to the disk is nobody's but who wrote it, and what the kernel still takes
                # apart, of namespaces above all, that of who made it.
                os.sync()
                time.sleep(0.1)
                cost = measure.run(action.command(round_), {**bench.environment, **(tool.variables if tool else {})},
                                   tool.engine if tool else None, limit)
                extra = action.after(round_)
            except (measure.Failed, subprocess.CalledProcessError) as trouble:
                waiting.discard(name)
                result["trouble"] = str(trouble)
                continue
            if round_ >= 0 or cost.wall > patience:
                result["runs"].append({**vars(cost), "extra": extra})
            if cost.wall > patience:
                waiting.discard(name)
        print(".", end="", flush=True, file=sys.stderr)
    print(f" {case.name}", file=sys.stderr)
    return list(results.values())


def measure_all(bench, arguments, stored):
    for name, workload in WORKLOADS.items():
        if arguments.only and name not in arguments.only.split(","):
            continue
        bench.fresh()
        for case in workload(bench):
            results = run_case(case, bench, arguments.runs, arguments.patience, arguments.limit)
            stored["cases"].append({
                "workload": name, "name": case.name, "goal": case.goal, "content": case.content,
                "rounds": arguments.runs, "results": results, "profile": []})
            own = next((result["runs"] for result in results if result["tool"] == "stave"), None)
            if arguments.profile and own:
                spent = min(run["cpu"] for run in own)
                stored["cases"][-1]["profile"] = hotspots.profile(case.actions["stave"], bench.environment, spent)
            print(report.table(stored["cases"][-1]), flush=True)
            # Kept as it grows: what was measured stays, whatever happens to the rest.
            store(arguments.out, stored)


def store(out, stored):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n\n".join(report.sections(stored).values()) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--stave", action="append", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", default="buildah,podman,docker,buildkit")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--patience", type=float, default=float("inf"))
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a command is ended")
    parser.add_argument("--inputs", type=Path, help="a folder that keeps the inputs for the next time")
    parser.add_argument("--out", type=Path, default=here / "target/bench.json")
    arguments = parser.parse_args()
    arguments.stave = arguments.stave or [here / "target/release/stave"]
    if os.geteuid() != 0:
        sys.exit("error: this needs root, as the peers' fast storage does")
    for program in arguments.stave:
        if not os.access(program, os.X_OK):
            sys.exit(f"error: there is no {program}: build it with `cargo build --release`")
    for program in ("docker-registry", "skopeo", "ip"):
        if shutil.which(program) is None:
            sys.exit(f"error: there is no {program}")
    # Ends as an interrupt from the keyboard does: with everything stopped and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="stave-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    bench = None
    try:
        bench = Bench(folder, arguments)
        stored = {
            "machine": surroundings.machine(), "date": time.strftime("%Y-%m-%d"), "rounds": arguments.runs,
            "quick": arguments.quick, "absent": bench.absent, "cases": [],
            "versions": contenders.versions(["buildah", "podman", "skopeo", "umoci", "runc", "crun", "dockerd"],
                                            str(arguments.stave[0])),
        }
        measure_all(bench, arguments, stored)
        print(report.sections(stored)["machine"])
    finally:
        if bench:
            bench.stop()
        # The mounts below are ours alone and go with this process; a folder beneath one cannot be removed yet.
        for mount in reversed([line.split()[1] for line in open("/proc/mounts") if str(folder) in line]):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
