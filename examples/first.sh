#!/bin/bash
# From a fresh Debian machine with a Rust toolchain to an image that was built and has run.
#
# Needs no container registry: the base images are made of Debian packages. Run it again and the
# bases and every unchanged step are found in the store.
#
#   ./examples/first.sh
#
# STAVE_BIN=PATH takes a stave that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly DEBIAN=localhost/debian BUSYBOX=localhost/busybox IMAGE=localhost/hello
stave_bin=${STAVE_BIN:-target/release/stave}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# An ordinary user builds in a user namespace of their own if /etc/subuid gives them ids, which
# Debian's useradd does; apt-get in a RUN step needs more than one.
stave() {
    if [ "$(id -u)" = 0 ] || grep -q "^$(id -un):" /etc/subuid 2>/dev/null; then
        "$stave_bin" "$@"
    else
        sudo "$stave_bin" "$@"
    fi
}

install_packages() {
    local missing=() package
    # gcc and libc6-dev compile the C parts of stave's libraries (SQLite, zstd, ...); uidmap is for
    # ordinary users; nftables and passt are for networks, root's and others'; the rest makes base images.
    for package in gcc libc6-dev busybox-static mmdebstrap uidmap nftables passt ca-certificates; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
            || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
}

build_stave() {
    [ -n "${STAVE_BIN:-}" ] && return
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || die "there is no cargo: see https://rustup.rs"
    say "building stave (some minutes the first time)"
    cargo build --release --locked --bin stave
}

has_image() { [ -n "$(stave images -q "$1:latest")" ]; }

# Debian as it is installed here, without anything that is not essential.
make_debian_base() {
    has_image "$DEBIAN" && return
    local suite
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
    say "making the base image $DEBIAN of Debian's packages ($suite)"
    as_root mmdebstrap --quiet --variant=minbase "$suite" "$scratch/debian.tar"
    as_root chmod a+r "$scratch/debian.tar"
    stave import --change 'CMD ["bash"]' "$scratch/debian.tar" "$DEBIAN"
}

# One static program under all of its names.
make_busybox_base() {
    has_image "$BUSYBOX" && return
    say "making the base image $BUSYBOX of Debian's busybox-static"
    local root=$scratch/busybox name
    mkdir -p "$root"/{bin,etc,tmp,usr/bin,usr/sbin,sbin}
    chmod 1777 "$root/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for name in $(busybox --list); do
        [ "$name" = busybox ] || ln -s /bin/busybox "$root/bin/$name"
    done
    printf 'root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\napp:x:1000:\n' >"$root/etc/group"
    tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$scratch/busybox.tar" .
    stave import --change 'CMD ["sh"]' "$scratch/busybox.tar" "$BUSYBOX"
}

scratch=$(mktemp -d)
chmod 0755 "$scratch"
trap 'rm -rf "$scratch"' EXIT

install_packages
build_stave
make_debian_base
make_busybox_base

say "building $IMAGE of examples/hello/Dockerfile"
begin=$(date +%s%N)
stave build -t "$IMAGE" \
    --build-arg BUILD_BASE="$DEBIAN" --build-arg BASE="$BUSYBOX" \
    ${http_proxy:+--build-arg http_proxy="$http_proxy"} \
    examples/hello
took=$(($(date +%s%N) - begin))

say "running it"
answer=$(stave run --rm "$IMAGE" newcomer)
echo "$answer"
[ "$answer" = "hello, newcomer, from user 1000" ] || die "that is not what the image should say"

id=$(stave inspect --format .Id "$IMAGE")
size=$(stave inspect --format .Size "$IMAGE")
cat <<END

image  $IMAGE
id     $id
size   $(numfmt --to=si --suffix=B "$size")
built  in $((took / 1000000000)).$((took / 100000000 % 10)) s

Next:
  $stave_bin build -t $IMAGE --build-arg BUILD_BASE=$DEBIAN --build-arg BASE=$BUSYBOX examples/hello
      again: nothing runs; then change examples/hello/hello.c and see which steps do
  $stave_bin run --rm $IMAGE Ada
  $stave_bin images
  $stave_bin save $IMAGE -o hello.tar        an archive that docker and podman load
  $stave_bin build --help
END
