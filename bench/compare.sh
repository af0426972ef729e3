#!/usr/bin/env bash
# usage: bench/compare.sh [norm|train|all] [PATTERN] [--quick] [--best] [--list]
#
# Builds and times the cases of bench/norm.cases or bench/train.cases here and in the peers, alternately, and prints
# one line per case and peer, separated by tabs (ratio = peer/ours: above 1 we are faster; the last column is the time
# that a copy of the same tensor takes):
#
#   case  ours_us  peer_us  ratio  peer_name  copy_us
#
#   PATTERN   only cases whose name contains this or matches it: bn_32, '*_train_t2'
#   --quick   one short round instead of five
#   --best    the fastest repetitions instead of medians: for a machine that is busy
#   --list    only the names of the cases
#   --help    this text
#
# Peers: PyTorch twice, as `pytorch` with an allocator that keeps its memory and as `pytorch_default` without, and
# oneDNN in plain and in its own blocked layout; `pytorch_scripted`, where torch.jit.script helps, and `large_sgemm`,
# the time that as many multiplications take in OpenBLAS's product of 1024³.  One that is missing is told and left
# out.  docs/performance.md says more.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/../scripts/common.sh"

suites=()
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --quick | --best | --list) options+=("$1") ;;
    -*) die "there is no option $1; --help lists them" ;;
    *)
        if [ ${#suites[@]} = 0 ]; then
            case $1 in
            norm | train) suites=("$1") ;;
            all) suites=(norm train) ;;
            *) die "expected norm, train or all, got $1" ;;
            esac
        else
            options+=(--match "$1")
        fi
        ;;
    esac
    shift
done
[ ${#suites[@]} -gt 0 ] || suites=(norm train)

require build bench >&2
say "building in $root/build …" >&2
build "$root/build" comparison -DCMAKE_BUILD_TYPE=Release -DEVENKEEL_BENCH=ON
programs=$root/build/bench

# Commands of the peers: a new one is a line here and a program that answers as bench/worker.h says.
train_workers=()
workers=("ours=exec $(printf %q "$programs/ours")" "copy=exec $(printf %q "$programs/copy")")
if python=$(find_python_with torch); then
    python="exec $python $(printf %q "$root/bench/peer_pytorch.py")"
    tuned="MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 $python"
    workers+=("pytorch=$tuned" "pytorch_default=$python")
    train_workers=("pytorch_scripted=$tuned scripted")
else
    say "PyTorch is missing (python3-torch): going on without" >&2
fi
if [ -x "$programs/peer_onednn" ]; then
    workers+=("onednn=exec $(printf %q "$programs/peer_onednn")"
        "onednn_blocked=exec $(printf %q "$programs/peer_onednn") blocked")
else
    say "oneDNN 2 is missing (libdnnl-dev): going on without" >&2
fi

if [ -x "$programs/peer_blas" ]; then
    train_workers+=("openblas=exec $(printf %q "$programs/peer_blas")"
        "large_sgemm=exec $(printf %q "$programs/peer_blas") large")
fi

for suite in "${suites[@]}"; do
    more=()
    [ "$suite" = norm ] || more=("${train_workers[@]}")
    "$programs/compare" "${options[@]}" "$root/bench/$suite.cases" "${workers[@]}" "${more[@]}"
done
