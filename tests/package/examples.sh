#!/bin/sh
# Runs train_mnist, the examples on sequences and the benchmark of their cost with small settings: each prints its
# tables and leaves its files, on the embedded data and on a folder of texts; what must be exact is; one thread and
# three give the same.
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

mnist=$BUILD_DIR/examples/train_mnist
run mnist "$mnist" --quick --threads 1 --out out
expect mnist '^  *[12]  *[0-9.]*  *[0-9.]* %  *[0-9.]*  *[0-9.]* %  *[0-9]*  *[0-9.]*$' 2
expect mnist '^Time: [0-9.]* s, of which [0-9.]* s in training, [0-9]* images/s$' 1
expect mnist '^Peak memory: [1-9][0-9]* MiB$' 1
for file in out/train_mnist.csv out/train_mnist.gnuplot; do
    [ -s "$file" ] || complain "train_mnist left no $file"
done
[ "$(head -n 1 out/train_mnist.csv)" = step,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,seconds ] ||
    complain "out/train_mnist.csv: another header: $(head -n 1 out/train_mnist.csv)"
# One class of ten is right by chance; 64 steps bring 65 % to 85 %, by the seed.  The test stands at each epoch's end.
accuracy=$(sed -n 's/^Test accuracy: \([0-9.]*\) % .*/\1/p' mnist.txt)
awk -F, -v printed="$accuracy" '
    NR > 1 && (NF != 8 || $1 != NR - 1 || $4 <= 0 || ($7 != "") != ($1 % 32 == 0)) { exit 1 }
    { last = $7 }
    END { if (NR != 65 || printed < 50 || last - printed > 0.01 || printed - last > 0.01) exit 1 }' out/train_mnist.csv ||
    complain "train_mnist: accuracy of \"$accuracy\" %, or out/train_mnist.csv is not what 64 steps leave"
cut -d, -f1-7 out/train_mnist.csv >mnist1.csv # without the seconds
[ -s mnist.err ] && complain "train_mnist: a line of progress without a terminal: $(cat mnist.err)"
# On a terminal there is one, from the first record on, and it goes when the epoch is done.
if ! script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    echo "SKIPPED: the line of progress on a terminal, as there is no script or no pseudo-terminal here"
else
    script -qec "'$mnist' --quick --threads 1 --out out" /dev/null </dev/null >terminal.txt || complain "no terminal"
    line='epoch 1 of 2,  *[0-9]* %: loss [0-9.]*, accuracy [0-9.]* %, [0-9]* images/s, [0-9]*:[0-5][0-9] left'
    tr '\r' '\n' <terminal.txt | grep -q "^$line" || { cat terminal.txt; complain "no line of progress: $line"; }
    tr '\r' '\n' <terminal.txt | grep -q '^.\[K  *1  *[0-9.]*  *[0-9.]* %' || complain "the line of progress stays"
fi
run mnist3 "$mnist" --quick --threads 3 --out out
cut -d, -f1-7 out/train_mnist.csv | cmp -s - mnist1.csv || complain "train_mnist: three threads give something else"
for norm in none bn ln in gn sn; do
    run mnist_norm "$mnist" --quick --images 32 --batch 8 --epochs 1 --norm $norm --out out
    expect mnist_norm "^cnn, norm: $norm, " 1
    [ $norm = in ] || run mnist_norm "$mnist" --quick --images 33 --model mlp --norm $norm --out out
done
for optimizer in sgd adam adamw rmsprop; do
    run mnist_optimizer "$mnist" --quick --model mlp --optimizer $optimizer --out out
    awk '/^Test accuracy: / { found = $3 } END { exit !(found > 30) }' mnist_optimizer.txt ||
        { cat mnist_optimizer.txt; complain "train_mnist: $optimizer does not learn"; }
done
refuse '^train_mnist: --model mlp --norm in: .*: take --model cnn' "$mnist" --quick --model mlp --norm in --out out
for norm in bn sn; do
    refuse "--norm $norm --batch 1: .*: take --batch 2" "$mnist" --quick --model mlp --norm $norm --batch 1 --out out
done
refuse '^train_mnist: --batch 33: there are 32 .* at most that' "$mnist" --quick --images 32 --batch 33 --out out
refuse '^train_mnist: --norm: expected one of none|bn|ln|in|gn|sn, got "b"$' "$mnist" --norm b --out out
refuse '^train_mnist: --model: expected one of mlp|cnn, got ""$' "$mnist" --model '' --out out
for rate in 0 -1 fast 1e-3x inf nan; do
    refuse "^train_mnist: --lr: expected a number above 0, got \"$rate\"\$" "$mnist" --lr $rate --out out
done
refuse '^train_mnist: --epochs: expected a whole number of at least 0, got "2.5"$' "$mnist" --epochs 2.5 --out out
refuse 'no finite number at step [0-9]*: take a smaller --lr than 1e+30$' "$mnist" --quick --model mlp --norm none \
    --optimizer sgd --lr 1e30 --out out
refuse 'texts-there-are-none' "$mnist" --quick --out out --data texts-there-are-none
refuse 'train-images-idx3-ubyte' "$mnist" --quick --out out --data texts

run cost "$BUILD_DIR/bench/sequence_cost" --steps 32 --batch 8 --features 8 --hidden 8 --repetitions 1
expect cost '^[0-9]*	[0-9]*	[0-9]*	[0-9.]*	[0-9.]*$' 16
expect cost 'R² = ' 2
for program in "$padded" "$recurrent" "$mnist" "$BUILD_DIR/bench/sequence_cost"; do
    run help "$program" --help
    expect help '^usage: ' 1
done
exit $status
