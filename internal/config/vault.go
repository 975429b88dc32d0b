package config

import (
	"strconv"

	"terok/internal/sandbox"
)

// Vault is the section of what tasks may ask of providers; projects have the same one, and theirs
// wins.
type Vault struct {
	Limits VaultLimits     `yaml:"limits"`
	Budget sandbox.Budgets `yaml:"budget"` // "5 USD/task", "20 USD/day", "2M tokens/project"
}

// VaultLimits bound the requests of one task.
type VaultLimits struct {
	PerMinute  int  `yaml:"requests_per_minute"` // to one provider; 0: any number
	Burst      int  `yaml:"burst"`               // of them at once
	Concurrent int  `yaml:"concurrent"`          // requests at a time
	Body       Size `yaml:"body"`                // of one request
}

// Validate checks what types cannot.
func (l *VaultLimits) Validate() []FieldError {
	var errs []FieldError
	within := func(path string, n, low, high int) {
		if n < low || n > high {
			errs = append(errs, FieldError{Path: path, Message: "must be from " + strconv.Itoa(low) + " to " + strconv.Itoa(high)})
		}
	}
	within("requests_per_minute", l.PerMinute, 0, 100_000)
	within("burst", l.Burst, 1, 10_000)
	within("concurrent", l.Concurrent, 1, 1000)
	if n := l.Body.Bytes(); n < 1<<20 || n > 1<<30 {
		errs = append(errs, FieldError{Path: "body", Message: "must be from 1m to 1g"})
	}
	return errs
}

// Sandbox is the section as the sandbox file has it.
func (l *VaultLimits) Sandbox() sandbox.VaultLimits {
	return sandbox.VaultLimits{PerMinute: l.PerMinute, Burst: l.Burst, Concurrent: l.Concurrent, Body: l.Body.Bytes()}
}
