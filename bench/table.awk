# Turns what bench/compare.sh prints into the table of docs/performance.md: a row per case, a column of ratios per peer.
#   bench/compare.sh norm | awk -f bench/table.awk
BEGIN {
    FS = "\t"
}
!($1 in ours) {
    cases[++n] = $1
    ours[$1] = $2
    copy[$1] = $6
}
$5 != "none" {
    if (!($5 in seen)) {
        seen[$5] = 1
        peers[++m] = $5
    }
    ratio[$1, $5] = sprintf("%.2f", $4)
}
# Three digits.
function short(us) {
    return us + 0 != us ? us : us < 10 ? sprintf("%.2f", us) : us < 100 ? sprintf("%.1f", us) : sprintf("%.0f", us)
}
END {
    printf "| case | ours, µs | copy, µs |"
    for (j = 1; j <= m; j++)
        printf " %s |", peers[j]
    printf "\n|---|---:|---:|"
    for (j = 1; j <= m; j++)
        printf "---:|"
    printf "\n"
    for (i = 1; i <= n; i++) {
        printf "| %s | %s | %s |", cases[i], short(ours[cases[i]]), short(copy[cases[i]])
        for (j = 1; j <= m; j++)
            printf " %s |", (cases[i], peers[j]) in ratio ? ratio[cases[i], peers[j]] : ""
        printf "\n"
    }
}
