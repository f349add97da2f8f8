// Package imports_test holds the architecture to its word: who may import
// whom, and why.
package imports_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/troupe-chat/troupe"

// everything, as what a package may import, leaves nothing out.
const everything = "..."

// rule is for the package in a folder, or for all below "folder/..." that have
// no rule of their own.
type rule struct {
	folder string
	may    []string // of ours; its own subfolders are not implied
	why    string
}

var rules = []rule{
	{"messages", nil, "the vocabulary: everybody speaks it, so it knows nobody"},
	{"actors/rules", []string{"messages"}, "pure decisions: what they need to know comes in, what to do goes out"},
	{"actors", []string{"actors/rules", "internal/crew", "messages", "persistence"}, "actors see contracts and rules; sockets and databases are behind interfaces"},
	{"cluster", []string{"internal/crew", "messages"}, "placement works for any kind of actor and knows none"},

	{"persistence", []string{"messages"}, "contracts: a technology must not show through them"},
	{"persistence/storetest", []string{"messages", "persistence"}, "one suite for all stores: it sees the contract only"},
	{"persistence/...", []string{"messages", "persistence"}, "a technology is a leaf: no store knows another"},

	{"gateway/httpjson", []string{"messages"}, "a form, without anything to say"},
	{"gateway/client", []string{"messages"}, "users import it: it must bring no server with it"},
	{"gateway/client/clienttest", []string{"messages"}, "plays the server to the client, and must not be the server"},
	{"gateway/accounts", []string{"gateway/httpjson", "messages", "persistence"}, "who may come in; what happens inside is not its business"},
	{"gateway/console", []string{"gateway/httpjson", "messages"}, "shows what it is given: it declares what it needs of a node"},
	{"gateway", []string{"actors/rules", "gateway/httpjson", "internal/crew", "messages", "persistence"},
		"the delivery loop reads the log and counts by the rules' window; actors and cluster are behind its own small interfaces"},

	{"cmd/troupe/chat", []string{"gateway/client", "messages"}, "the proof that the client package is enough for a client"},
	{"cmd/troupe/node", []string{everything}, "the one place that puts a node together"},
	{"cmd/troupe", []string{everything}, "the command wires"},

	{"internal/crew", nil, "goroutines for whoever has work: it knows no work"},
	{"internal/load", []string{"internal/load/wire", "messages"}, "measures from outside: it may share nothing with what it measures"},
	{"internal/load/wire", []string{"messages"}, "reads the wire by itself, for speed"},
	{"internal/relay", []string{"internal/load/wire", "messages"}, "the yardstick: what a server costs without everything that ours does"},
	{"internal/history", []string{"messages"}, "the checker: it may trust no code that it judges"},
	{"internal/...", []string{everything}, "tools and tests that start whole nodes"},

	{".", nil, "nothing but this test"},
}

// forTests is what only tests and internal/ may import, but for shared.
var forTests = []string{"persistence/storetest", "persistence/faulty", "gateway/client/clienttest", "internal"}

// shared is what internal/ holds for everybody whose rule names it.
var shared = []string{"internal/crew"}

// technology is something that only some folders may know.
type technology struct {
	prefix  string // of import paths
	folders []string
	why     string
}

var technologies = []technology{
	{"github.com/asynkron/protoactor-go", []string{"actors", "cluster"}, "the actor system could be exchanged there"},
	{"google.golang.org/grpc", []string{"cluster"}, "only nodes speak it, to each other"},
	{"github.com/cockroachdb/pebble", []string{"persistence/pebble", "cmd/troupe", "internal"}, "a store is one folder; the command looks whether there is one, tests break its file system"},
	{"github.com/gorilla/websocket", []string{"gateway", "gateway/client", "gateway/client/clienttest", "internal"}, "sockets are at the edge"},
	{"github.com/golang-jwt/jwt", []string{"gateway/accounts", "internal/load"}, "tokens are judged in one place, and made by the load tester's issuer"},
	{"github.com/prometheus", []string{"gateway/console", "cmd/troupe/node"}, "counters are plain fields until somebody asks"},
	{"github.com/charmbracelet", []string{"cmd/troupe/chat"}, "a screen is the terminal client's alone"},
}

// impure is what the rules must not see of the standard library: with any of
// it a decision could depend on more than its arguments.
var impure = []string{"time", "os", "net", "sync", "math/rand", "crypto/rand", "io", "context", "log", "runtime"}

func TestImports(t *testing.T) {
	files := parse(t)
	if len(files) == 0 {
		t.Fatal("no Go file was found")
	}
	for _, f := range files {
		for _, complaint := range judge(f) {
			t.Error(complaint)
		}
	}
	for _, r := range rules {
		if !slices.ContainsFunc(files, func(f file) bool { return ruleOf(f.folder).folder == r.folder }) {
			t.Errorf("the rule of %s is for no package: remove it", r.folder)
		}
	}
}

