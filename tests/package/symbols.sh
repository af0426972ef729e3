#!/bin/sh
# The shared library exports what the headers mark EK_API and nothing else; the static one defines no global name that
# could collide with a user's: all begin with ek_, but for NAME.resolver, which clang adds to each cloned kernel and which
# no C program can define.
set -eu

# After the preprocessor every public prototype reads: __attribute__((visibility("default"))) type name(…).
"$CC" -std=c11 -E -P -I "$SOURCE_DIR/include" "$SOURCE_DIR/include/evenkeel/evenkeel.h" | tr '\n' ' ' |
    sed 's/__attribute__((visibility("default")))/\n@/g' |
    sed -n 's/^@\([^(;]*[ *]\)\(ek_[a-z0-9_]*\)[ (;].*/\2/p' | sort >declared
nm -D --defined-only "$LIBRARY_DIR/libevenkeel.so" | awk '{ print $3 }' | sort >exported
nm -g --defined-only "$LIBRARY_DIR/libevenkeel.a" | awk 'NF == 3 && $3 !~ /^ek_|\.resolver$/ { print $3 }' >foreign
nm "$LIBRARY_DIR/libevenkeel.a" | awk '$3 ~ /\.resolver$/ { print $3 }' | sort | uniq -d >repeated

test -s declared
status=0
report() {
    test ! -s "$2" || { echo "$1:"; sed 's/^/  /' "$2"; status=1; }
}
comm -13 declared exported >extra
comm -23 declared exported >missing
report "exported, but not declared with EK_API" extra
report "declared with EK_API, but not exported" missing
report "global in the static library without the prefix ek_" foreign
report "cloned kernels of one name in two files, which clang cannot link" repeated
exit $status
