#!/usr/bin/env bash
# usage: [CC=compiler] [BUILD_DIR=folder] scripts/test.sh [CMAKE-ARGUMENT…]
#
# Installs what is missing through apt-get, builds the library with its tests and runs them all.
#
#   CC=clang scripts/test.sh                                      another compiler, in build-clang/
#   BUILD_DIR=build-serial scripts/test.sh -DEVENKEEL_OPENMP=OFF  other options, in a folder of their own: CMake
#                                                                 remembers options for each folder
# Needs root only if something is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

case ${1:-} in
--help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit 0
    ;;
esac
compiler=${CC:-}
compiler=${compiler%% *}
compiler=${compiler##*/}
folder=$(realpath -m "${BUILD_DIR:-$root/build${compiler:+-$compiler}}")

purposes=(build tests)
[[ $compiler != clang* ]] || purposes+=(openmp)
require "${purposes[@]}"
say "building in $folder …"
build "$folder" all -DCMAKE_BUILD_TYPE=Release -DEVENKEEL_TESTS=ON -DEVENKEEL_EXAMPLES=ON "$@"
cd "$folder"
exec ctest --output-on-failure --parallel "$(nproc)"