// TestJudge is the control: what must be found is found.
func TestJudge(t *testing.T) {
	ours := func(folder string) string { return module + "/" + folder }
	for _, c := range []struct {
		f    file
		want int
	}{
		{file{"actors/a.go", "actors", []string{ours("persistence/pebble")}}, 1},
		{file{"actors/a_test.go", "actors", []string{ours("persistence/pebble")}}, 0},
		{file{"actors/a.go", "actors", []string{ours("actors/rules"), "time"}}, 0},
		{file{"actors/rules/a.go", "actors/rules", []string{"time", ours("persistence")}}, 2},
		{file{"actors/rules/a_test.go", "actors/rules", []string{"time"}}, 0},
		{file{"gateway/a.go", "gateway", []string{ours("actors"), "google.golang.org/grpc/codes"}}, 2},
		{file{"gateway/client/a.go", "gateway/client", []string{ours("gateway")}}, 1},
		{file{"cmd/troupe/node/a.go", "cmd/troupe/node", []string{ours("persistence/faulty"), ours("actors")}}, 1},
		{file{"persistence/pebble/a.go", "persistence/pebble", []string{ours("persistence/memory")}}, 1},
		{file{"internal/history/a.go", "internal/history", []string{ours("actors/rules")}}, 1},
		{file{"cluster/a.go", "cluster", []string{ours("internal/crew")}}, 0},
		{file{"messages/a.go", "messages", []string{ours("internal/crew")}}, 1},
		{file{"elsewhere/a.go", "elsewhere", nil}, 1},
	} {
		if got := judge(c.f); len(got) != c.want {
			t.Errorf("%s with %v: %d complaints %q, want %d", c.f.name, c.f.imports, len(got), got, c.want)
		}
	}
}

// file is what one Go file imports. Build tags do not matter.
type file struct {
	name, folder string
	imports      []string
}

// parse reads the imports of all Go files of the module.
func parse(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && skipped(d.Name()) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parseFile(filepath.ToSlash(name))
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func skipped(dir string) bool {
	return strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_") || dir == "testdata" || dir == "bin" || dir == "node_modules"
}

func parseFile(name string) (file, error) {
	f := file{name: name, folder: path.Dir(name)}
	tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		return f, err
	}
	for _, spec := range tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return f, err
		}
		f.imports = append(f.imports, imported)
	}
	return f, nil
}

// ruleOf returns the rule of a folder: its own, or the nearest family's. The
// zero rule is none.
func ruleOf(folder string) rule {
	for key, below := folder, folder; ; {
		if i := slices.IndexFunc(rules, func(r rule) bool { return r.folder == key }); i >= 0 {
			return rules[i]
		}
		if below == "." {
			return rule{}
		}
		below = path.Dir(below)
		key = below + "/..."
	}
}

// judge returns what is wrong with a file's imports. Tests may import what
// they like.
func judge(f file) []string {
	r := ruleOf(f.folder)
	if r.folder == "" {
		return []string{f.name + ": its folder has no rule; give it one, with the reason"}
	}
	if strings.HasSuffix(f.name, "_test.go") {
		return nil
	}
	var complaints []string
	for _, imported := range f.imports {
		if why := refused(f.folder, r, imported); why != "" {
			complaints = append(complaints, fmt.Sprintf("%s imports %s: %s", f.name, imported, why))
		}
	}
	return complaints
}

// refused tells why a folder may not import a package, or "".
func refused(folder string, r rule, imported string) string {
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		return refusedOurs(folder, r, ours)
	}
	if folder == "actors/rules" && within(imported, impure) {
		return r.why
	}
	for _, t := range technologies {
		if within(imported, []string{t.prefix}) && !slices.Contains(t.folders, folder) && !below(folder, t.folders) {
			return t.why
		}
	}
	return ""
}

func refusedOurs(folder string, r rule, ours string) string {
	test := within(ours, forTests) && !slices.Contains(shared, ours) && !within(folder, forTests)
	switch {
	case test && ours != "internal/load":
		return "it is for tests only"
	case test && folder != "cmd/troupe":
		return "only the command's load tester uses it"
	case !slices.Contains(r.may, everything) && !slices.Contains(r.may, ours):
		return r.why
	}
	return ""
}

// within reports whether a path is one of roots or below it.
func within(p string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return p == root || strings.HasPrefix(p, root+"/") })
}

// below lets the tools of internal/ know what internal may.
func below(folder string, folders []string) bool {
	return strings.HasPrefix(folder, "internal/") && slices.Contains(folders, "internal")
}
