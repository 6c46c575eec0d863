"""The workloads: what each tool is asked to do, from which inputs, and what was done before.

A workload gives its cases one after the other; a case is measured before the next is prepared. Within a case the
contenders take turns, round by round, so that whatever else the machine does falls on all of them alike.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import contenders
import inputs
import inputs_layers
from contenders import BASE, shell
from surroundings import empty

MIB = 1 << 20


@dataclass
class Action:
    """What one contender does in a case: the command, and what is done around it, which is not measured."""

    command: Callable[[int], list]
    before: Callable[[int], None] = lambda round_: None
    after: Callable[[int], dict] = lambda round_: {}
    tool: contenders.Tool | None = None


@dataclass
class Case:
    name: str
    # What issue or reader wants of stave, in words.
    goal: str
    actions: dict[str, Action] = field(default_factory=dict)
    # Bytes of new content, if it is of interest how many are written for each of them.
    content: int = 0
    # Rounds before the ones that count.
    warm: int = 1

    def add(self, tool, command, name=None, **around):
        name = name or tool.name
        self.actions[name] = Action(command, tool=tool if isinstance(tool, contenders.Tool) else None, **around)


def builds(bench, goal, name, context, *flags, only=None, jobs=8, network="host", before=None, **case):
    """A case in which every builder builds a context."""
    made = Case(name, goal, **case)
    for tool in bench.builders(only):
        command = tool.build(context, f"bench-{context.name}", *flags, jobs=jobs, network=network)
        around = {} if before is None else {"before": lambda round_, tool=tool: before(tool, round_)}
        made.add(tool, lambda round_, command=command: command, **around)
    return made


def small_steps(bench):
    """W1"""
    six, twenty = bench.input(inputs.six_steps, BASE), bench.input(inputs.run_steps, BASE)
    yield builds(bench, "0.05 s", "six small steps, no cache", six, "--no-cache")
    yield builds(bench, "0.15 s", "20 RUN steps, no cache", twenty, "--no-cache")
    yield builds(bench, "0.15 s", "20 RUN steps, no cache, a network each", twenty, "--no-cache", network="default",
                 only=("stave", "docker", "buildkit"))


def unchanged(bench):
    """W2"""
    ten = bench.input(inputs.ten_files, BASE)
    yield builds(bench, "10 ms", "nothing changed, 10 files", ten, warm=2)


def many_files(bench):
    """W3"""
    count = 2_000 if bench.quick else 50_000
    context = bench.input(inputs.small_files, count)
    only = ("stave", "buildah", "buildkit")
    cold = builds(bench, "3 s", f"{count:,} files, cold", context, only=only, warm=0,
                  before=lambda tool, _: tool.renew())
    # A renewed tool is another command.
    for tool in bench.builders(only):
        cold.actions[tool.name].command = lambda _, tool=tool: tool.build(context, "bench-files")
    yield cold
    settled = builds(bench, "0.15 s", f"{count:,} files, nothing changed", context, only=only)
    settled.add(None, lambda _: ["find", context, "-size", "+1G"], name="floor: find")
    yield settled
    turn = iter(range(1 << 30))
    yield builds(bench, "1.5 s", f"{count:,} files, one changed", context, only=only, warm=0,
                 before=lambda *_: inputs.change_one_file(context, next(turn)))


def stages(bench):
    """W4"""
    sleeping, computing = bench.input(inputs.sleeping_stages, BASE), bench.input(inputs.computing_stages, BASE)
    yield builds(bench, "1.1 s", "8 stages that sleep 1 s", sleeping, "--no-cache", warm=0)
    case = builds(bench, "the floor", "8 stages that compute", computing, "--no-cache", warm=0)
    work = "\n".join(f"busybox sh -c '{inputs.COMPUTE}' >/dev/null &" for _ in range(8)) + "\nwait"
    case.add(None, lambda _: ["sh", "-c", work], name="floor: no builder")
    yield case


def big_layers(bench):
    """W5"""
    mib = 64 if bench.quick else 1024
    context = bench.input(inputs_layers.context, mib)
    dest = bench.folder / "exported.tar"

    def renew(tool):
        empty(tool.place)
        tool.renew()
        dest.unlink(missing_ok=True)

    def size(_):
        return {"size": dest.stat().st_size}

    archivers = bench.builders(("stave", "buildah"))
    for compression in ("gzip", "zstd"):
        case = Case(f"COPY {mib} MiB, {compression}, to an OCI archive", "a third of BuildKit", content=mib * MIB, warm=0)
        for tool in archivers:
            case.add(tool, lambda _, tool=tool, c=compression: tool.archive(context, dest, c), after=size,
                     before=lambda _, tool=tool: renew(tool))
        yield case
    again = Case(f"{mib} MiB, gzip, exported again", "as a file copy", content=mib * MIB, warm=0)
    exported = set()

    def export_first(tool):
        # A first export compresses, also of whoever is asked only once.
        if tool.name not in exported:
            exported.add(tool.name)
            subprocess.run([str(word) for word in tool.archive(context, dest)], check=True, env=bench.environment,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        dest.unlink(missing_ok=True)

    for tool in archivers:
        again.add(tool, lambda _, tool=tool: tool.archive(context, dest), after=size,
                  before=lambda _, tool=tool: export_first(tool))
    copy = bench.folder / "copied.tar"
    again.add(None, lambda _: ["cp", "--reflink=never", dest, copy], name="floor: cp",
              before=lambda _: copy.unlink(missing_ok=True))
    yield again
    case = Case(f"COPY {mib} MiB, gzip, to a registry", "a third of BuildKit", content=mib * MIB, warm=0)
    for tool in bench.builders(("stave", "buildah", "docker", "buildkit")):
        def clean(_, tool=tool):
            renew(tool)
            bench.registry.start()
        case.add(tool, lambda _, tool=tool: tool.deliver(context, f"{bench.registry.host}/bench"), before=clean)
    yield case
    bench.registry.stop()


def pulls(bench):
    """W6"""
    mib = 64 if bench.quick else 1024
    layout = bench.input(inputs_layers.layout, mib)
    moved = sum(blob.stat().st_size for blob in (layout / "blobs/sha256").iterdir())
    bench.registry.start()
    image = f"{bench.registry.host}/bench:latest"
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:bench", f"docker://{image}"],
                   check=True, env=bench.environment)
    case = Case(f"pull {mib} MiB in four layers", "a third of the best", content=mib * MIB + moved, warm=0)

    def renew(tool):
        empty(tool.place)
        tool.renew()

    for tool in bench.builders(("stave", "buildah", "podman", "docker")):
        case.add(tool, lambda _, tool=tool: tool.pull(image), before=lambda _, tool=tool: renew(tool))
    place = bench.folder / "skopeo"

    def clean(_):
        empty(place)
        if place.exists():
            place.rename(bench.folder / f"skopeo-{next(bench.numbers)}")
        place.mkdir()

    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}"]
    case.add(None, lambda _: [*copy, f"dir:{place}/dir"], name="skopeo (unpacks nothing)", before=clean)
    if shutil.which("umoci"):
        unpack = ["umoci", "unpack", "--image", f"{place}/oci:bench", f"{place}/bundle"]
        case.add(None, lambda _: shell([*copy, f"oci:{place}/oci:bench"], unpack), name="skopeo and umoci", before=clean)
    yield case
    bench.registry.stop()


def containers(bench):
    """W7"""
    for network, goal in (("host", "10 ms"), ("none", "10 ms"), ("bridge", "20 ms")):
        case = Case(f"run --rm true, network {network}", goal, warm=2)
        for tool in bench.builders(("stave", "podman", "docker")):
            if tool.engine and network == "bridge" and not tool.service.bridge:
                continue
            case.add(tool, lambda _, tool=tool, network=network: tool.run(network, "true"))
        if network != "bridge":
            bundle = bench.bundle(network)
            for name in filter(shutil.which, ("runc", "crun")):
                case.add(None, lambda _, name=name, bundle=bundle: [
                    name, "run", "--bundle", bundle, f"bench-{name}-{next(bench.numbers)}"], name=f"{name} (a ready bundle)")
            flags = ["--net"] if network == "none" else []
            case.add(None, lambda _, flags=flags: ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", *flags,
                                                   bench.tree / "bin/busybox", "true"], name="floor: unshare")
        yield case


def packages(bench):
    """W8"""
    base = bench.debian()
    if base is None:
        return
    archive, tree = base
    context = bench.input(inputs.packages, "localhost/bench-debian")
    only = ("stave", "buildah", "buildkit")
    for tool in bench.builders(only):
        tool.load(archive, "localhost/bench-debian")
    network = "host"
    cold = builds(bench, "the apt-get itself", "apt-get in two stages, no cache", context, "--no-cache", only=only,
                  network=network, warm=0)
    roots = bench.folder / "roots"

    def copy(_):
        shutil.rmtree(roots, ignore_errors=True)
        roots.mkdir()
        for name in ("one", "two"):
            subprocess.run(["cp", "-a", tree, roots / name], check=True)
            shutil.copy("/etc/resolv.conf", roots / name / "etc/resolv.conf")
        shutil.copy(context / "main.c", roots / "one")

    script = "\n".join(f"chroot {roots / name} sh -ec '{step}' &" for name, step in
                       zip(("one", "two"), inputs.PACKAGE_STEPS)) + "\nwait"
    cold.add(None, lambda _: ["sh", "-c", script], name="floor: chroot", before=copy)
    yield cold
    yield builds(bench, "30 ms", "apt-get in two stages, nothing changed", context, only=only, network=network)


def many_steps(bench):
    """W9"""
    steps, stages_ = (50, 15) if bench.quick else (200, 60)
    context = bench.input(inputs.many_stages, BASE, stages_, steps)
    only = ("stave", "buildah", "buildkit")
    yield builds(bench, "a flat cost per step", f"{steps} steps in {stages_} stages, no cache", context, "--no-cache",
                 only=only, warm=0)
    yield builds(bench, "50 ms", f"{steps} steps in {stages_} stages, nothing changed", context, only=only)
    for length in (20, 60, 299):
        chain = bench.input(inputs.long_chain, length)
        yield builds(bench, "a flat cost per step", f"{length} COPY steps, no cache", chain, "--no-cache",
                     only=only if length < 100 else ("stave", "buildkit"), warm=0)
    wide = bench.input(inputs.wide_graph, 100 if bench.quick else 1000)
    only = ("stave", "buildkit")
    yield builds(bench, "a flat cost per step", "a wide graph, no cache", wide, "--no-cache", only=only, warm=0)
    yield builds(bench, "50 ms", "a wide graph, nothing changed", wide, only=only)


def many_builds(bench):
    """W10"""
    count = 8 if bench.quick else 64
    context = bench.input(inputs.half_shared, BASE)
    tools = bench.builders(("stave", "buildah", "buildkit"))
    for width, name in ((count, "all at once"), (bench.cores, "one on each core at a time")):
        case = Case(f"{count} builds, half of their steps shared, {name}", "each shared step runs once; as one on each core",
                    warm=0)
        for tool in tools:
            def command(round_, tool=tool, width=width, name=name):
                # What distinguishes rounds makes every step new.
                one = tool.build(context, "bench-shared", "--build-arg", f"ROUND={name[:3]}{round_}-{tool.storages}",
                                 "--build-arg", "NUMBER=@")
                words = [str(word) for word in one]
                return ["sh", "-c", f"seq {count} | xargs -P {width} -I@ " + " ".join(f"'{word}'" for word in words)]

            def counted(round_, tool=tool):
                return {"shared steps run": bench.marks(tool, context, "shared"), "own steps run": bench.marks(tool, context, "own")}

            def clean(round_, tool=tool):
                bench.marks(tool, context, "shared")
                bench.marks(tool, context, "own")

            case.add(tool, command, before=clean, after=counted)
        yield case


WORKLOADS = {"W1": small_steps, "W2": unchanged, "W3": many_files, "W4": stages, "W5": big_layers, "W6": pulls,
             "W7": containers, "W8": packages, "W9": many_steps, "W10": many_builds}
