#!/usr/bin/env bash
# usage: scripts/demo.sh [--data DIR] [OPTION…]
#
# Trains a small convolutional network with each norm at shrinking batch sizes and shows what becomes of its test error:
# a table, out/small_batch.csv and, where gnuplot is there, out/small_batch.png.
#
#   --data DIR   train on the IDX or IDX.gz files (MNIST) in DIR instead of the embedded data set
#   --out DIR    the folder for the CSV and the plot
#   --help       this text
#
# Any other option goes to the example program, build/examples/small_batch (its own --help tells them).
# Installs what is missing through apt-get and builds in build/; needs root only if something is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

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
build "$root/build" example_small_batch -DCMAKE_BUILD_TYPE=Release -DEVENKEEL_EXAMPLES=ON
caller=$PWD
cd "$root"
build/examples/small_batch "${arguments[@]}"
[ -n "$out" ] || [ "$caller" = "$root" ] || say "these files are in $root"
