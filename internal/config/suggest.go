package config

import (
	"slices"
	"strconv"
	"strings"
)

// Suggest returns the candidate that word most likely meant, or "": at most two edits away
// (insertion, deletion, replacement, swap of neighbours), one for words under four letters.
func Suggest(word string, candidates []string) string {
	if near := Near(word, candidates); len(near) > 0 {
		return near[0]
	}
	return ""
}

// Near returns up to three candidates that are equally near to word, in their order.
func Near(word string, candidates []string) []string {
	if len(word) > 64 {
		return nil
	}
	best := 2
	if len([]rune(word)) < 4 {
		best = 1
	}
	var near []string
	lower := strings.ToLower(word)
	for _, c := range candidates {
		if len(c) > 64 || slices.Contains(near, c) {
			continue
		}
		n := distance(lower, strings.ToLower(c))
		// Two words of two letters are always near; that is no hint.
		if n > best || n >= len([]rune(c)) {
			continue
		}
		if n < best {
			best, near = n, nil
		}
		near = append(near, c)
	}
	return near[:min(len(near), 3)]
}

// suggestion is Near as it is shown: "a" or "b".
func suggestion(word string, candidates []string) string {
	near := Near(word, candidates)
	for i := range near {
		near[i] = strconv.Quote(near[i])
	}
	return strings.Join(near, " or ")
}

// distance is the number of edits between two words: optimal string alignment, the form of
// Damerau-Levenshtein that edits no part twice.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	var before, above, row []int // of the table; row i-2, i-1, i
	above = make([]int, len(t)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(s); i++ {
		row = make([]int, len(t)+1)
		row[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(t)]
}
