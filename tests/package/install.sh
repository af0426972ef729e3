#!/bin/sh
# Installs into a scratch folder, moves that folder, and builds and runs a program against what lies there: with the
# CMake package and with pkg-config, shared and static, in C and in C++.
set -eu

here=$SOURCE_DIR/tests/package
work=$PWD/install
rm -rf "$work"
mkdir -p "$work"
"$CMAKE" --install "$BUILD_DIR" --config "$CONFIG" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/prefix"
library_dir=$(dirname "$(find "$work/prefix" -name libevenkeel.so)")
version=$(sed -n 's/#define EK_VERSION_STRING "\(.*\)"/\1/p' "$SOURCE_DIR/include/evenkeel/status.h")

# verify WHAT PROGRAM: the program runs and tells the version.
verify() {
    told=$(LD_LIBRARY_PATH=$library_dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$2")
    test "$told" = "evenkeel $version" || { echo "$1: expected «evenkeel $version», got «$told»"; exit 1; }
    echo "$1: $told"
}

languages=C
cxx=
for compiler in "${CXX:-}" c++ g++ clang++; do
    if [ -n "$compiler" ] && command -v "$compiler" >/dev/null; then
        cxx=$compiler
        languages="C CXX"
        break
    fi
done
[ -n "$cxx" ] || echo "no C++ compiler: C alone is checked"

for language in $languages; do
    build=$work/cmake-$language
    if ! { CXX=$cxx "$CMAKE" -S "$here/consumer" -B "$build" -DLANGUAGE="$language" -DVERSION="${version%.*}" \
        -DCMAKE_PREFIX_PATH="$work/prefix" && "$CMAKE" --build "$build"; } >"$build.log" 2>&1; then
        cat "$build.log"
        exit 1
    fi
    verify "find_package, $language, shared" "$build/with_shared"
    verify "find_package, $language, static" "$build/with_static"
done

command -v pkg-config >/dev/null || { echo "no pkg-config: not checked"; exit 0; }
export PKG_CONFIG_PATH="$library_dir/pkgconfig"
test "$(pkg-config --modversion evenkeel)" = "$version"
cp "$here/consumer/main.c" "$work/main.cpp"
for kind in shared static; do
    if [ $kind = shared ]; then
        flags=$(pkg-config --cflags --libs evenkeel)
    else
        flags=$(pkg-config --cflags --static --libs evenkeel | sed 's/-levenkeel/-l:libevenkeel.a/')
    fi
    # shellcheck disable=SC2086 # several flags
    "$CC" -std=c11 "$here/consumer/main.c" -o "$work/pc-c-$kind" $flags
    verify "pkg-config, C, $kind" "$work/pc-c-$kind"
    if [ -n "$cxx" ]; then
        # shellcheck disable=SC2086
        "$cxx" -std=c++17 "$work/main.cpp" -o "$work/pc-cxx-$kind" $flags
        verify "pkg-config, C++, $kind" "$work/pc-cxx-$kind"
    fi
done
