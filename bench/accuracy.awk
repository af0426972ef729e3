# Turns what bench/accuracy.sh prints into the table of docs/accuracy.md: a row per norm and mean/σ, a column per result;
# the largest error over all sizes, ours and then the peer's.
#   bench/accuracy.sh | awk -f bench/accuracy.awk
BEGIN {
    FS = "\t"
    n_results = split("y dx dgamma dbeta running_mean running_var", results, " ")
}
/^#/ || $1 == "case" {
    next
}
{
    split($1, word, "_")
    norm = word[1]
    ratio = $1
    sub(/.*_mean/, "", ratio)
    row = norm " " ratio
    if (!(row in seen)) {
        seen[row] = 1
        rows[++n] = row
    }
    if (!((row, $2) in ours) || $3 + 0 > ours[row, $2])
        ours[row, $2] = $3 + 0
    if ($4 != "-" && (!((row, $2) in peer) || $4 + 0 > peer[row, $2]))
        peer[row, $2] = $4 + 0
}
END {
    printf "| norm | mean/σ |"
    for (k = 1; k <= n_results; k++)
        printf " %s |", results[k]
    printf "\n|---|---:|"
    for (k = 1; k <= n_results; k++)
        printf "---:|"
    printf "\n"
    for (i = 1; i <= n; i++) {
        split(rows[i], word, " ")
        printf "| %s | %s |", word[1], word[2]
        for (k = 1; k <= n_results; k++) {
            if ((rows[i], results[k]) in peer)
                printf " %.1e / %.1e |", ours[rows[i], results[k]], peer[rows[i], results[k]]
            else if ((rows[i], results[k]) in ours)
                printf " %.1e |", ours[rows[i], results[k]]
            else
                printf " |"
        }
        printf "\n"
    }
}
