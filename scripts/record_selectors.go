// Records what Authorino's selectors yield, for src/expression/selector/tests.rs. Reads {"document": …, "selectors": […]}
// and prints a line of JSON for each selector: its value, its text (what eq, neq and matches compare) and its list
// (what incl and excl look into). The document is tests/data/selectors/document.json, the selectors are those of
// recorded.jsonl beside it.
//
// In a folder of its own, with Go:
//
//	go mod init record
//	go get github.com/kuadrant/authorino/pkg/json@v0.24.0 github.com/tidwall/gjson@v1.14.0
//	go run record_selectors.go <input.json >recorded.jsonl
package main

import (
	"encoding/json"
	"os"

	authorino "github.com/kuadrant/authorino/pkg/json"
	"github.com/tidwall/gjson"
)

type row struct {
	Selector string   `json:"selector"`
	Value    any      `json:"value"`
	Text     string   `json:"text"`
	List     []string `json:"list"`
}

func main() {
	var input struct {
		Document  json.RawMessage `json:"document"`
		Selectors []string        `json:"selectors"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	// As Authorino has it: written by encoding/json.
	var parsed any
	if err := json.Unmarshal(input.Document, &parsed); err != nil {
		panic(err)
	}
	document, _ := json.Marshal(parsed)
	var rows []row
	for _, selector := range input.Selectors {
		pattern := authorino.JSONValue{Pattern: selector}
		value, _ := pattern.ResolveFor(string(document))
		recorded := row{Selector: selector, Value: value, List: []string{}}
		if pattern.IsTemplate() {
			recorded.Text = value.(string)
			recorded.List = append(recorded.List, recorded.Text)
		} else {
			result := gjson.Get(string(document), selector)
			recorded.Text = result.String()
			for _, item := range result.Array() {
				recorded.List = append(recorded.List, item.String())
			}
		}
		rows = append(rows, recorded)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	for _, row := range rows {
		if err := encoder.Encode(row); err != nil {
			panic(err)
		}
	}
}
