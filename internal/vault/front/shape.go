package front

import (
	"encoding/json"
	"net/http"
	"strings"

	"terok/internal/sandbox"
)

// shape is the form of errors that the clients of a provider understand. A client that gets
// another form shows nothing of the message, tries again or asks for a new login.
type shape uint8

const (
	plainShape     shape = iota // {"error":{"code","message"}}
	anthropicShape              // {"type":"error","error":{"type","message"}}
	openAIShape                 // {"error":{"message","type","param","code"}}
	forgeShape                  // {"message"}
)

// shapeOf says which form the client of a request understands.
func (rt *route) shapeOf(r *http.Request) shape {
	_, messages := rt.Serves[sandbox.AnthropicMessages]
	_, chat := rt.Serves[sandbox.OpenAIChat]
	_, responses := rt.Serves[sandbox.OpenAIResponses]
	switch {
	case rt.Forge != "":
		return forgeShape
	case r.Header.Get("Anthropic-Version") != "",
		messages && (!chat && !responses || strings.Contains(r.URL.Path, "/messages")):
		return anthropicShape
	case chat || responses:
		return openAIShape
	}
	return plainShape
}

// kinds are the words for a status in the errors of Anthropic and OpenAI.
var kinds = map[int]string{
	http.StatusUnauthorized:          "authentication_error",
	http.StatusForbidden:             "permission_error",
	http.StatusNotFound:              "not_found_error",
	http.StatusRequestEntityTooLarge: "request_too_large",
	http.StatusTooManyRequests:       "rate_limit_error",
	http.StatusServiceUnavailable:    "overloaded_error",
	http.StatusBadGateway:            "api_error",
	http.StatusGatewayTimeout:        "api_error",
}

// errorBody writes a refusal in a shape.
func errorBody(s shape, ref *refusal) []byte {
	kind := kinds[ref.status]
	if kind == "" {
		kind = "invalid_request_error"
	}
	message := "terok: " + ref.message
	var v any
	switch s {
	case anthropicShape:
		v = map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
	case openAIShape:
		v = map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": ref.code}}
	case forgeShape:
		v = map[string]any{"message": message}
	default:
		v = map[string]any{"error": map[string]any{"code": ref.code, "message": message}}
	}
	body, err := json.Marshal(v)
	if err != nil { // strings always encode
		return []byte("{}")
	}
	return body
}
