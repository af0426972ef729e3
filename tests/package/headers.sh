#!/bin/sh
# Every public header compiles alone, as C11 and as C++17, without a warning, with every compiler there is.
set -eu

checked=0
for compiler in "$CC" gcc clang; do
    command -v "$compiler" >/dev/null || continue
    for standard in c11 c++17; do
        language=${standard%%[12]*}
        if ! printf 'int main(void) { return 0; }\n' | "$compiler" -x "$language" -fsyntax-only - 2>/dev/null; then
            echo "skipped: $compiler does not compile $standard"
            continue
        fi
        for header in "$SOURCE_DIR"/include/evenkeel/*.h; do
            printf '#include <evenkeel/%s>\n' "${header##*/}" |
                "$compiler" -x "$language" -std="$standard" -Wall -Wextra -Wpedantic -Werror -fsyntax-only \
                    -I "$SOURCE_DIR/include" -
            checked=$((checked + 1))
        done
    done
done
echo "$checked times a header was compiled"
test "$checked" -gt 0
