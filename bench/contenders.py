"""The programs that are compared: how each is told to do the same thing, and where it keeps its own.

Every tool has a storage of its own below the suite's folder, on the same file system, made by overlayfs. `renew`
gives it an empty one. Peers run steps by runc, which makes the namespaces, filters and limits that stave makes.
"""

import shlex
import shutil
import subprocess

BASE = "localhost/bench-base"


def shell(*commands):
    """Several commands, one after the other, as one."""
    return ["sh", "-ec", "\n".join(shlex.join(map(str, words)) for words in commands)]


class Tool:
    """What they share."""

    name = ""
    engine = None
    variables = {}

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment
        self.storages = 0
        self.renew()

    def renew(self):
        """Gives it an empty storage; the old one stays where it is."""
        self.storages += 1
        self.place = self.folder / f"{self.name.replace(' ', '-')}-{self.storages}"
        self.place.mkdir()

    def do(self, *commands):
        """Runs commands that are not measured."""
        for words in commands:
            subprocess.run([str(word) for word in words], env={**self.environment, **self.variables}, check=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Stave(Tool):
    def __init__(self, name, program, folder, environment):
        self.name, self.program = name, program
        super().__init__(folder, environment)

    def call(self, *words):
        return [self.program, "--root", self.place / "root", *words]

    def build(self, context, tag, *flags, network="host", jobs=0):
        return self.call("build", "-q", "--network", network, "-t", tag, *flags, context)

    def load(self, archive, name=BASE):
        self.do(self.call("import", archive, name))

    def archive(self, context, file, compression="gzip"):
        return self.call("build", "-q", "-o", f"type=oci,dest={file},compression={compression}", context)

    def deliver(self, context, name):
        return self.call("build", "-q", "-t", name, "--push", context)

    def pull(self, name):
        return self.call("pull", "-q", name)

    def run(self, network, *words):
        return self.call("run", "--rm", "--network", network, BASE, *words)


class Buildah(Tool):
    name = "buildah"
    builder = ["bud", "--layers"]

    def call(self, *words):
        return [self.name, "--root", self.place / "root", "--runroot", self.place / "run",
                "--storage-driver", "overlay", *words]

    def build(self, context, tag, *flags, network="host", jobs=1):
        words = [*self.builder, "-q", "--isolation", "oci", "--runtime", "runc", "--jobs", str(jobs)]
        if network != "default":
            words += ["--network", network]
        return self.call(*words, "-t", tag, *flags, context)

    def load(self, archive, name=BASE):
        # It has no import of its own.
        folder = self.place / f"import-{archive.name}"
        folder.mkdir()
        shutil.copy(archive, folder / "base.tar")
        (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\n")
        self.do(self.build(folder, name))

    def archive(self, context, file, compression="gzip"):
        push = self.call("push", "-q", "--compression-format", compression, "bench", f"oci-archive:{file}")
        return shell(self.build(context, "bench"), push)

    def deliver(self, context, name):
        return shell(self.build(context, name), self.call("push", "-q", "--tls-verify=false", name))

    def pull(self, name):
        return self.call("pull", "-q", "--tls-verify=false", name)


class Podman(Buildah):
    name = "podman"
    builder = ["build", "--layers"]

    def call(self, *words):
        if words[0] == "build":
            words = [word for word in words if word not in ("--runtime", "runc")]
        return ["podman", "--runtime", "runc", *super().call(*words)[1:]]

    def run(self, network, *words):
        return self.call("run", "--rm", "--network", network, BASE, *words)


class Docker(Tool):
    """The engine's own builder; the engine works for it, so its processes are counted too."""

    name = "docker"
    variables = {"DOCKER_BUILDKIT": "0"}

    def __init__(self, engine, folder, environment):
        self.service, self.engine = engine, engine.keeper.pid
        super().__init__(folder, environment)

    def renew(self):
        super().renew()
        subprocess.run([*self.service.client, "builder", "prune", "-af"], capture_output=True)
        found = subprocess.run([*self.service.client, "images", "-q", "--no-trunc"], capture_output=True, text=True)
        images = sorted(set(found.stdout.split()))
        if images:
            subprocess.run([*self.service.client, "rmi", "-f", *images], capture_output=True)

    def call(self, *words):
        return [*self.service.client, *words]

    def build(self, context, tag, *flags, network="host", jobs=0):
        return self.call("build", "-q", "--network", network, "-t", tag, *flags, context)

    def load(self, archive, name=BASE):
        self.do(self.call("import", "-c", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", archive, name))

    def deliver(self, context, name):
        return shell(self.build(context, name), self.call("push", "-q", name))

    def pull(self, name):
        return self.call("pull", "-q", name)

    def run(self, network, *words):
        return self.call("run", "--rm", "--network", network, BASE, *words)


class BuildKit(Docker):
    """BuildKit as it is inside Docker's engine."""

    name = "buildkit"
    variables = {"DOCKER_BUILDKIT": "1"}


def versions(tools, stave):
    """What each says that it is."""
    said = {}
    for name, words in {"stave": [stave, "--version"], **{name: [name, "--version"] for name in tools}}.items():
        if name == "stave" or shutil.which(name):
            done = subprocess.run(words, capture_output=True, text=True)
            words = (done.stdout + done.stderr).replace(",", " ").split()
            # `runc version 1.1.5+ds1` and `Docker version 20.10.24`, but `stave 0.1.0`.
            said[name] = next((word for word in words if word[0].isdigit()), "?")
    return said
