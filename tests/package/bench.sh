#!/bin/sh
# The comparison with peers, without peers: names of the cases, form of the table, and a driver that neither a missing
# nor a failing peer can stop.
set -eu

work=$PWD/bench
rm -rf "$work"
mkdir -p "$work"
cd "$work"
status=0
complain() {
    echo "$1" >&2
    status=1
}
compare=$BUILD_DIR/bench/compare
ours=ours=$BUILD_DIR/bench/ours
copy=copy=$BUILD_DIR/bench/copy

"$compare" --list "$SOURCE_DIR/bench/norm.cases" >names.txt
for norm in bn_20x100 bn_20x100x35x45 bn_32x64x56x56 bn_50x64x112x112 bn_2x64x56x56 ln_20x5x10 ln_20x5x10x10 \
    ln_4096x768 ln_128x1024 in_20x100x35x45 in_affine_20x100x35x45 gn_20x6x10x10 gn_32x64x56x56 sn_20x100x35x45 \
    sn_20x6x10x10; do
    for variant in fwd train relu_fwd relu_train; do
        for threads in 1 2; do
            name=${norm}_${variant}_t$threads
            grep -qx "$name" names.txt || complain "there is no case $name"
        done
    done
done

cat >tiny.cases <<'CASES'
# one of each norm
variants fwd train relu_fwd relu_train
threads 1 2
bn 8x4          # (N, C)
bn 4x3x5x5
ln 4x2x3x2 last=3
in 2x3x4x4
in_affine 2x3x4x4
gn 2x4x3x3 groups=2
sn 3x2x4x4
CASES
# table LINES NAME: what is in table.txt; times are positive, the ratio is peer/ours, the peer is NAME in every line.
table() {
    awk -F'\t' -v lines="$1" -v peer="$2" '
        NF != 6 || $1 !~ /^(bn|ln|in|in_affine|gn|sn)_[0-9x]+_(relu_)?(fwd|train)_t[12]$/ || !($2 > 0) || !($6 > 0) ||
            $5 != peer { exit 1 }
        peer == "none" ? $3 != "-" || $4 != "-" : !($3 > 0) || $4 > 1.1 * $3 / $2 || $4 < 0.9 * $3 / $2 { exit 1 }
        END { if (NR != lines) exit 1 }' table.txt || {
        cat table.txt >&2
        complain "this is not a table of $1 lines about $2"
    }
}
"$compare" --quick tiny.cases "$ours" "$copy" >table.txt
table 56 none
"$compare" --quick --match train tiny.cases "$ours" "$copy" "again=$BUILD_DIR/bench/ours" >table.txt 2>told.txt
table 28 again
! grep -q 'something else' told.txt || complain "our own program does not agree with itself"
"$compare" --quick --match 'sn*_fwd_t1' tiny.cases "$ours" "$copy" \
    "gone=exit 1" \
    "quits=read -r line; echo here; read -r line; exit" \
    "idle=while read -r line; do echo none; done" \
    "babbles=while read -r line; do case \$line in run*) echo 1 1 ;; *) echo ready 1 1 ;; esac; done" \
    "liar=while read -r line; do case \$line in run*) echo 1 1 1 ;; *) echo ready 1 1 ;; esac; done" \
    >table.txt 2>told.txt || {
    cat told.txt >&2
    complain "the driver stopped at a failing peer"
}
table 2 liar
for expected in 'gone gives no answer' 'quits gives no answer' 'liar computes something else' \
    'babbles gives other times than "median repetitions fastest"'; do
    grep -q "$expected" told.txt || complain "not told: $expected"
done
if "$compare" --quick --match nothing tiny.cases "$ours" "$copy" >table.txt 2>told.txt; then
    complain "a pattern that matches nothing is no error"
fi
grep -q 'no case matches "nothing"' told.txt || complain "not told: no case matches"
if "$compare" --quick tiny.cases "ours=exit 1" "$copy" >table.txt 2>told.txt; then
    complain "our own program may fail unseen"
fi
exit $status
