package endpoint

// Layers are a provider's policy with that of a project over it.
type Layers struct {
	Base    *Policy
	Project *Policy // nil: none. Its default must be Allow
	Widen   bool    // the project's rules may also open what Base keeps closed
}

// Decide judges a request. The project can only take away from what Base allows, unless it may
// widen. byProject says whose rule decided.
func (l Layers) Decide(method string, path Path) (a Action, by *Rule, byProject bool) {
	if l.Project != nil {
		if a, by = l.Project.Decide(method, path); a == Deny || l.Widen && by != nil {
			return a, by, true
		}
	}
	a, by = l.Base.Decide(method, path)
	return a, by, false
}
