package sqlite

import (
	"fmt"
	"slices"
	"strings"
)

// Table is a table of the schema.
type Table struct {
	Name    string
	Columns []string // lower case, in the order of a row's values
	root    uint32
}

// Column is the place of a column in a row, -1 when the table has none of that name.
func (t Table) Column(name string) int { return slices.Index(t.Columns, name) }

// Table finds a table by name, lower case.
func (d *DB) Table(name string) (t Table, ok bool, err error) {
	schema := Table{Name: "sqlite_schema", root: 1}
	err = d.Rows(schema, func(_ int64, row []Value) error {
		if len(row) < 5 || row[0].Kind != Text || row[1].Kind != Text {
			return damaged("the schema")
		}
		if string(row[0].Bytes) != "table" || !strings.EqualFold(string(row[1].Bytes), name) {
			return nil
		}
		if ok || row[3].Kind != Integer || row[4].Kind != Text || row[3].Int < 2 || row[3].Int > int64(len(d.pages)) {
			return damaged("the schema of the table %s", name)
		}
		columns, err := columns(string(row[4].Bytes))
		if err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		t, ok = Table{name, columns, uint32(row[3].Int)}, true
		return nil
	})
	return t, ok, err
}

// columns reads the names of the columns from the text of a CREATE TABLE statement.
func columns(sql string) ([]string, error) {
	toks, err := tokens(sql)
	if err != nil {
		return nil, err
	}
	open := slices.Index(toks, token{"(", false})
	if open < 0 || !toks[0].is("create") {
		return nil, damaged("a CREATE TABLE statement without columns")
	}
	var names []string
	depth, first := 1, true
	i := open + 1
	for ; i < len(toks) && depth > 0; i++ {
		switch t := toks[i]; {
		case t == token{"(", false}:
			depth++
		case t == token{")", false}:
			depth--
		case t == token{",", false}:
			first = first || depth == 1
		case first && depth == 1:
			first = false
			if t.is("constraint") || t.is("primary") || t.is("unique") || t.is("check") || t.is("foreign") {
				continue // of the table, not a column
			}
			names = append(names, strings.ToLower(t.text))
		}
	}
	if depth > 0 || len(names) == 0 || len(names) > maxColumns {
		return nil, damaged("a CREATE TABLE statement")
	}
	if slices.ContainsFunc(toks[i:], func(t token) bool { return t.is("without") }) {
		return nil, fmt.Errorf("%w: WITHOUT ROWID", ErrUnsupported)
	}
	return names, nil
}

// token is a word or a sign of SQL.
type token struct {
	text   string
	quoted bool // then it is a name or a string, never a keyword or a sign
}

func (t token) is(keyword string) bool { return !t.quoted && strings.EqualFold(t.text, keyword) }

func tokens(s string) ([]token, error) {
	var out []token
	for s != "" {
		switch c := s[0]; {
		case strings.ContainsRune(" \t\r\n\f", rune(c)):
			s = s[1:]
		case strings.HasPrefix(s, "--"):
			_, s, _ = strings.Cut(s, "\n")
		case strings.HasPrefix(s, "/*"):
			_, s, _ = strings.Cut(s[2:], "*/")
		case strings.ContainsRune("\"'`[", rune(c)):
			end := c
			if c == '[' {
				end = ']'
			}
			var text strings.Builder
			for s = s[1:]; ; {
				before, after, ok := strings.Cut(s, string(rune(end)))
				if !ok {
					return nil, damaged("a CREATE TABLE statement with an open quote")
				}
				text.WriteString(before)
				s = after
				if c == '[' || s == "" || s[0] != end { // a doubled one stands for itself
					break
				}
				text.WriteByte(end)
				s = s[1:]
			}
			out = append(out, token{text.String(), true})
		case word(c):
			n := 1
			for n < len(s) && word(s[n]) {
				n++
			}
			out, s = append(out, token{s[:n], false}), s[n:]
		default:
			out, s = append(out, token{s[:1], false}), s[1:]
		}
	}
	if len(out) == 0 {
		return nil, damaged("an empty CREATE TABLE statement")
	}
	return out, nil
}

func word(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}
