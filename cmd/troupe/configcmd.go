package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

func configFlags() *flags {
	f := newFlags("config")
	f.Bool("json", false, "print JSON")
	return f
}

// runConfig prints the configuration in force. The YAML can be used as a file
// again, but for what is redacted.
func runConfig(_ context.Context, e env, args []string) error {
	f := configFlags()
	if err := f.parse(args, 0); err != nil {
		return err
	}
	_, all, err := f.load(e.getenv)
	if err != nil {
		return err
	}
	if asJSON, _ := f.GetBool("json"); asJSON {
		return configJSON(e.out, all)
	}
	return configYAML(e.out, all)
}

func configYAML(w io.Writer, all []inForce) error {
	top := &yaml.Node{Kind: yaml.MappingNode}
	for _, v := range all {
		top.Content = append(top.Content,
			&yaml.Node{Kind: yaml.ScalarNode, Value: v.setting.name},
			&yaml.Node{Kind: yaml.ScalarNode, Value: v.shown(), LineComment: "# " + v.from, Style: styleOf(v.value)})
	}
	e := yaml.NewEncoder(w)
	if err := e.Encode(top); err != nil {
		return fmt.Errorf("writing YAML: %w", err)
	}
	return e.Close()
}

// An empty plain scalar would be YAML's null.
func styleOf(value string) yaml.Style {
	if value == "" {
		return yaml.DoubleQuotedStyle
	}
	return 0
}

func configJSON(w io.Writer, all []inForce) error {
	type line struct {
		Value string `json:"value"`
		From  string `json:"from"`
	}
	lines := make(map[string]line, len(all))
	for _, v := range all {
		lines[v.setting.name] = line{v.shown(), v.from}
	}
	return printJSON(w, lines)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
