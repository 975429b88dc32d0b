package front

import (
	"mime"
	"net/http"
	"strings"
)

// bodyKind is how a body is read.
type bodyKind struct {
	form     bodyForm
	boundary string // of bodyMultipart
	untold   bool   // the type does not say that it is JSON
}

type bodyForm uint8

const (
	bodyJSON bodyForm = iota
	bodyURLEncoded
	bodyMultipart
	bodyContent // a file, where the policy takes one
)

// kindOf says how to read a body. Everything that cannot be read is refused, because what it
// carries could not be judged. A body without a type is read as JSON. The type of a multipart body
// is written anew, so that nobody finds another boundary in it than we did.
func (b bodyRules) kindOf(h http.Header) (bodyKind, error) {
	types := h["Content-Type"]
	if len(types) == 0 {
		return bodyKind{untold: true}, nil
	}
	t, params, err := mime.ParseMediaType(types[0])
	if err == nil && len(types) == 1 && utf8Charset(params) {
		switch {
		case isJSON(t):
			return bodyKind{}, nil
		case t == "application/x-www-form-urlencoded":
			return bodyKind{form: bodyURLEncoded, untold: true}, nil
		case t == "multipart/form-data":
			boundary := params["boundary"]
			if !validBoundary(boundary) {
				return bodyKind{}, badBody("the boundary of the form cannot be read")
			}
			h["Content-Type"] = []string{mime.FormatMediaType(t, map[string]string{"boundary": boundary})}
			return bodyKind{form: bodyMultipart, boundary: boundary}, nil
		case b.upload && isContent(t):
			return bodyKind{form: bodyContent}, nil
		}
	}
	return bodyKind{}, refuse(http.StatusUnsupportedMediaType, "bad_body", "the vault relays bodies of JSON and forms (also multipart/form-data) in UTF-8; "+
		"files as they are go to endpoints only that the provider's policy opens with upload")
}

func isJSON(t string) bool { return t == "application/json" || strings.HasSuffix(t, "+json") }

func utf8Charset(params map[string]string) bool {
	cs := params["charset"]
	return cs == "" || strings.EqualFold(cs, "utf-8")
}

// isContent reports whether a type is of files that no server reads as a request.
func isContent(t string) bool {
	kind, name, _ := strings.Cut(t, "/")
	switch kind {
	case "audio", "image", "video", "font":
		return true
	case "application":
		return contentTypes[name]
	case "text":
		return name == "plain" || name == "csv" || name == "markdown"
	}
	return false
}

var contentTypes = set("octet-stream pdf zip gzip x-gzip zstd x-tar x-tgz x-7z-compressed")

// partKind says how to read a part of a form that has a type.
func (b bodyRules) partKind(contentType string, file bool) (bodyKind, error) {
	t, params, err := mime.ParseMediaType(contentType)
	kind, _, _ := strings.Cut(t, "/")
	switch {
	case err != nil, kind == "multipart", kind == "message":
	case t == "application/sdp" && !b.fetch:
		return bodyKind{}, errServerFetch // it names whom to call
	case isJSON(t):
		if file || utf8Charset(params) {
			return bodyKind{form: bodyJSON}, nil
		}
	case file, t == "text/plain" && (utf8Charset(params) || strings.EqualFold(params["charset"], "us-ascii")), t == "application/octet-stream":
		return bodyKind{form: bodyContent}, nil
	}
	return bodyKind{}, badBody("a part has a type that the vault does not read")
}
