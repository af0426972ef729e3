#!/usr/bin/env bash
# usage: bench/accuracy.sh [PATTERN]
#
# Compares the norms of float32, ours and PyTorch's, with the truth computed in long double from the same numbers, and
# prints one line per case and result, separated by tabs, with the largest error over the largest true value, the same
# of root mean squares, and for y the largest error in units of the float32 spacing:
#
#   case  result  ours_max  peer_max  ours_rms  peer_rms  ours_spacings  peer_spacings
#
# then in how many lines ours are at least as small, and which are the others.  The cases are in bench/accuracy.cases.
#
#   PATTERN   only cases whose name contains this or matches it: bn_, '*_mean1e6'
#   --help    this text
#
# Where PyTorch is missing there are our errors alone.  docs/accuracy.md says more.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/../scripts/common.sh"

options=()
for argument in "$@"; do
    case $argument in
    --help | -h)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    -*) die "there is no option $argument; --help lists them" ;;
    *) options=(--match "$argument") ;;
    esac
done

require build bench >&2
say "building in $root/build …" >&2
build "$root/build" bench_accuracy -DCMAKE_BUILD_TYPE=Release -DEVENKEEL_BENCH=ON
program=$root/build/bench/accuracy

if ! python=$(find_python_with torch); then
    say "PyTorch is missing (python3-torch): going on without" >&2
    exec "$program" "${options[@]}" "$root/bench/accuracy.cases"
fi
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
mkfifo "$pipes/to" "$pipes/from"
"$python" "$root/bench/accuracy.py" <"$pipes/to" >"$pipes/from" &
"$program" "${options[@]}" "$root/bench/accuracy.cases" "$pipes/to" "$pipes/from"
