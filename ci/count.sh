# Counting tests, for ci/check.sh. A test that lacks something says `skipped: needs WHAT` and passes;
# here it counts as skipped and not as passed.

totals=(0 0 0)
counts=()

add_counts() { # name passed failed skipped
    local name=$1 passed=$2 failed=$3 skipped=$4
    passed=$((passed - skipped))
    counts+=("$(printf '%-36s %4d passed, %d failed, %d skipped' "$name:" "$passed" "$failed" "$skipped")")
    totals=($((totals[0] + passed)) $((totals[1] + failed)) $((totals[2] + skipped)))
}

# What nextest wrote: <testsuites tests=".." failures=".." errors="..">.
count_junit() { # name file
    local all bad skipped
    all=$(grep -c '<testcase ' "$2" || true)
    bad=$(grep -cE '<(failure|error)[ >]' "$2" || true)
    skipped=$(grep -c 'skipped: needs' "$2" || true)
    list_skips "$2"
    list_flaky "$2"
    add_counts "$1" $((all - bad)) "$bad" "$skipped"
}

# What cargo's own harness wrote, one `test result:` line a binary.
count_libtest() { # name file
    local passed failed skipped
    passed=$(sed -nE 's/^test result: .* ([0-9]+) passed;.*/\1/p' "$2" | paste -sd+ | bc_sum)
    failed=$(sed -nE 's/^test result: .* ([0-9]+) failed;.*/\1/p' "$2" | paste -sd+ | bc_sum)
    # Those that failed and were asked again are counted by how that ended.
    failed=$((failed - $(sed -nE 's/^asked again: ([0-9]+):.*/\1/p' "$2" | paste -sd+ | bc_sum)))
    skipped=$(grep -c 'skipped: needs' "$2" || true)
    # A run that ended before it could report has failed.
    if ! grep -q '^test result:' "$2"; then failed=$((failed + 1)); fi
    list_skips "$2"
    add_counts "$1" "$passed" "$failed" "$skipped"
}

# Arithmetic without bc: standard input is `1+2+3`, or nothing.
bc_sum() { local sum; read -r sum || true; echo $((${sum:-0})); }

# What is missing, and how many tests that left out.
list_skips() { # file
    grep -oE 'skipped: needs .*' "$1" | sed -E 's/ \([^)]*\)$//' | sort | uniq -c | sed 's/^ */  /' || true
}

# Tests that failed and then held when they were asked again.
list_flaky() { # file
    awk -F'"' '/<testcase / { name = $2 } /<flakyFailure / { print "  held only when asked again: " name }' "$1" | sort -u
}

# Of a log of cargo's harness: the results, and everything about failures.
show_tests() { # file
    grep '^asked again:' "$1" || true
    if grep -qE '^(test result: FAILED|error)' "$1" || ! grep -q '^test result:' "$1"; then
        cat "$1"
    else
        grep '^test result:' "$1"
    fi
}

print_counts() {
    printf '%s\n' "${counts[@]}"
    printf '%d passed, %d failed, %d skipped\n' "${totals[@]}"
}
