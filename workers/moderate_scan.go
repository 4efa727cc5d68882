package workers

import (
	"encoding/json"
	"slices"
)

// jsonString is a string in a JSON value.
type jsonString struct {
	path     []string // the members that it is in, from the outside; valid during the call
	item     int      // the element of the outermost list that it is in
	name     bool     // it is the name of a member, which the path ends with
	from, to int
}

// text is what the string says.
func (s *jsonString) text(raw []byte) string {
	var text string
	_ = json.Unmarshal(raw[s.from:s.to], &text) // it is a string
	return text
}

// Words of the request's own language.
var (
	knownRoles = []string{"system", "developer", "user", "assistant", "tool", "function"}
	knownTypes = []string{
		"function", "object", "array", "string", "number", "integer", "boolean", "null", "text", "input_text", "output_text",
		"refusal", "thinking", "image_url", "input_image", "image_embeds", "input_audio", "audio_url", "video_url",
	}
	knownNames = []string{
		"type", "function", "name", "description", "parameters", "properties", "required", "enum", "items", "strict", "title",
		"additionalProperties", "anyOf", "oneOf", "allOf", "default", "format", "minimum", "maximum", "pattern", "$ref", "$defs",
	}
	// mediaParts are the parts of a message that hold images, audio or video.
	mediaParts = []string{"image_url", "input_audio", "audio_url", "video_url"}
	textParts  = []string{"text", "refusal", "thinking"}
)

// member is the name of the member that the string is in, or is.
func (s *jsonString) member() string {
	if len(s.path) == 0 {
		return ""
	}
	return s.path[len(s.path)-1]
}

// keyword reports whether a text is one of the request's language, and nobody's words.
func (s *jsonString) keyword(text string) bool {
	switch {
	case s.name:
		return slices.Contains(knownNames, text)
	case s.member() == "role":
		return slices.Contains(knownRoles, text)
	default:
		return s.member() == "type" && slices.Contains(knownTypes, text)
	}
}

// media reports whether the string of a message is the address or the data of an image, audio or video.
func (s *jsonString) media() bool {
	return len(s.path) == 3 && s.path[0] == "content" && slices.Contains(mediaParts, s.path[1]) && (s.path[2] == "url" || s.path[2] == "data")
}

// spoken reports whether the string of a message is a text of its content.
func (s *jsonString) spoken() bool {
	return len(s.path) > 0 && s.path[0] == "content" && (len(s.path) == 1 || len(s.path) == 2 && slices.Contains(textParts, s.path[1]))
}

// reference reports whether the string of a message names a call of a tool.
func (s *jsonString) reference() bool {
	return slices.Equal(s.path, []string{"tool_call_id"}) || slices.Equal(s.path, []string{"tool_calls", "id"})
}

// eachString calls visit for every string in a valid JSON value, names of members among them.
func eachString(raw []byte, visit func(s jsonString)) {
	type frame struct {
		object, name bool // in an object; the next string is a name
		depth        int  // of the path to it
	}
	var stack []frame
	var path []string
	top, item := frame{}, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{', '[':
			stack = append(stack, top)
			top = frame{object: raw[i] == '{', name: raw[i] == '{', depth: len(path)}
		case '}', ']':
			path = path[:top.depth]
			top = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
		case ',':
			top.name = top.object
			if len(stack) == 1 {
				item++
			}
		case '"':
			from := i
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			s := jsonString{item: item, name: top.name, from: from, to: i + 1}
			if s.name {
				top.name = false
				path = append(path[:top.depth], s.text(raw))
			}
			s.path = path
			visit(s)
		}
	}
}
