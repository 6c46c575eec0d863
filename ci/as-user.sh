#!/bin/bash
# Runs the tests as an ordinary user who exists for as long as that takes. Only for root.
#
#   ci/as-user.sh range     newuidmap gives the user 65536 more ids (/etc/subuid)
#   ci/as-user.sh single    the user has no id but their own
#
# A test that fails is asked once more, alone, and is listed as one that was.
#
# The tests know the paths of the program and of their data from when they were compiled, and an
# ordinary user may not be able to go there (a clone below /root). So what they need is copied to a
# readable place, and in a mount namespace of this run that copy is seen where the original is.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in range | single) ids=$1 ;; *) echo "usage: $0 range|single" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "$0: only root can become another user" >&2; exit 2; }
for tool in newuidmap useradd setpriv unshare; do
    command -v "$tool" >/dev/null || { echo "$0: there is no $tool (Debian: uidmap, passwd, util-linux)" >&2; exit 2; }
done

readonly clone=$PWD user=stave-check-$$
place=$(mktemp -d "${TMPDIR:-/tmp}/stave-check.XXXXXX")
chmod 0755 "$place"

clean_up() {
    # Files of the range's ids are root's to remove.
    userdel --force "$user" 2>/dev/null || true
    rm -rf --one-file-system "$place"
}
trap clean_up EXIT

# Debian's useradd gives a new user a range of ids where /etc/subuid exists, and userdel takes it back.
touch /etc/subuid /etc/subgid
useradd --home-dir "$place/home" --create-home --shell /bin/sh "$user"
if [ "$ids" = single ]; then
    sed -i "/^$user:/d" /etc/subuid /etc/subgid
elif ! grep -q "^$user:" /etc/subuid; then
    first=$(awk -F: '{ end = $2 + $3; if (end > top) top = end } END { print top < 100000 ? 100000 : top }' \
        /etc/subuid /etc/subgid)
    usermod --add-subuids "$first-$((first + 65535))" --add-subgids "$first-$((first + 65535))" "$user"
fi

# The uppermost folder on the way to the clone that the user cannot enter, or else the clone itself.
hidden=$clone
folder=$clone
while [ "$folder" != / ]; do
    setpriv --reuid="$user" --regid="$user" --init-groups test -x "$folder" || hidden=$folder
    folder=$(dirname "$folder")
done

# The test programs are built already; this only asks where they are.
mapfile -t programs < <(cargo test --locked --no-run 2>&1 | sed -nE 's/^ *Executable .*\((.*)\)$/\1/p')
[ ${#programs[@]} -gt 0 ] || { echo "$0: no test programs" >&2; exit 1; }

copy=$place/tree${clone#"$hidden"}
mkdir -p "$copy/target/debug/deps" "$copy/target/tmp" "$place/tmp"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$copy" --no-same-owner
install -m 0755 target/debug/stave "$copy/target/debug/"
for program in "${programs[@]}"; do install -m 0755 "$program" "$copy/target/debug/deps/"; done
chmod -R a+rX "$place/tree"
chown "$user:" "$place/tmp" "$copy/target/tmp"

# Everything runs below one mount namespace, which ends with it.
# shellcheck disable=SC2016
unshare --mount --propagation private bash -euc '
    tree=$1 hidden=$2 user=$3 place=$4 clone=$5
    shift 5
    mount --bind "$tree" "$hidden"
    cd "$clone"
    set -o pipefail
    as_user() {
        setpriv --reuid="$user" --regid="$user" --init-groups \
            env -i HOME="$place/home" USER="$user" PATH="$PATH" TMPDIR="$place/tmp" \
            CARGO_MANIFEST_DIR="$clone" "$@" </dev/null
    }
    code=0
    for program; do
        echo "running $program"
        if as_user "./$program" --test-threads 2 | tee "$place/said"; then continue; fi
        # The last list of that name; what comes before it shows what the tests printed.
        mapfile -t failed < <(
            awk "/^failures:\$/ { count = 0 } /^    [^ ]+\$/ { names[count++] = \$1 }
                END { for (i = 0; i < count; i++) print names[i] }" "$place/said"
        )
        echo "asked again: ${#failed[@]}: ${failed[*]}"
        [ ${#failed[@]} -gt 0 ] && as_user "./$program" --test-threads 1 --exact "${failed[@]}" || code=1
    done
    exit "$code"
' bash "$place/tree" "$hidden" "$user" "$place" "$clone" "${programs[@]}"
