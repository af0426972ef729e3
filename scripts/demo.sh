#!/usr/bin/env bash
# usage: scripts/demo.sh [PROGRAM] [--data DIR] [OPTION…]
#
# Builds and runs an example program; each prints tables and what follows from them, and leaves its numbers and, where
# gnuplot is there, a plot in out/:
#
#   small_batch        (unless another is named) a small convolutional network with each norm at shrinking batch sizes
#   train_mnist        trains an MLP or a CNN with any norm, with progress, learning curves, accuracy, time and memory
#   padded_sequences   what padding does to the statistics of each norm, and to a recurrent classifier
#   rnn_layernorm      LSTM and GRU, plain, layer-normalized and batch-normalized
#
# and any other in examples/.
#
#   --data DIR   train on the data in DIR instead of an embedded data set: IDX or IDX.gz files (MNIST) for small_batch
#                and train_mnist, texts, one file CLASS.txt per class, for those on sequences
#   --out DIR    the folder for the CSV and the plot
#   --help       this text
#
# Any other option goes to the program, build/examples/PROGRAM (its own --help tells them).
# Installs what is missing through apt-get and builds in build/; needs root only if something is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

program=small_batch
case ${1:-} in
'' | -*) ;;
*)
    program=$1
    shift
    if [ ! -f "$root/examples/$program.c" ]; then
        die "there is no example $program; there are: $(cd "$root/examples" && echo ./*.c | sed 's|\./||g; s|\.c\>||g')"
    fi
    ;;
esac

arguments=()
out=
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --data | --data=* | --out | --out=*)
        option=${1%%=*}
        if [ "$1" = "$option" ]; then
            [ $# -ge 2 ] || die "$option: expected a folder after it"
            shift
        fi
        folder=${1#"$option="}
        [ "$option" = --out ] || [ -d "$folder" ] || die "--data: there is no folder $folder"
        arguments+=("$option" "$(realpath -m "$folder")")
        [ "$option" = --data ] || out=$folder
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

require build demo
say "building with optimization in $root/build …"
build "$root/build" "example_$program" -DCMAKE_BUILD_TYPE=Release -DEVENKEEL_EXAMPLES=ON
caller=$PWD
cd "$root"
"build/examples/$program" "${arguments[@]}"
[ -n "$out" ] || [ "$caller" = "$root" ] || say "these files are in $root"
