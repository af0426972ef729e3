# shellcheck shell=bash
# Sourced by the scripts beside it: installs missing Debian packages and builds quietly.  Needs no root when all is there.

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
script=${0##*/}

say() { printf '%s: %s\n' "$script" "$*"; }
die() {
    say "$*" >&2
    exit 1
}

# What is used for what: purpose, package, whether it can be done without, and why it is wanted.
packages() {
    cat <<'END'
build  gcc                 needed   compiles the library
build  libc6-dev           needed   headers of the C library
build  cmake               needed   describes the build
build  make                needed   runs the build
build  zlib1g-dev          needed   checkpoints and compressed data
build  libopenblas-dev     optional fast matrix products; without it a slower built-in one is used
tests  check               needed   the framework the tests are written in
tests  pkg-config          needed   finds it
tests  g++                 optional checks the headers in C++
demo   gnuplot-nox         optional draws the plot
bench  python3-torch       optional a peer to compare with
bench  libdnnl-dev         optional a peer to compare with: oneDNN
openmp libomp-dev          optional several threads in what clang compiles
ci     clang               needed   the second compiler
ci     libclang-rt-dev     needed   its sanitizers
ci     libomp-dev          needed   its OpenMP
ci     libopenblas0-serial optional another flavour of OpenBLAS to test with
ci     libopenblas0-openmp optional another flavour of OpenBLAS to test with
END
}

have() { command -v "$1" >/dev/null 2>&1; }

# The compiler that CMake will take: $CC, or the first of these.
compiler() {
    if [ -n "${CC:-}" ]; then
        echo "$CC"
    else
        command -v cc || command -v gcc || command -v clang
    fi
}

# links COMPILER CODE FLAGS…: a program of this one line can be built.
links() {
    local compiler=$1 code=$2
    shift 2
    # shellcheck disable=SC2086 # CC may hold a compiler and flags
    printf '%s\nint main(void) { return 0; }\n' "$code" | $compiler -x c - -o /dev/null "$@" 2>/dev/null
}

# What a package brings is there, wherever it came from.
present() {
    case $1 in
    gcc) have "$(compiler)" || { [ -n "${CC:-}" ] && have "${CC%% *}"; } ;;
    libc6-dev) links "$(compiler)" '#include <stdio.h>' ;;
    make) have make || have ninja ;;
    zlib1g-dev) links "$(compiler)" '#include <zlib.h>' -lz ;;
    libopenblas-dev) links "$(compiler)" '' -lopenblas ;;
    check) pkg-config --exists check 2>/dev/null ;;
    g++) have c++ || have g++ || have clang++ ;;
    gnuplot-nox) have gnuplot ;;
    python3-torch) have python3 && python3 -c 'import importlib.util as u; exit(not u.find_spec("torch"))' ;;
    libdnnl-dev) links "$(compiler)" '#include <dnnl.h>' -ldnnl ;;
    libclang-rt-dev) links clang '' -fsanitize=address,undefined ;;
    libomp-dev) links clang '#include <omp.h>' -fopenmp ;;
    *) have "$1" ;;
    esac || [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends "$@" </dev/null
}

# require PURPOSE…: installs what is missing for these purposes, or says what is missing and leaves.
require() {
    local purpose package need why needed=() optional=() list=''
    while read -r purpose package need why; do
        if [[ " $* " != *" $purpose "* ]] || present "$package"; then continue; fi
        # A compiler that was asked for by name comes in the package of that name.
        [ "$package" = gcc ] && [ -n "${CC:-}" ] && package=${CC%% *}
        if [ "$need" = needed ]; then needed+=("$package"); else optional+=("$package"); fi
        [ "$need" = needed ] || why+=' (optional)'
        list+=$(printf '  %-19s %s' "$package" "$why")$'\n'
    done < <(packages)
    [ -n "$list" ] || return 0

    local as_root=() obstacle=''
    if ! have apt-get; then
        obstacle='there is no apt-get here to install with'
    elif [ "$(id -u)" != 0 ]; then
        if ! have sudo; then
            obstacle='installing needs root'
        elif sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            obstacle='installing needs root, and sudo asks for a password'
        fi
    fi
    local all=("${needed[@]}" "${optional[@]}")
    if [ -n "$obstacle" ]; then
        say "these Debian packages are missing:" >&2
        printf '%s' "$list" >&2
        if [ ${#needed[@]} = 0 ]; then
            say "$obstacle; going on without." >&2
            return 0
        fi
        say "$obstacle.  On Debian, as root:" >&2
        printf '  apt-get update && apt-get install --no-install-recommends %s\n' "${all[*]}" >&2
        exit 1
    fi

    say "installing with apt-get:"
    printf '%s' "$list"
    local log
    log=$(mktemp)
    if "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update >"$log" 2>&1 &&
        apt_install "${all[@]}" >>"$log" 2>&1; then
        rm -f "$log"
        hash -r
        return 0
    fi
    if [ ${#optional[@]} -gt 0 ] && { [ ${#needed[@]} = 0 ] || apt_install "${needed[@]}" >>"$log" 2>&1; }; then
        say "${optional[*]}: could not be installed; going on without." >&2
        rm -f "$log"
        hash -r
        return 0
    fi
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: ${all[*]}"
}

# find_python_with MODULE: a Python that has it; Debian's own, should another one come first.
find_python_with() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c "import $1" 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

# build FOLDER TARGET CMAKE-ARGUMENT…: configures and builds; what the tools print is shown only when they fail.
build() {
    local folder=$1 target=$2 log=$1/build.log
    shift 2
    mkdir -p "$folder" || die "cannot write to $folder"
    local generator=()
    if [ ! -e "$folder/CMakeCache.txt" ] && [ -z "${CMAKE_GENERATOR:-}" ] && ! have make; then
        generator=(-G Ninja)
    fi
    if ! { cmake -S "$root" -B "$folder" "${generator[@]}" "$@" &&
        cmake --build "$folder" --target "$target" --parallel "$(nproc)"; } >"$log" 2>&1; then
        cat "$log" >&2
        die "the build failed; what it said is above and in $log"
    fi
}
