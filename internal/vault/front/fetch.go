package front

import (
	"bytes"
	"strings"
)

// A provider that fetches an address for a request carries data out: whatever the agent knows can
// stand in the address, or in what is sent there. So requests that make the provider itself call
// somebody are refused, unless the operator opens it with vault.server_fetch. These are: servers of
// the Model Context Protocol and other connectors; images, documents and files by URL; tools that
// fetch pages; containers of the provider with a network; web hooks; and what sends the request to
// another endpoint. A provider's hosted search stays: it takes words and not addresses.

// callingMembers are members whose mere presence makes a provider call out.
var callingMembers = map[string]bool{
	"mcpservers": true, "datasources": true, "connectors": true, "urlcontext": true, "domainsecrets": true,
	"webhook": true, "webhooks": true, "callback": true, "callbacks": true, "successcallback": true, "failurecallback": true,
	"apibase": true, "customllmprovider": true, "sdp": true, // who is to be called (RFC 8866)
}

// anyURL stands for every name that ends in "url" or "uri": image_url, fileUri, server_url, and
// those of providers we have not heard of.
const anyURL = "*url"

// structuralNames are the other names, folded, that the inspector looks for.
var structuralNames = map[string]bool{
	"type": true, "url": true, "uri": true, "source": true, "content": true, "input": true, "tools": true, "function": true, "parameters": true,
	"arguments": true, "inputschema": true, "inputexamples": true, "schema": true, "format": true, "outputformat": true, "jsonschema": true,
	"metadata": true, "clientmetadata": true, "filedata": true, "links": true, "networkpolicy": true, "access": true, "plugins": true, "id": true,
	"method": true, "purpose": true,
}

// toolWords are in the types of tools that call out.
var toolWords = []string{"url", "brows", "connector", "http", "crawl", "scrape", "rss", "webhook"}

// opaqueMember reports whether the member key of an object that is the value of name holds data
// that providers pass on without acting on it: input of a tool call, schemas and examples of tools.
func opaqueMember(name, key string) bool {
	switch key {
	case "input":
		return name == "content"
	case "inputschema", "inputexamples":
		return name == "tools"
	case "parameters":
		return name == "tools" || name == "function"
	case "arguments":
		return name == "function"
	case "schema":
		return name == "format" || name == "outputformat" || name == "jsonschema"
	}
	return false
}

// noteMember reports whether a member is what a client notes for itself: no provider follows an
// address there, but a credential has no business in it.
func noteMember(name, key string) bool {
	return name == "" && (key == "metadata" || key == "clientmetadata")
}

// callsOut reports whether a string makes the provider call out. It is the value of key in an
// object that is the value of parent; s is its start, of n bytes in all.
func callsOut(parent, key string, s []byte, n int) bool {
	if n == 0 {
		return false
	}
	switch key {
	case "type":
		return callingType(parent, string(bytes.ToLower(s)))
	case "url", "uri":
		return parent == "source" || parent == anyURL && !hasPrefixFold(s, "data:")
	case anyURL:
		return !hasPrefixFold(s, "data:")
	case "filedata", "links": // base64, or a URL
		s = bytes.TrimLeft(s, " \t\r\n")
		return len(s) == 0 || bytes.IndexByte(s, ':') >= 0 && !hasPrefixFold(s, "data:")
	case "access":
		return parent == "networkpolicy" && string(s) != "disabled"
	case "id":
		return parent == "plugins" && bytes.Contains(bytes.ToLower(s), []byte("fetch"))
	case "purpose": // a file of requests, which are made later and which nobody judges
		return parent == "" && (n > captured || bytes.Contains(bytes.ToLower(s), []byte("batch")))
	}
	return callingMembers[key]
}

// callingType judges the type of a tool, a source or a block of content, in lower case.
func callingType(parent, t string) bool {
	if strings.Contains(t, "fetch") || strings.Contains(t, "mcp") {
		return true
	}
	switch parent {
	case "source":
		return t == "url"
	case "networkpolicy":
		return t != "disabled"
	case "tools":
		for _, w := range toolWords {
			if strings.Contains(t, w) {
				return true
			}
		}
	}
	return false
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && strings.EqualFold(string(b[:len(prefix)]), prefix)
}

var errServerFetch = &finding{"server_fetch", "the body makes the provider itself call an address; fetch it from here, put the content into the request, " +
	"or a person can allow it with vault.server_fetch: allow in project.yml"}
