package usage

import "bytes"

// scanner reads JSON documents in any pieces and picks the usage fields out of them. It judges
// nothing: what is no JSON yields no numbers. It keeps no more than one name at a time.
type scanner struct {
	depth    int // open objects and arrays
	skip     int // depth at which something uninteresting began; 0: nothing is skipped
	path     [maxPath]field
	wantKey  bool
	inString bool
	escaped  bool
	isKey    bool
	word     [64]byte // the string being read
	n        int      // its length; more than fits is no name of ours
	member   field    // of the value that is next
	number   int64
	inNumber bool
	fraction bool // what is left of the number does not count

	tokens        Tokens
	model         string
	final         bool // the last word about the output was said
	cachedInInput bool // CacheRead is counted in Input too
}

// maxPath is how deep fields of ours lie.
const maxPath = 5

type field uint8

const (
	none field = iota
	fUsage
	fMessage
	fResponse
	fModel
	fInput
	fPrompt
	fOutput
	fCacheRead
	fCacheWrite
	fDetails
	fCached
	fCreation
	fLong
	fRoot
)

func fieldOf(name []byte) field {
	switch string(name) {
	case "usage":
		return fUsage
	case "message":
		return fMessage
	case "response":
		return fResponse
	case "model":
		return fModel
	case "input_tokens":
		return fInput
	case "prompt_tokens":
		return fPrompt
	case "output_tokens", "completion_tokens":
		return fOutput
	case "cache_read_input_tokens":
		return fCacheRead
	case "cache_creation_input_tokens":
		return fCacheWrite
	case "input_tokens_details", "prompt_tokens_details":
		return fDetails
	case "cached_tokens":
		return fCached
	case "cache_creation":
		return fCreation
	case "ephemeral_1h_input_tokens":
		return fLong
	}
	return none
}

// next begins another document; what was found stays.
func (s *scanner) next() {
	*s = scanner{tokens: s.tokens, model: s.model, final: s.final, cachedInInput: s.cachedInInput}
}

func (s *scanner) write(p []byte) {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if s.inString {
			if s.escaped {
				s.escaped = false
				s.keep('\\') // no name of ours has one
				continue
			}
			if c != '"' && c != '\\' {
				run := i
				i = min(len(p), run+128) // a few at a time: text with many escapes must not be searched to its end for each
				if n := bytes.IndexByte(p[run:i], '"'); n >= 0 {
					i = run + n
				}
				if n := bytes.IndexByte(p[run:i], '\\'); n >= 0 {
					i = run + n
				}
				if s.skip == 0 && s.n <= len(s.word) {
					for _, b := range p[run:min(i, run+len(s.word)+1)] {
						s.keep(b)
					}
				}
				i--
				continue
			}
			if c == '\\' {
				s.escaped = true
				continue
			}
			s.inString = false
			if s.skip == 0 {
				s.endString()
			}
			continue
		}
		switch c {
		case '"':
			s.inString, s.n = true, 0
			s.isKey = s.wantKey
		case '{', '[':
			s.open(c == '[')
		case '}', ']':
			s.endNumber()
			s.shut()
		case ',':
			s.endNumber()
			if s.skip == 0 {
				s.wantKey, s.member = true, none
			}
		case ':':
			if s.skip == 0 {
				s.wantKey = false
			}
		case ' ', '\t', '\r', '\n':
			s.endNumber()
		default:
			if s.skip == 0 {
				s.scalar(c)
			}
		}
	}
}

func (s *scanner) keep(c byte) {
	if s.n < len(s.word) {
		s.word[s.n] = c
	}
	s.n++
}

func (s *scanner) endString() {
	word := s.word[:min(s.n, len(s.word))]
	if s.isKey {
		s.member = none
		if s.n <= len(s.word) {
			s.member = fieldOf(word)
		}
		return
	}
	if s.member == fModel && s.n <= len(s.word) && s.n > 0 && s.depth > 0 {
		switch s.path[s.depth-1] {
		case fRoot, fMessage, fResponse:
			s.model = string(word)
		}
	}
	s.member = none
}

// open enters an object or array; what cannot hold a field of ours is skipped as a whole.
func (s *scanner) open(array bool) {
	s.depth++
	if s.skip > 0 {
		return
	}
	at := s.member
	ok := false
	switch {
	case array, s.depth > maxPath:
	case s.depth == 1:
		at, ok = fRoot, true
	default:
		switch parent := s.path[s.depth-2]; at {
		case fUsage:
			ok = parent == fRoot || parent == fMessage || parent == fResponse
		case fMessage, fResponse:
			ok = parent == fRoot
		case fDetails, fCreation:
			ok = parent == fUsage
		}
	}
	if !ok {
		s.skip = s.depth
		return
	}
	s.path[s.depth-1] = at
	s.wantKey, s.member = true, none
	if at == fUsage {
		// Anthropic's first event says what was read; the last word about the output is elsewhere.
		s.final = s.final || s.path[s.depth-2] != fMessage
	}
}

func (s *scanner) shut() {
	s.member = none
	if s.skip == s.depth {
		s.skip = 0
	}
	if s.depth > 0 {
		s.depth--
	}
	if s.depth == 0 {
		s.skip = 0
	}
}

// scalar takes a byte of a number or of a bare word.
func (s *scanner) scalar(c byte) {
	switch {
	case s.member == none || s.depth == 0:
	case c >= '0' && c <= '9':
		if !s.inNumber {
			s.inNumber, s.number = true, 0
		}
		if !s.fraction && s.number < maxCount {
			s.number = s.number*10 + int64(c-'0')
		}
	case s.inNumber:
		s.fraction = true // 1.5 is 1; nobody counts half tokens, or in powers of ten
		if c == 'e' || c == 'E' {
			s.inNumber, s.member = false, none
		}
	default:
		s.member = none // a sign, true, false, null
	}
}

// endNumber files the number that ended here. Counts grow while an answer streams, so the largest
// is the last.
func (s *scanner) endNumber() {
	if !s.inNumber {
		s.fraction = false
		return
	}
	n, at := s.number, s.member
	s.inNumber, s.fraction, s.number, s.member = false, false, 0, none
	if s.skip > 0 || s.depth == 0 {
		return
	}
	t := &s.tokens
	grow := func(v *int64) { *v = max(*v, n) }
	switch s.path[s.depth-1] {
	case fUsage:
		switch at {
		case fInput, fPrompt:
			grow(&t.Input)
		case fOutput:
			grow(&t.Output)
		case fCacheRead:
			grow(&t.CacheRead)
		case fCacheWrite:
			grow(&t.CacheWrite)
		}
	case fDetails:
		if at == fCached {
			s.cachedInInput = true
			grow(&t.CacheRead)
		}
	case fCreation:
		if at == fLong {
			grow(&t.CacheLong)
		}
	}
}
