#!/bin/bash
# Everything that must hold before a change is done: formatting, lints, documentation, and all tests,
# as whoever calls and, if that is root, as an ordinary user too, with and without a range of ids.
#
#   ./ci/check.sh
#
# REQUIRE=NAME,... (or `all`) makes a test fail that would be skipped for want of NAME. The last line
# counts tests over all runs. A test that fails is asked once more, since it may have been the machine, and is listed:
# two failures are one too many. Cargo's own harness, where there is no nextest, asks once.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=ci/count.sh
. ci/count.sh

step() { printf '\n== %s\n' "$*"; }

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

step "formatting"
cargo fmt --check

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "tests"
failed=0
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast --retries 1 || failed=1
    count_junit "as $(id -un)" target/nextest/default/junit.xml
else
    cargo test --locked --no-fail-fast >"$logs/tests" 2>&1 || failed=1
    show_tests "$logs/tests"
    count_libtest "as $(id -un)" "$logs/tests"
fi

if [ "$(id -u)" = 0 ]; then
    for ids in range single; do
        step "tests as an ordinary user, ids: $ids"
        ci/as-user.sh "$ids" >"$logs/$ids" 2>&1 || failed=1
        show_tests "$logs/$ids"
        count_libtest "as an ordinary user, ids: $ids" "$logs/$ids"
    done
else
    echo "skipped: needs root (the tests as another user)"
fi

step "all of it"
print_counts
exit "$failed"
