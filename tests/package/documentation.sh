#!/bin/sh
# Compiles and runs the programs shown in README.md and docs/*.md, and compares what they print with what is shown.
# A line before a fenced block says what it is:
#
#   <!-- program -->                      the following ```c block is a whole program: it must compile and return 0
#   <!-- file: examples/quickstart.c -->  the same, and the block is, word for word, that file
#   <!-- output -->                       the following ```text block is what the program above it prints; other
#                                         processors round otherwise, so a number may be off by one in its last digit,
#                                         or by 0.5 %
#
# Blocks without such a line are not looked at.
set -eu

work=$PWD/documentation
rm -rf "$work"
mkdir -p "$work"
cd "$SOURCE_DIR"
set -- README.md docs/*.md
for document; do
    [ -f "$document" ] || continue
    # N.c: program; N.file: the file it must equal; N.output: what it must print; N.place: where it stands.
    awk -v work="$work" -v prefix="$(printf '%s' "${document%.md}" | tr '/ ' '__')" '
        function fail(text) { print FILENAME ":" FNR ": " text > "/dev/stderr"; failed = 1; exit 1 }
        fence && /^```/    { close(target); fence = 0; next }
        fence              { print > target; next }
        /^<!-- (program|file: .*|output) -->$/ {
            if (marker) fail("a marker follows a marker")
            marker = $2
            path = $3
            next
        }
        /^```/ && marker == "output" {
            if (!number) fail("output of which program?")
            target = base ".output"
        }
        /^```/ && (marker == "program" || marker == "file:") {
            if ($0 != "```c") fail("expected ```c after this marker")
            base = work "/" prefix "-" ++number
            target = base ".c"
            print FILENAME ":" FNR > (base ".place")
            if (marker == "file:") print path > (base ".file")
        }
        /^```/             { if (!marker) target = "/dev/null"; else printf "" > target; marker = ""; fence = 1; next }
        marker && NF       { fail("expected a fenced block after this marker") }
        END                { if (!failed && (fence || marker)) fail("a fenced block is missing its end") }
    ' "$document"
done

flags="-std=c11 -O1 -Wall -Wextra -Wpedantic -Werror${SANITIZE:+ -fsanitize=$SANITIZE}"
programs=0
status=0
# same SHOWN PRINTED: equal word for word, numbers as said above.
same() {
    awk '
        function number(word) { return word ~ /^[-+]?[0-9]+([.][0-9]+)?$/ }
        function near(a, b,    unit, gap) {
            unit = a ~ /[.]/ ? 10 ^ -length(substr(a, index(a, ".") + 1)) : 1
            gap = a > b ? a - b : b - a
            return gap <= 1.01 * unit || gap <= 0.005 * (a < 0 ? -a : a)
        }
        function differ(why) { print "line " FNR ": " why > "/dev/stderr"; differs = 1; exit 1 }
        NR == FNR { shown[FNR] = $0; lines = FNR; next }
        {
            if (split(shown[FNR], words) != NF) differ("shown \"" shown[FNR] "\", printed \"" $0 "\"")
            for (i = 1; i <= NF; i++)
                if (words[i] != $i && !(number(words[i]) && number($i) && near(words[i], $i)))
                    differ("shown \"" words[i] "\", printed \"" $i "\"")
        }
        END { if (!differs && FNR != lines) { print "shown " lines " lines, printed " FNR > "/dev/stderr"; exit 1 } }
    ' "$1" "$2"
}
complain() {
    echo "$place: $1"
    status=1
}
for program in "$work"/*.c; do
    [ -f "$program" ] || continue
    base=${program%.c}
    place=$(cat "$base.place")
    programs=$((programs + 1))
    if [ -f "$base.file" ] && ! diff -u "$(cat "$base.file")" "$program"; then
        complain "the block differs from $(cat "$base.file")"
    fi
    # shellcheck disable=SC2086 # several flags
    if ! "$CC" $flags -I include "$program" -o "$base" -L "$LIBRARY_DIR" -Wl,-rpath,"$LIBRARY_DIR" -levenkeel -lm; then
        complain "the program does not compile"
    elif ! (cd "$work" && "$base" >"$base.printed"); then
        complain "the program failed"
    elif [ -f "$base.output" ] && ! same "$base.output" "$base.printed"; then
        complain "the program prints something else than shown"
    fi
done
[ $programs -gt 0 ] || { echo "README.md and docs/ show no program"; exit 77; }
echo "$programs programs of the documentation were compiled and run"
exit $status
