package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// Code is a device authorisation that waits for a person (RFC 8628 §3.2).
type Code struct {
	User      string    // what the person types, e.g. "WDJB-MJHT"
	URL       string    // where: https://…
	Complete  string    // the same with the code in it; "" when the server gave none
	ExpiresAt time.Time // at most 15 minutes ahead
	device    string
	interval  time.Duration
}

const (
	maxCodeLife = 15 * time.Minute
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
)

// Device asks for a code to show to a person.
func (c *Client) Device(ctx context.Context, ep Endpoint) (*Code, error) {
	params := url.Values{}
	ep.identify(params)
	r, err := c.post(ctx, &ep, ep.DeviceURL, true, params)
	if err != nil {
		return nil, err
	}
	defer clear(r.body)
	switch {
	case r.status != http.StatusOK:
		return nil, r.failed()
	case r.body == nil:
		return nil, r.strange()
	}
	return parseCode(r.body, c.now())
}

func parseCode(body []byte, now time.Time) (*Code, error) {
	var a struct {
		Device    string          `json:"device_code"`
		User      string          `json:"user_code"`
		URL       string          `json:"verification_uri"`
		OldURL    string          `json:"verification_url"`
		Complete  string          `json:"verification_uri_complete"`
		ExpiresIn float64         `json:"expires_in"`
		Interval  float64         `json:"interval"`
		Error     json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, &Unavailable{Reason: "the provider's answer is not of the form of RFC 8628"}
	}
	if code := errorCode(a.Error); code != "" {
		return nil, &Refused{Code: code, Status: http.StatusOK}
	}
	if a.URL == "" {
		a.URL = a.OldURL
	}
	// A person will open the address and read the code on a terminal.
	if _, err := checkURL("", a.URL); err != nil || !printable(a.URL, 512) || !printable(a.User, 64) || !printable(a.Device, 1024) {
		return nil, &Unavailable{Reason: "the provider's answer is not of the form of RFC 8628"}
	}
	if _, err := checkURL("", a.Complete); err != nil || !printable(a.Complete, 1024) {
		a.Complete = ""
	}
	life := maxCodeLife
	if a.ExpiresIn > 0 && a.ExpiresIn < maxCodeLife.Seconds() {
		life = time.Duration(a.ExpiresIn * float64(time.Second))
	}
	interval := 5 * time.Second // RFC 8628 §3.2
	if a.Interval > 0 && a.Interval <= 60 {
		interval = time.Duration(a.Interval * float64(time.Second))
	}
	return &Code{User: a.User, URL: a.URL, Complete: a.Complete, ExpiresAt: now.Add(life), device: a.Device, interval: interval}, nil
}

func printable(s string, limit int) bool {
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= limit
}

// Wait asks for the token, at the pace that the server wants, until the person has confirmed the
// code. It fails with ErrExpired, ErrDenied, *Refused, or the context's error; trouble on the way
// is waited out.
func (c *Client) Wait(ctx context.Context, ep Endpoint, code *Code) (*Token, error) {
	params := url.Values{"grant_type": {deviceGrant}, "device_code": {code.device}}
	if ep.ClientID != "" {
		params.Set("client_id", ep.ClientID)
	}
	interval := code.interval
	form := ep
	form.Form = true // RFC 8628 knows forms only
	for {
		t := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
		if !c.now().Before(code.ExpiresAt) {
			return nil, ErrExpired
		}
		tok, err := c.token(ctx, &form, params)
		var no *Refused
		var later *Unavailable
		switch {
		case err == nil:
			return tok, nil
		case errors.As(err, &no) && no.Code == "authorization_pending":
		case errors.As(err, &no) && no.Code == "expired_token":
			return nil, ErrExpired
		case errors.As(err, &no) && no.Code == "access_denied":
			return nil, ErrDenied
		case errors.As(err, &later) && ctx.Err() == nil:
			// slow_down is among these (§3.5); so is a network that was away.
			interval = min(max(interval+5*time.Second, later.RetryAfter), time.Minute)
		default:
			return nil, err
		}
	}
}
