package sandbox

import "testing"

func TestBudgets(t *testing.T) {
	for text, want := range map[string]string{"5 USD/task": "5 USD/task", "$0.5/day": "0.5 USD/day", "2M tokens / project": "2M tokens/project",
		"1500 tokens/task": "1500 tokens/task", "1.5k tokens/task": "1500 tokens/task", "20USD/day": "20 USD/day"} {
		b, err := ParseBudget(text)
		if err != nil || b.String() != want {
			t.Errorf("%q: %q %v", text, b, err)
		}
		if again, err := ParseBudget(b.String()); err != nil || again != b {
			t.Errorf("%q: %v %v", text, again, err)
		}
	}
	for _, bad := range []string{"", "5", "5 USD", "5 EUR/task", "-5 USD/task", "0 USD/task", "5 USD/hour", "NaN USD/task", "Inf tokens/day", "5 tokens/", "1e300 tokens/day", "0 tokens/task"} {
		if b, err := ParseBudget(bad); err == nil {
			t.Errorf("%q is %v", bad, b)
		}
	}
	var list Budgets
	if err := list.UnmarshalConfig([]any{"5 USD/task", "1M tokens/day"}); err != nil || len(list) != 2 {
		t.Errorf("%v %v", list, err)
	}
	if err := list.UnmarshalConfig(""); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if err := list.UnmarshalConfig(5.0); err == nil {
		t.Error("a number is a budget")
	}
}

func FuzzBudget(f *testing.F) {
	f.Add("5 USD/task")
	f.Add("1.5M tokens/day")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBudget(s)
		if err != nil {
			return
		}
		if b.MicroUSD <= 0 && b.Tokens <= 0 {
			t.Fatalf("%q is a budget of nothing", s)
		}
		if again, err := ParseBudget(b.String()); err != nil || again != b {
			t.Fatalf("%q: %q %v", s, b, err)
		}
	})
}
