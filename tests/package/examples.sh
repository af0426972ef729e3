#!/bin/sh
# Runs the examples on sequences, and the benchmark of their cost, with small settings: each prints its tables and leaves
# its files, on the embedded texts and on a folder of texts; what must be exact is; one thread and three give the same.
set -eu

work=$PWD/example_runs
rm -rf "$work"
mkdir -p "$work/texts"
cd "$work"
status=0
complain() {
    echo "$1" >&2
    status=1
}
# run NAME PROGRAM ARGUMENT…: its output goes to NAME.txt.  Nothing is there to be read.
run() {
    name=$1
    shift
    "$@" </dev/null >"$name.txt" 2>"$name.err" || { cat "$name.txt" "$name.err" >&2; complain "$name: failed: $*"; }
}
# expect NAME PATTERN TIMES
expect() {
    found=$(grep -c -e "$2" "$1.txt") || true
    [ "$found" = "$3" ] || { cat "$1.txt" >&2; complain "$1: expected $3 lines with \"$2\", found $found"; }
}
# refuse PATTERN PROGRAM ARGUMENT…: it must fail and say so.
refuse() {
    pattern=$1
    shift
    if "$@" </dev/null >refused.txt 2>refused.err; then complain "not refused: $*"; fi
    grep -q -e "$pattern" refused.err || { cat refused.err >&2; complain "expected \"$pattern\" from: $*"; }
}

# A class needs texts of its own; characters beyond ASCII and different lengths.
for class in Aa Oe; do
    for i in 1 2 3 4 5 6 7 8 9; do
        for j in 1 2 3 4 5 6 7 8 9; do
            case $class in
            Aa) echo "a$i$j" ;;
            Oe) echo "ö$i-$j-$i" ;;
            esac
        done
    done >"texts/$class.txt"
done
printf '%s\n' b c d f g h i j k l >>texts/Aa.txt # texts of one step, which some norms refuse by shape

padded=$BUILD_DIR/examples/padded_sequences
run padded "$padded" --quick --threads 1 --out out
expect padded 'LN over (T, D), the sentence of 8' 1
expect padded '^ *[0-9]* %  *[0-9.]* %  *[0-9]*  *[0-9.]*  *[0-9.]*  *0  *0  *0 of ' 5 # masked: shifts of exactly 0
expect padded '^  BN masked ' 2
expect padded 'masked, by exactly those' 1
expect padded 'LayerNorm per word gives the same bits' 1
expect padded ' over padding .* one seed says nothing of chance$' 4
expect padded 'in points of accuracy; one seed says nothing of chance:' 1
for file in out/padded_sequences.csv out/padded_sequences_statistics.csv out/padded_sequences.gnuplot; do
    [ -s "$file" ] || complain "padded_sequences left no $file"
done
awk -F, 'NR > 1 && ($1 >= 0.5 && $4 < 0.05 || $6 != 0 || $7 != 0 || $8 != 0) { exit 1 }
         END { if (NR != 6) exit 1 }' out/padded_sequences_statistics.csv ||
    complain "out/padded_sequences_statistics.csv: BatchNorm did not shift, masked BatchNorm or LayerNorm did"
run padded3 "$padded" --quick --threads 3 --out out
# The first line says how many threads there are.
[ "$(tail -n +2 padded.txt)" = "$(tail -n +2 padded3.txt)" ] || complain "padded_sequences: three threads give something else"
run padded_folder "$padded" --quick --data texts --out out
expect padded_folder 'held-out texts of 2 classes' 1

recurrent=$BUILD_DIR/examples/rnn_layernorm
run recurrent "$recurrent" --quick --out out --name 'vingt-deux,zwanzig☃' --name one
expect recurrent '^  LSTM + LN ' 2
expect recurrent '^  GRU + BN ' 2
expect recurrent '^vingt-deux$' 1
expect recurrent '^one$' 1
expect recurrent 'unknown character: "☃", the 8. of the name' 1
expect recurrent 'unknown character' 1
for file in out/rnn_layernorm.csv out/rnn_layernorm.gnuplot; do
    [ -s "$file" ] || complain "rnn_layernorm left no $file"
done
run recurrent_folder "$recurrent" --quick --data texts --out out --name ö1-2-1
expect recurrent_folder '% *Oe$' 1
refuse 'expected at least one character' "$recurrent" --quick --out out --name ,one
refuse 'not UTF-8\|UTF-8' "$recurrent" --quick --out out --name "$(printf 'a\377')"
refuse 'no option "--nonsense"' "$padded" --nonsense
refuse 'texts-there-are-none' "$padded" --quick --out out --data texts-there-are-none

run cost "$BUILD_DIR/bench/sequence_cost" --steps 32 --batch 8 --features 8 --hidden 8 --repetitions 1
expect cost '^[0-9]*	[0-9]*	[0-9]*	[0-9.]*	[0-9.]*$' 16
expect cost 'R² = ' 2
for program in "$padded" "$recurrent" "$BUILD_DIR/bench/sequence_cost"; do
    run help "$program" --help
    expect help '^usage: ' 1
done
exit $status
