#!/bin/bash
# Tries stave on another kernel than this machine's: boots one of Debian's packages in QEMU, which needs no rights and
# no hardware for it, with cgroup v2 alone.
#
#   ci/kernel.sh PACKAGE              builds, runs, limits, stops: what differs from kernel to kernel; two minutes
#   ci/kernel.sh PACKAGE FILTER...    the end-to-end tests of these names instead; ten times slower than here
#
# PACKAGE is a file from `apt-get download linux-image-6.1.0-50-amd64` or the like. The guest sees this machine's own
# files, read-only, below a disk that is thrown away, so the program that is tried is target/debug/stave as it was
# built here, and all tools are there. Not part of ci/check.sh. ACCEL=kvm is faster where it works.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] && [ -f "$1" ] || { echo "usage: $0 PACKAGE [FILTER...]" >&2; exit 2; }
for tool in qemu-system-x86_64 busybox dpkg-deb mkfs.ext4 gzip; do
    command -v "$tool" >/dev/null || { echo "$0: there is no $tool" >&2; exit 2; }
done
package=$1
shift
clone=$PWD
place=$(mktemp -d "${TMPDIR:-/tmp}/stave-kernel.XXXXXX")
trap 'rm -rf "$place"' EXIT

program=
if [ $# -gt 0 ]; then
    program=$(cargo test --locked --no-run --test it 2>&1 | sed -nE 's/^ *Executable .*\((.*)\)$/\1/p')
    [ -n "$program" ] || { echo "$0: no test program" >&2; exit 1; }
else
    [ -x target/debug/stave ] || cargo build --locked
fi

# The kernel, and those of its modules that are needed, in the order in which they need each other.
dpkg-deb -x "$package" "$place/kernel"
version=$(ls "$place/kernel/lib/modules")
modules=$place/kernel/lib/modules/$version
busybox depmod -b "$place/kernel" "$version"
initial=$place/initial
mkdir -p "$initial"/{bin,modules,proc,sys,dev,host,disk,root}
cp "$(command -v busybox)" "$initial/bin/busybox"
need() {
    local line file
    line=$(grep -E "/${1//_/[-_]}\.ko(\.xz)?:" "$modules/modules.dep" | head -1)
    [ -n "$line" ] || return 0 # It is part of the kernel.
    for file in $(echo "${line#*:}" | tr ' ' '\n' | busybox tac) "${line%%:*}"; do
        [ -e "$initial/modules/${file##*/}" ] && continue
        cp "$modules/$file" "$initial/modules/"
        echo "${file##*/}" >>"$initial/order"
    done
}
for name in crc32c_generic virtio_pci virtio_blk virtio_rng 9p 9pnet_virtio overlay ext4 fuse tun loop dummy bridge \
    veth br_netfilter nf_tables nft_chain_nat nft_masq nft_ct nft_fib_inet nft_nat nft_reject_inet nft_redir; do
    need "$name"
done
cat >"$initial/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod "/modules/$module" || echo "no $module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=262144 host /host
mount -t ext4 /dev/vda /disk
mkdir -p /disk/upper /disk/work /disk/tmp
chmod 1777 /disk/tmp
mount -t overlay -o lowerdir=/host,upperdir=/disk/upper,workdir=/disk/work overlay /root
mount --bind /disk/tmp /root/mnt
clone=$(cat /disk/clone)
mkdir -p "/root$clone/target/tmp"
mount --bind /disk/tmp "/root$clone/target/tmp"
for name in proc sys dev; do mount --move "/$name" "/root/$name"; done
mkdir -p /root/dev/pts /root/dev/shm /root/dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t mqueue mqueue /root/dev/mqueue
mount -t tmpfs tmpfs /root/run
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ifconfig lo 127.0.0.1 up
cp /disk/guest /disk/settings /root/mnt/
exec switch_root /root /bin/bash /mnt/guest
INIT
chmod 0755 "$initial/init"
(cd "$initial" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$place/initial.gz"

# Copies of the programs lie above this machine's files, which may change meanwhile.
mkdir "$place/disk"
for file in "$clone/target/debug/stave" $program; do
    mkdir -p "$place/disk/upper/$(dirname "$(realpath "$file")")"
    cp "$file" "$place/disk/upper/$(realpath "$file")"
done
echo "$clone" >"$place/disk/clone"
declare -p clone program >"$place/disk/settings"
printf 'filters=(%s)\n' "${*@Q}" >>"$place/disk/settings"
cat >"$place/disk/guest" <<'GUEST'
# Runs as the guest's first process, as root, with the disk's own folder as /mnt.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/mnt LC_ALL=C
. /mnt/settings
cd "$clone"
echo "kernel $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
finish() {
    echo "result: $1"
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
}
if [ -n "$program" ]; then
    "$program" --test-threads 2 "${filters[@]}" </dev/null && finish good || finish bad
fi

stave() { "$clone/target/debug/stave" --root /mnt/root "$@" </dev/null; }
failed=0
# should WHAT COMMAND: it succeeds.
should() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok: $what"
    else
        echo "FAILED: $what"
        sed 's/^/    /' <<<"$output"
        failed=1
    fi
}
says() { # says TEXT COMMAND: its output is this.
    local wanted=$1 output
    shift
    output=$("$@" 2>&1)
    echo "$output"
    [ "$output" = "$wanted" ]
}
inside() { stave exec limited sh -c "$1"; }

mkdir /mnt/context
cp "$(command -v busybox)" /mnt/context/busybox
echo secret >/mnt/secret
cat >/mnt/context/Dockerfile <<'EOF'
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
FROM base AS files
RUN mkdir -p /a/b && echo hello >/a/b/c && echo other >/a/file
FROM base
RUN --mount=type=bind,from=files,source=/a/b,target=/m grep hello /m/c
RUN --mount=type=bind,from=files,source=/a/file,target=/f grep other /f
RUN --mount=type=bind,from=files,target=/all,rw grep hello /all/a/b/c && echo x >/all/new
RUN --mount=type=cache,target=/cache echo 1 >/cache/x
RUN --mount=type=tmpfs,target=/t --mount=type=secret,id=s,required=true grep secret /run/secrets/s && echo y >/t/y
RUN grep nameserver /etc/resolv.conf; grep localhost /etc/hosts
RUN ! test -s /proc/kcore && ! ls /sys/firmware | grep . && ! sh -c 'echo x >/proc/acpi/x'
RUN mkdir -p /tmp /etc && echo root:x:0:0::/:/bin/sh >/etc/passwd && echo root:x:0: >/etc/group
EOF
run() { stave run --rm "$@"; }
refused() { ! "$@"; }
bundle() {
    mkdir -p /mnt/bundle/rootfs/bin && cp "$(command -v busybox)" /mnt/bundle/rootfs/bin/busybox
    cd /mnt/bundle && runc spec || return
    sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"\/bin\/busybox", "true"/' config.json
    "$clone/target/debug/stave" runtime run one </dev/null
}
left() { ls -d /sys/fs/cgroup/stave/*/; }

should "an image is built" stave build -q -t image --secret id=s,src=/mnt/secret /mnt/context
should "trees are the kernel's overlays" grep -q '"overlay"' /mnt/root/snapshotter
should "a container runs" says hi run image echo hi
should "one without a network too" says hi run --network none image echo hi
should "a part of an image is mounted" \
    run --mount type=image,source=image,target=/i,image-subpath=bin image test -x /i/busybox
should "it runs read-only" run --read-only --tmpfs /t image sh -c 'echo x >/t/x && ! echo x >/x'
should "one with limits starts" \
    stave run -d --name limited --memory 64m --pids-limit 50 --cpus 0.5 image sleep 1000
should "memory is limited" says 67108864 inside 'cat /sys/fs/cgroup/memory.max'
should "processes are limited" says 50 inside 'cat /sys/fs/cgroup/pids.max'
should "processors are limited" says "50000 100000" inside 'cat /sys/fs/cgroup/cpu.max'
should "its cgroup is read-only" \
    inside '! mkdir /sys/fs/cgroup/x && ! sh -c "echo max >/sys/fs/cgroup/memory.max"'
should "it is alone in its cgroup" says "0::/" inside 'cat /proc/self/cgroup'
disk=$((0x$(stat -c %t /dev/vda)))
should "the disk cannot be opened" inside "mknod /tmp/d b $disk 0 && ! dd if=/tmp/d of=/dev/null count=1"
should "nor memory" inside 'mknod /tmp/m c 1 1 && ! dd if=/tmp/m of=/dev/null count=1'
should "the null device can be" inside 'mknod /tmp/n c 1 3 && echo x >/tmp/n'
should "a disk that is given can be" run --device /dev/vda image dd if=/dev/vda of=/dev/null count=1
should "its use is counted" sh -c 'test "$1" = "limited 1"' sh \
    "$(stave stats --no-stream --format '{{.Name}} {{.PIDs}}' limited)"
should "limits are changed" stave update --memory 32m limited
should "and hold" says 33554432 inside 'cat /sys/fs/cgroup/memory.max'
should "it is paused" stave pause limited
should "by its cgroup" grep -qx 1 /sys/fs/cgroup/stave/*/cgroup.freeze
should "a paused one is stopped" stave stop -t 1 limited
should "too much memory is not had" \
    refused stave run --name hog --memory 16m image sh -c 'tail -c 64000000 /dev/zero; exit $?'
should "and that is said" says true stave inspect -f '{{.State.OOMKilled}}' hog
should "a fork bomb is held" \
    refused run --pids-limit 20 image sh -c 'for i in $(seq 40); do sleep 3 & done'
should "a bundle is run" bundle
should "a network is made" stave network create some
should "a server is in it" \
    stave run -d --name web --network some --domainname test -p 8080:80 image httpd -f -p 80 -h /etc
should "it is found by its name" run --network some image nslookup web
should "its port is published" busybox wget -qO- http://127.0.0.1:8080/passwd
should "it has a domain" says test stave exec web cat /proc/sys/kernel/domainname
should "containers are removed" stave rm -f limited hog web
should "and their network" stave network rm some
should "and their cgroups" refused left
# An ordinary user with one id, and no part of the cgroups.
mkdir -p /mnt/home/run && chown -R 65534:65534 /mnt/home && chmod a+rX /mnt/context /mnt/context/*
ordinary() {
    setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME=/mnt/home XDG_RUNTIME_DIR=/mnt/home/run \
        PATH="$PATH" TMPDIR=/mnt "$clone/target/debug/stave" --root /mnt/home/root "$@" </dev/null
}
should "an ordinary user builds" ordinary build -q -t image --secret id=s,src=/mnt/secret /mnt/context
should "with the kernel's overlays" grep -q '"overlay"' /mnt/home/root/snapshotter
should "and runs" says hi ordinary run --rm --network none image echo hi
should "also what goes on" ordinary run -d --name one --network none image sleep 1000
should "and is joined" says "uid=0(root) gid=0(root)" ordinary exec one id
should "and removed" ordinary rm -f one
[ $failed = 0 ] && finish good || finish bad
GUEST
truncate -s 16G "$place/disk.img"
mkfs.ext4 -q -F -d "$place/disk" "$place/disk.img"

timeout "${LIMIT:-3600}" qemu-system-x86_64 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 3G \
    -nographic -no-reboot -nic none -kernel "$place/kernel/boot/vmlinuz-$version" -initrd "$place/initial.gz" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off" \
    -drive "file=$place/disk.img,if=virtio,format=raw" -device virtio-rng-pci \
    -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=host,mount_tag=host </dev/null | tr -d '\r' | tee "$place/console"
grep -q '^result: good' "$place/console"
