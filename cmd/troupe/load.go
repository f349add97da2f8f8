package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/troupe-chat/troupe/messages"
)

// inForce is one setting with its value, and who gave it: a flag, a variable,
// a file or the default.
type inForce struct {
	setting *setting
	value   string
	from    string
}

// shown is the value without the secrets that a URL can hold.
func (v inForce) shown() string {
	if v.setting.takes == "URL" {
		return redacted(v.value)
	}
	return v.value
}

// flags are the command line of a command that takes settings. Values are
// looked at in load, once it is known which of them counts.
type flags struct {
	*pflag.FlagSet
	config string
	values map[string]*flagValue
}

type flagValue struct {
	setting *setting
	value   string
}

func (v *flagValue) String() string     { return v.value }
func (v *flagValue) Set(s string) error { v.value = s; return nil }
func (v *flagValue) Type() string       { return v.setting.takes }

// newFlags returns the flags of a command: --config, and the settings named,
// or all where none is.
func newFlags(command string, names ...string) *flags {
	f := &flags{FlagSet: pflag.NewFlagSet(command, pflag.ContinueOnError), values: make(map[string]*flagValue)}
	f.SortFlags = false
	f.Usage = func() {}
	f.StringVar(&f.config, "config", "", "YAML file of settings (TROUPE_CONFIG)")
	for i := range settings {
		s := &settings[i]
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		v := &flagValue{setting: s, value: s.def}
		f.values[s.name] = v
		f.VarPF(v, s.name, "", s.help).NoOptDefVal = s.alone
	}
	return f
}

// parse reads args; none may be left over beyond those that the command takes.
func (f *flags) parse(args []string, most int) error {
	err := f.FlagSet.Parse(f.joined(args))
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if err != nil {
		return mistake("%v; see: troupe help %s", err, f.Name())
	}
	if f.NArg() > most {
		return mistake("%q is one argument too many; see: troupe help %s", f.Arg(most), f.Name())
	}
	return nil
}

// joined turns "--x on" into "--x=on" for flags that may stand alone: pflag
// would take the value for an argument.
func (f *flags) joined(args []string) []string {
	var all []string
	for _, a := range args {
		if last := len(all) - 1; last >= 0 && f.standsAlone(all[last]) && slices.Contains([]string{"on", "off", "true", "false"}, a) {
			all[last] += "=" + a
			continue
		}
		all = append(all, a)
	}
	return all
}

func (f *flags) standsAlone(arg string) bool {
	name, ok := strings.CutPrefix(arg, "--")
	v := f.values[name]
	return ok && v != nil && v.setting.alone != ""
}

// load returns the configuration in force: flags before variables before the
// file before defaults. Its errors name the setting, its value and the rule.
func (f *flags) load(getenv func(string) string) (Config, []inForce, error) {
	path := f.config
	if path == "" {
		path = getenv("TROUPE_CONFIG")
	}
	file, err := readFile(path)
	if err != nil {
		return Config{}, nil, err
	}
	c := Config{Limits: messages.DefaultLimits()}
	all := make([]inForce, 0, len(settings))
	for i := range settings {
		v := f.pick(&settings[i], getenv, file, path)
		if v.from == fromDefault {
			v.value = strings.Replace(v.value, "DATA", c.Data, 1)
		}
		if must := v.setting.set(&c, v.value); must != "" {
			return Config{}, nil, mistake("%s (from %s): %q %s", v.setting.name, v.from, v.shown(), must)
		}
		all = append(all, v)
		c.MakeTokenKey = c.MakeTokenKey || v.setting.def == defaultTokenKey && v.from == fromDefault
	}
	return c, all, c.contradictions()
}

const fromDefault = "default"

// pick finds who gives a setting its value.
func (f *flags) pick(s *setting, getenv func(string) string, file map[string]string, path string) inForce {
	if f.Changed(s.name) {
		return inForce{s, f.values[s.name].value, "--" + s.name}
	}
	variable := "TROUPE_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
	if v := getenv(variable); v != "" {
		return inForce{s, v, variable}
	}
	if v, ok := file[s.name]; ok {
		return inForce{s, v, path}
	}
	return inForce{s, s.def, fromDefault}
}

// readFile reads a YAML file of settings; "" is none.
func readFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, mistake("the configuration file: %v", err)
	}
	values, err := parseYAML(data)
	if err != nil {
		return nil, mistake("%s: %v", path, err)
	}
	return values, nil
}

// parseYAML reads settings from one flat YAML mapping.
func parseYAML(data []byte) (map[string]string, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	err := d.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there must be one YAML document")
	}
	return mapping(document.Content[0])
}

func mapping(top *yaml.Node) (map[string]string, error) {
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: there must be settings, as in listen: 127.0.0.1:7070", top.Line)
	}
	values := make(map[string]string)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, node := top.Content[i], top.Content[i+1]
		if !known(key.Value) {
			return nil, fmt.Errorf("line %d: there is no setting %q%s", key.Line, key.Value, meant(key.Value))
		}
		if _, ok := values[key.Value]; ok {
			return nil, fmt.Errorf("line %d: %s is there twice", key.Line, key.Value)
		}
		v, err := scalar(node)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s %w", node.Line, key.Value, err)
		}
		values[key.Value] = v
	}
	return values, nil
}

// scalar returns a value as it is written; a list is joined by commas.
func scalar(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return n.Value, nil
	case n.Kind == yaml.ScalarNode:
		return "", errors.New("has no value; leave the line out, or write \"\"")
	case n.Kind != yaml.SequenceNode:
		return "", errors.New("must be one value, or a list of values")
	}
	var items []string
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return "", errors.New("must be a list of single values")
		}
		items = append(items, item.Value)
	}
	return strings.Join(items, ","), nil
}

func known(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name })
}

// meant helps with the most likely slip.
func meant(name string) string {
	if dashed := strings.ReplaceAll(strings.ToLower(name), "_", "-"); known(dashed) {
		return "; write " + dashed
	}
	return "; see: troupe help serve"
}
