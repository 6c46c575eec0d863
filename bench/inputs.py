"""Inputs of the benchmarks: contexts and Dockerfiles that come out the same on every machine.

Each function fills a folder that is empty and returns nothing. What changes between two builds is a
function of its own, so that a benchmark can call it before each of them.
"""

import os
from pathlib import Path

# So long ago that a stat cache has no reason to doubt it.
MODIFIED = 1_600_000_000


def small_files(folder, count, per_directory=100):
    """`count` files of 40 to 4,000 bytes, `per_directory` in each directory, directories three levels deep.

    The Dockerfile beside them copies all of them onto nothing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = b"".join(b"line %d of a small text\n" % n for n in range(200))
    for number in range(count):
        leaf = number // per_directory
        place = folder / "files" / f"part{leaf // 50:03}" / f"folder{leaf % 50:02}"
        if number % per_directory == 0:
            place.mkdir(parents=True)
        head = b"file %d\n" % number
        size = 40 + number * 7919 % 3961
        path = place / f"file{number % per_directory:02}.txt"
        path.write_bytes((head + text)[:size])
        os.utime(path, (MODIFIED, MODIFIED))
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")


def change_one_file(folder, round_):
    """Gives one of the files of `small_files` other bytes, the same number of them every time."""
    (Path(folder) / "files" / "part000" / "folder00" / "file07.txt").write_text(f"changed {round_:10}\n")


def ten_files(folder, base):
    """Ten files and six steps over the image `base`, which has a shell."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        path = folder / f"file{number}"
        path.write_text(f"file {number}\n" * 100)
        os.utime(path, (MODIFIED, MODIFIED))
    (folder / "Dockerfile").write_text(f"""FROM {base}
WORKDIR /work
COPY . .
RUN cat file0 file1 > both
ENV MODE=fast
COPY file2 /etc/file2
RUN cp file3 file4 /tmp/
CMD ["cat", "both"]
""")


def many_stages(folder, base, stages=60, steps=200):
    """A Dockerfile of so many steps in so many stages, all of which the last one needs.

    Half of the steps run a shell in `base`, half copy: from the context, and from the stage before."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines, made = [], 0
    for stage in range(stages):
        lines.append(f"FROM {base} AS stage{stage}")
        own = steps * (stage + 1) // stages - made
        for step in range(own):
            number = made + step
            if step == 0 and stage > 0:
                lines.append(f"COPY --from=stage{stage - 1} /made/ /made/")
            elif step % 2 == 0:
                lines.append(f"COPY file{number % 10} /made/file{number}")
            else:
                lines.append(f"RUN mkdir -p /made && echo {number} > /made/echo{number}")
        made += own
    for number in range(10):
        path = folder / f"file{number}"
        path.write_text(f"file {number}\n" * 100)
        os.utime(path, (MODIFIED, MODIFIED))
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def long_chain(folder, steps=299):
    """One stage of so many COPY steps, each of one small file onto what all before it made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["FROM scratch"]
    for number in range(steps):
        path = folder / f"file{number}"
        path.write_text(f"file {number}\n")
        os.utime(path, (MODIFIED, MODIFIED))
        lines.append(f"COPY file{number} /made/{number % 10}/file{number}")
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def wide_graph(folder, stages=1000, copies=4):
    """A graph of `stages` * (`copies` + 1) vertices and a few: stages that know nothing of each other, groups
    that take from fifty of them each, and a last one that takes from the groups."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "file"
    path.write_text("file\n")
    os.utime(path, (MODIFIED, MODIFIED))
    lines = []
    for stage in range(stages):
        lines.append(f"FROM scratch AS stage{stage}")
        lines.extend(f"COPY file /{stage}/{copy}" for copy in range(copies))
    # Groups, for an image should not have a thousand layers.
    groups = range(0, stages, 50)
    for group in groups:
        lines.append(f"FROM scratch AS group{group}")
        lines.extend(f"COPY --from=stage{stage} / /" for stage in range(group, min(group + 50, stages)))
    lines.append("FROM scratch")
    lines.extend(f"COPY --from=group{group} / /" for group in groups)
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def six_steps(folder, base):
    """Six small steps, four of which run a shell."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("some text\n")
    os.utime(folder / "file", (MODIFIED, MODIFIED))
    (folder / "Dockerfile").write_text(f"""FROM {base}
RUN echo one > /one
COPY file /file
RUN echo two > /two
RUN mkdir /folder && cp /file /folder/
COPY file /folder/again
RUN cat /one /two > /three
""")


def run_steps(folder, base, steps=20):
    """So many steps that do next to nothing in a shell."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"FROM {base}", *(f"RUN echo {number} > /made{number}" for number in range(steps))]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def eight_stages(folder, base, work):
    """Eight stages that know nothing of each other, and one that takes from each."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(8):
        lines += [f"FROM {base} AS stage{number}", f"RUN ({work}) > /made{number}"]
    lines += [f"FROM {base}", *(f"COPY --from=stage{number} /made{number} /" for number in range(8))]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def sleeping_stages(folder, base):
    eight_stages(folder, base, "sleep 1")


# A second or so of one processor.
COMPUTE = "dd if=/dev/zero bs=64k count=4800 2>/dev/null | md5sum"


def computing_stages(folder, base):
    eight_stages(folder, base, COMPUTE)


UPDATE = "apt-get update -q && apt-get install -q -y --no-install-recommends"
# What the two stages of `packages` run; the copying between them is no matter of seconds.
PACKAGE_STEPS = (f"{UPDATE} tcc libc6-dev && tcc -o /hello /main.c", f"{UPDATE} ca-certificates")


def packages(folder, base):
    """A program that is compiled in one stage and copied to another, both with packages of Debian's."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.c").write_text('#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n')
    os.utime(folder / "main.c", (MODIFIED, MODIFIED))
    (folder / "Dockerfile").write_text(f"""FROM {base} AS build
COPY main.c /main.c
RUN {PACKAGE_STEPS[0]}
FROM {base}
RUN {PACKAGE_STEPS[1]}
COPY --from=build /hello /usr/local/bin/hello
CMD ["hello"]
""")


def half_shared(folder, base, steps=10):
    """Steps of which the first half is the same whatever NUMBER is; each that runs leaves a line in a cache mount."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"FROM {base}", "ARG ROUND"]

    def step(kind, number):
        mount = f"--mount=type=cache,id=bench-{kind},target=/marks"
        return f"RUN {mount} echo {kind} {number} >> /marks/{kind}; echo $ROUND $NUMBER > /{kind}{number}"

    lines += [step("shared", number) for number in range(steps // 2)]
    lines += ["ARG NUMBER", *(step("own", number) for number in range(steps - steps // 2))]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    # Tells how many lines there are, and leaves none.
    for kind in ("shared", "own"):
        place = folder / f"count-{kind}"
        place.mkdir(exist_ok=True)
        mount = f"--mount=type=cache,id=bench-{kind},target=/marks"
        count = f"touch /marks/{kind}; grep -c {kind} /marks/{kind} > /count; rm /marks/{kind}; true"
        (place / "Dockerfile").write_text(
            f"FROM {base} AS count\nARG TURN\nRUN {mount} : $TURN; {count}\nFROM scratch\nCOPY --from=count /count /\n")
