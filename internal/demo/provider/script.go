package provider

import (
	"encoding/json"
	"slices"
	"strings"
)

// Step is one answer of the model: a text, and then at most one tool call. A step without a call
// ends the turn.
type Step struct {
	Text  string
	Tool  string         // name of a tool that the client offers, e.g. "Bash", "Edit", "Write", "Read"
	Input map[string]any // of the tool
	// Run is a command for whichever shell tool the client offers, whatever its name and form; it
	// stands in place of Tool and Input.
	Run string
}

// calls reports whether the step needs a tool.
func (s Step) calls() bool { return s.Tool != "" || s.Run != "" }

// conversation is what a request of any protocol says, as far as it is played by.
type conversation struct {
	model     string
	stream    bool
	tools     []tool
	structure bool // the answer shall be JSON of a schema: a title, a summary
	turns     []turn
	continues string // id of the answer that the request goes on from, with nothing of before in it
	size      int    // bytes of the request
}

// tool is one that the client offers.
type tool struct {
	name      string
	namespace string // of Codex's tools, "" elsewhere
	custom    bool   // takes text instead of JSON
	schema    toolSchema
}

type toolSchema struct {
	Properties map[string]property `json:"properties"`
	Required   []string            `json:"required"`
}

// property says what a member of a tool's input may be.
type property struct {
	Type  json.RawMessage `json:"type"` // a string or a list
	AnyOf json.RawMessage `json:"anyOf"`
}

// may reports whether the member may be of a JSON type.
func (p property) may(kind string) bool {
	return strings.Contains(string(p.Type)+string(p.AnyOf), `"`+kind+`"`)
}

// turn is one message: of the model, or what came back.
type turn struct {
	assistant bool
	calls     bool // of the model: it called a tool
	text      bool // there is prose in it
	results   []toolOutcome
}

type toolOutcome struct {
	id, text string
	failed   bool
}

// action is what is to be answered: a text and at most one call.
type action struct {
	text string
	call
	at int    // index in the script, -1 for a side answer
	id string // of the answer: a word, different each time
}

// call is a tool and what it gets: input, or text where the tool takes that.
type call struct {
	tool      string
	namespace string
	input     map[string]any
	code      string
}

// shells are the names of tools that run a command, in the order of preference: Claude Code's,
// OpenCode's, pi's and Copilot's, and Codex's of several versions.
var shells = []string{"Bash", "bash", "exec_command", "shell_command", "shell", "local_shell"}

// codeTool is Codex's tool that runs JavaScript, in which its other tools are functions; some
// models are offered nothing else that runs commands.
const codeTool = "exec"

// plan finds the tool and the input of a step among what the client offers; ok is false when the
// client does not offer it.
func (s Step) plan(offered []tool) (c call, ok bool) {
	if s.Run == "" {
		in := s.Input
		if in == nil {
			in = map[string]any{}
		}
		i := slices.IndexFunc(offered, func(t tool) bool { return t.name == s.Tool })
		if i < 0 {
			return call{}, false
		}
		return call{tool: s.Tool, namespace: offered[i].namespace, input: in}, true
	}
	for _, shell := range shells {
		for _, t := range offered {
			if t.name == shell {
				return call{tool: t.name, namespace: t.namespace, input: t.command(s.Run)}, true
			}
		}
	}
	for _, t := range offered {
		if t.name == codeTool && t.custom {
			line, _ := json.Marshal(s.Run)
			return call{tool: t.name, namespace: t.namespace, code: "const r = await tools.exec_command({cmd: " + string(line) +
				", yield_time_ms: 30000});\ntext(r.output);\ntext('exit code ' + r.exit_code);\n"}, true
		}
	}
	return call{}, false
}

// command fills the tool's input as its schema wants it.
func (t tool) command(line string) map[string]any {
	in := map[string]any{}
	for _, key := range []string{"command", "cmd"} {
		p, ok := t.schema.Properties[key]
		switch {
		case !ok:
			continue
		case p.may("array"):
			in[key] = []string{"bash", "-c", line}
		default:
			in[key] = line
		}
		break
	}
	if len(in) == 0 {
		in["command"] = line
	}
	for _, key := range t.schema.Required {
		if in[key] != nil {
			continue
		}
		switch p := t.schema.Properties[key]; {
		case p.may("null"):
			in[key] = nil
		case p.may("number"), p.may("integer"):
			in[key] = 120
		case p.may("boolean"):
			in[key] = false
		default:
			in[key] = "work"
		}
	}
	return in
}

// recall puts the tools of an earlier request into one that goes on from it, and keeps those of
// this one under the id of its answer.
func (s *Server) recall(c *conversation, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(c.tools) == 0 && c.continues != "" {
		c.tools = s.offered[c.continues]
	}
	if len(c.tools) > 0 && len(s.offered) < maxRequests {
		s.offered[id] = c.tools
	}
}

// choose finds what to answer: a step of the script, or a short text that moves nothing.
func (s *Server) choose(c *conversation) action {
	if !s.offersTools(c) {
		if c.structure {
			return action{text: `{"title":"Scripted session"}`, at: -1}
		}
		return action{text: "Scripted session", at: -1}
	}
	next := 0
	for i, m := range c.turns {
		for _, r := range m.results {
			if n, ok := stepOf(r.id); ok && n < len(s.cfg.Script) {
				next = max(next, n+1)
				s.keep(Result{Step: n, Text: r.text, IsError: r.failed})
			}
		}
		// The final text was given and the person asks for more.
		if i > 0 && m.assistant && next == len(s.cfg.Script)-1 && i < len(c.turns)-1 && !m.calls && m.text {
			return action{text: "The script is over.", at: -1}
		}
	}
	step := s.cfg.Script[next]
	a := action{text: step.Text, at: next}
	if !step.calls() {
		return a
	}
	var ok bool
	if a.call, ok = step.plan(c.tools); !ok {
		what := step.Tool
		if what == "" {
			what = "that runs commands"
		}
		return action{text: "The script needs the tool " + what + ", which is not offered.", at: next}
	}
	return a
}

// offersTools reports whether the request is the working conversation: it offers some tool that
// the script uses. A script without tools plays to anybody who offers any.
func (s *Server) offersTools(c *conversation) bool {
	uses := false
	for _, st := range s.cfg.Script {
		if !st.calls() {
			continue
		}
		uses = true
		if _, ok := st.plan(c.tools); ok {
			return true
		}
	}
	return !uses && len(c.tools) > 0
}

// stepOf reads the place in the script back from the id of a call, whatever prefix the protocol
// gives it and whatever a client hangs behind.
func stepOf(id string) (int, bool) {
	_, digits, ok := strings.Cut(id, "_script")
	if !ok || len(digits) < 6 || len(digits) > 6 && digits[6] >= '0' && digits[6] <= '9' {
		return 0, false
	}
	n := 0
	for _, c := range digits[:6] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// tokens is a rough but stable count: four bytes each.
func tokens(n int) int { return n/4 + 1 }
