#!/usr/bin/env bash
# usage: bench/compare.sh [norm|train|job|growth|all] [PATTERN] [--quick] [--best] [--list] [--data DIR]
#
# Builds and times the cases of a suite here and in the peers, alternately, and prints one line per case and peer,
# separated by tabs (ratio = peer/ours: above 1 we are faster; the last column is the time that a copy of the same
# tensor takes):
#
#   case  ours_us  peer_us  ratio  peer_name  copy_us
#
#   norm      norms alone (bench/norm.cases)
#   train     training steps, convolutions, products of matrices, and as mem_… the peak memory of training, in MiB
#             (bench/train.cases)
#   job       the small-batch experiment with BatchNorm on one thread (bench/job.cases): job_t1 is all of it
#   growth    a training step over batch size and over width (bench/growth.cases)
#   all       norm and train, as without a suite
#
#   PATTERN   only cases whose name contains this or matches it: bn_32, '*_train_t2'
#   --quick   one short round instead of five
#   --best    the fastest repetitions instead of medians: for a machine that is busy
#   --list    only the names of the cases
#   --data    MNIST's files for the job; without it the embedded glyphs
#   --help    this text
#
# Peers: PyTorch twice, as `pytorch` with an allocator that keeps its memory and as `pytorch_default` without, and
# oneDNN in plain and in its own blocked layout; `pytorch_scripted`, where torch.jit.script helps; `openblas` for
# products, and `large_sgemm`, the time that as many multiplications take in OpenBLAS's product of 1024³.  One that is
# missing is told and left out.  docs/performance.md says more.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/../scripts/common.sh"

suites=()
options=()
data=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --data)
        [ $# -gt 1 ] || die "--data: expected a folder"
        data=("$2")
        shift
        ;;
    --quick | --best | --list) options+=("$1") ;;
    -*) die "there is no option $1; --help lists them" ;;
    *)
        if [ ${#suites[@]} = 0 ]; then
            case $1 in
            norm | train | job | growth) suites=("$1") ;;
            all) suites=(norm train) ;;
            *) die "expected norm, train, job, growth or all, got $1" ;;
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

# The peers, one command each: a new one is a line here and a program that answers as bench/worker.h says.
pytorch=()
scripted=()
if python=$(find_python_with torch); then
    python="exec $python $(printf %q "$root/bench/peer_pytorch.py")"
    tuned="MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 $python"
    pytorch=("pytorch=$tuned" "pytorch_default=$python")
    scripted=("pytorch_scripted=$tuned scripted")
else
    say "PyTorch is missing (python3-torch): going on without" >&2
fi
onednn=()
if [ -x "$programs/peer_onednn" ]; then
    onednn=("onednn=exec $(printf %q "$programs/peer_onednn")"
        "onednn_blocked=exec $(printf %q "$programs/peer_onednn") blocked")
else
    say "oneDNN 2 is missing (libdnnl-dev): going on without" >&2
fi
openblas=()
if [ -x "$programs/peer_blas" ]; then
    openblas=("openblas=exec $(printf %q "$programs/peer_blas")"
        "large_sgemm=exec $(printf %q "$programs/peer_blas") large")
fi

for suite in "${suites[@]}"; do
    ours="exec $(printf %q "$programs/ours")"
    peers=("${pytorch[@]}")
    case $suite in
    norm) peers+=("${onednn[@]}") ;;
    train) peers+=("${scripted[@]}" "${onednn[@]}" "${openblas[@]}") ;;
    growth) peers=("${pytorch[@]:0:1}") ;;
    job)
        peers=("${pytorch[@]:0:1}")
        BENCH_JOB=$(mktemp)
        export BENCH_JOB
        trap 'rm -f "$BENCH_JOB"' EXIT
        "$programs/job" export "$BENCH_JOB" "${data[@]}"
        ours="exec $(printf '%q ' "$programs/job" "${data[@]}")"
        ;;
    esac
    "$programs/compare" "${options[@]}" "$root/bench/$suite.cases" "ours=$ours" \
        "copy=exec $(printf %q "$programs/copy")" "${peers[@]}"
done
