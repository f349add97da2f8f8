package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// given is what a command is started with.
type given struct {
	args []string
	vars map[string]string
	file string // content of the configuration file; empty: none
}

func (g given) start(t *testing.T) (args []string, getenv func(string) string) {
	t.Helper()
	args = g.args
	if g.file != "" {
		path := filepath.Join(t.TempDir(), "troupe.yaml")
		if err := os.WriteFile(path, []byte(g.file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", path}, args...)
	}
	return args, func(name string) string { return g.vars[name] }
}

func (g given) load(t *testing.T) (Config, []inForce, error) {
	t.Helper()
	args, getenv := g.start(t)
	f := serveFlags()
	if err := f.parse(args, 0); err != nil {
		return Config{}, nil, err
	}
	return f.load(getenv)
}

func TestTheDefaultsAreOneNodeOnThisMachine(t *testing.T) {
	c, _, err := given{}.load(t)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Data: "troupe-data", Name: "troupe-1", Listen: "127.0.0.1:7070", Admin: "127.0.0.1:7071", Actors: "127.0.0.1:7072",
		Store: "pebble:troupe-data/store", Presence: "memory:", Media: "dir:troupe-data/media", Cluster: "single:",
		TokenKey: "troupe-data/token.key", MakeTokenKey: true, Registration: true, RateLimits: true,
		Grace: 10 * time.Second, IdleAfter: 2 * time.Minute, LogFormat: "text",
	}
	limits := c.Limits
	c.Limits = nil
	if !reflect.DeepEqual(c, want) || !proto.Equal(limits, messages.DefaultLimits()) {
		t.Fatalf("got %+v, %v", c, limits)
	}
	if err := c.unavailable(); err != nil {
		t.Fatal(err)
	}
}

func TestPrecedence(t *testing.T) {
	g := given{
		args: []string{"--name", "flag"},
		vars: map[string]string{"TROUPE_NAME": "variable", "TROUPE_DATA": "variable", "TROUPE_GRACE": ""},
		file: "name: file\ndata: file\ngrace: 3s\n",
	}
	c, all, err := g.load(t)
	if err != nil || c.Name != "flag" || c.Data != "variable" || c.Grace != 3*time.Second || c.Listen != "127.0.0.1:7070" {
		t.Fatalf("got %+v, %v", c, err)
	}
	from := make(map[string]string)
	for _, v := range all {
		from[v.setting.name] = v.from
	}
	if from["name"] != "--name" || from["data"] != "TROUPE_DATA" || !strings.HasSuffix(from["grace"], "troupe.yaml") || from["listen"] != "default" {
		t.Fatalf("from %v", from)
	}
	if c.Store != "pebble:variable/store" {
		t.Fatalf("the store is %s: a default follows the data directory", c.Store)
	}
}

// values has another value than the default for every setting, and the field
// that must then hold it.
var values = map[string]struct {
	value string
	want  any
	of    func(Config) any
}{
	"data":              {"/d", "/d", func(c Config) any { return c.Data }},
	"name":              {"n2", "n2", func(c Config) any { return c.Name }},
	"listen":            {"0.0.0.0:80", "0.0.0.0:80", func(c Config) any { return c.Listen }},
	"tls-cert":          {"c.pem", "c.pem", func(c Config) any { return c.TLSCert }},
	"tls-key":           {"k.pem", "k.pem", func(c Config) any { return c.TLSKey }},
	"origins":           {"https://a.example, http://b:1", []string{"https://a.example", "http://b:1"}, func(c Config) any { return c.Origins }},
	"trust-proxy":       {"on", true, func(c Config) any { return c.TrustProxy }},
	"admin":             {"[::1]:1", "[::1]:1", func(c Config) any { return c.Admin }},
	"admin-token-file":  {"t", "t", func(c Config) any { return c.AdminFile }},
	"actors":            {"localhost:2", "localhost:2", func(c Config) any { return c.Actors }},
	"advertise":         {"node.example:3", "node.example:3", func(c Config) any { return c.Advertise }},
	"store":             {"cql://h,h/k", "cql://h,h/k", func(c Config) any { return c.Store }},
	"presence":          {"redis://h", "redis://h", func(c Config) any { return c.Presence }},
	"media":             {"s3://K:S@h/b", "s3://K:S@h/b", func(c Config) any { return c.Media }},
	"cluster":           {"kubernetes:", "kubernetes:", func(c Config) any { return c.Cluster }},
	"retain":            {"24h", 24 * time.Hour, func(c Config) any { return c.Retain }},
	"hook":              {"https://h/x?k=1", "https://h/x?k=1", func(c Config) any { return c.Hook }},
	"hook-secret":       {"s", "s", func(c Config) any { return c.HookSecret }},
	"token-key":         {"k", "k", func(c Config) any { return c.TokenKey }},
	"issuer":            {"https://i", "https://i", func(c Config) any { return c.Issuer }},
	"jwks":              {"https://i/k", "https://i/k", func(c Config) any { return c.JWKS }},
	"audience":          {"a", "a", func(c Config) any { return c.Audience }},
	"registration":      {"off", false, func(c Config) any { return c.Registration }},
	"limits":            {"off", false, func(c Config) any { return c.RateLimits }},
	"grace":             {"1m", time.Minute, func(c Config) any { return c.Grace }},
	"idle-after":        {"5s", 5 * time.Second, func(c Config) any { return c.IdleAfter }},
	"log-level":         {"debug", slog.LevelDebug, func(c Config) any { return c.LogLevel }},
	"log-format":        {"json", "json", func(c Config) any { return c.LogFormat }},
	"limit-media-bytes": {"77", int64(77), func(c Config) any { return c.Limits.MediaBytes }},

	"limit-message-bytes":   {"32768", uint32(32768), func(c Config) any { return c.Limits.MessageBytes }},
	"limit-text-bytes":      {"78", uint32(78), func(c Config) any { return c.Limits.TextBytes }},
	"limit-window":          {"79", uint32(79), func(c Config) any { return c.Limits.Window }},
	"limit-sends":           {"0", uint32(0), func(c Config) any { return c.Limits.Sends }},
	"limit-send-seconds":    {"80", uint32(80), func(c Config) any { return c.Limits.SendSeconds }},
	"limit-typings":         {"81", uint32(81), func(c Config) any { return c.Limits.Typings }},
	"limit-typing-seconds":  {"82", uint32(82), func(c Config) any { return c.Limits.TypingSeconds }},
	"limit-connects":        {"83", uint32(83), func(c Config) any { return c.Limits.Connects }},
	"limit-connect-seconds": {"84", uint32(84), func(c Config) any { return c.Limits.ConnectSeconds }},
	"limit-devices":         {"3", uint32(3), func(c Config) any { return c.Limits.Devices }},
	"limit-group-members":   {"85", uint32(85), func(c Config) any { return c.Limits.GroupMembers }},
	"limit-positions":       {"86", uint32(86), func(c Config) any { return c.Limits.Positions }},
	"limit-watches":         {"87", uint32(87), func(c Config) any { return c.Limits.Watches }},
	"limit-page":            {"88", uint32(88), func(c Config) any { return c.Limits.Page }},
}

// Every setting reaches its field as a flag, as a variable and by the file.
func TestFlagsVariablesAndTheFileSayTheSame(t *testing.T) {
	if len(values) != len(settings) {
		t.Fatalf("%d settings, %d tried here", len(settings), len(values))
	}
	var args, file []string
	vars := make(map[string]string)
	for _, s := range settings {
		v := values[s.name].value
		args = append(args, "--"+s.name, v)
		file = append(file, s.name+": "+`"`+v+`"`)
		vars["TROUPE_"+strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))] = v
	}
	for how, g := range map[string]given{
		"flags": {args: args}, "variables": {vars: vars}, "file": {file: strings.Join(file, "\n")},
	} {
		c, _, err := g.load(t)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		for name, v := range values {
			if got := v.of(c); !reflect.DeepEqual(got, v.want) {
				t.Errorf("%s: %s is %v, want %v", how, name, got, v.want)
			}
		}
		if c.MakeTokenKey {
			t.Errorf("%s: a key that was named would be made", how)
		}
	}
}

func TestEveryLimitCanBeConfigured(t *testing.T) {
	configured := make(map[string]bool)
	for _, s := range settings {
		if name, ok := strings.CutPrefix(s.name, "limit-"); ok {
			configured[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	fields := (&messages.Limits{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !configured[name] {
			t.Errorf("%s cannot be configured", name)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		given
		says string // parts that the error must hold, by |
	}{
		"unknown flag":     {given{args: []string{"--lisen", "x"}}, "--lisen|help serve"},
		"an argument":      {given{args: []string{"now"}}, "now"},
		"bad address":      {given{args: []string{"--listen", "here"}}, `listen|--listen|"here"|HOST:PORT`},
		"port too high":    {given{args: []string{"--listen", ":70000"}}, "HOST:PORT"},
		"bad variable":     {given{vars: map[string]string{"TROUPE_GRACE": "soon"}}, `grace|TROUPE_GRACE|"soon"|duration`},
		"grace too short":  {given{args: []string{"--grace", "0s"}}, "at least 1s"},
		"bad in file":      {given{file: "limit-window: many"}, `limit-window|troupe.yaml|"many"|from 1 to`},
		"beyond a limit":   {given{args: []string{"--limit-page", "101"}}, "from 1 to 100"},
		"negative":         {given{args: []string{"--limit-sends", "-1"}}, "from 0 to"},
		"bad name":         {given{args: []string{"--name", "Node 1"}}, "a-z"},
		"bad switch":       {given{args: []string{"--limits", "maybe"}}, "on or off"},
		"bad store":        {given{args: []string{"--store", "mysql://u:pw@h/d"}}, "pebble:DIR|cql://"},
		"store's no dir":   {given{args: []string{"--store", "pebble:"}}, "pebble:DIR"},
		"cluster of none":  {given{args: []string{"--cluster", "etcd://"}}, "etcd://"},
		"origin with path": {given{args: []string{"--origins", "https://a.example/x"}}, "without a path"},
		"bad hook":         {given{args: []string{"--hook", "ftp://x"}}, "http or https"},
		"bad level":        {given{args: []string{"--log-level", "loud"}}, "debug"},
		"no such file":     {given{args: []string{"--config", "/nowhere/x.yaml"}}, "/nowhere/x.yaml"},
		"unknown key":      {given{file: "name: a\nlisten_port: 80"}, "line 2|listen_port|troupe help serve"},
		"underscores":      {given{file: "tls_cert: a"}, "tls-cert"},
		"twice":            {given{file: "name: a\nname: b"}, "name"},
		"a nested value":   {given{file: "listen:\n  port: 80"}, "listen|one value"},
		"no value":         {given{file: "name:"}, "name|no value"},
		"a list":           {given{file: "- a"}, "settings"},
		"not YAML":         {given{file: "a: b: c: ["}, "yaml"},
		"two documents":    {given{file: "name: a\n---\nname: b"}, "one YAML document"},
		"half of TLS":      {given{args: []string{"--tls-cert", "c"}}, "tls-key|both or neither"},
		"half an issuer":   {given{args: []string{"--issuer", "i"}}, "jwks|audience"},
		"only an audience": {given{args: []string{"--audience", "i"}}, "issuer"},
		"hook, no secret":  {given{args: []string{"--hook", "http://x"}}, "hook-secret"},
		"text too long":    {given{args: []string{"--limit-text-bytes", "65536"}}, "limit-message-bytes"},
		"open admin":       {given{args: []string{"--admin", "0.0.0.0:7071"}}, "admin|--admin-token-file"},
		"open admin, all":  {given{args: []string{"--admin", ":7071"}}, "--admin-token-file"},
		"open actors":      {given{args: []string{"--actors", "0.0.0.0:1", "--cluster", "static://a:1", "--store", "cql://h/k", "--presence", "redis://h", "--media", "s3://k:s@h/b"}}, "actors|TLS"},
		"pebble of many":   {given{args: []string{"--cluster", "etcd://u:pw@h"}}, "store|pebble:|etcd://REDACTED@h|cql://"},
		"memory of many":   {given{args: []string{"--cluster", "kubernetes:", "--store", "cql://h/k"}}, "presence|memory:|redis://"},
		"dir of many":      {given{args: []string{"--cluster", "kubernetes:", "--store", "cql://h/k", "--presence", "redis://h"}}, "media|dir:|s3://"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := c.load(t)
			if _, ok := errors.AsType[*startError](err); !ok {
				t.Fatalf("got %v", err)
			}
			for part := range strings.SplitSeq(c.says, "|") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "pw") {
				t.Errorf("%q has more than one line, or a password", err)
			}
		})
	}
}

func TestWhatIsNotBuiltYet(t *testing.T) {
	for name, args := range map[string][]string{
		"store":    {"--store", "cql://u:pw@h/k"},
		"presence": {"--presence", "redis://h"},
		"media":    {"--media", "s3://pw:pw@h/b"},
		"cluster":  {"--cluster", "static://a:1", "--store", "cql://h/k", "--presence", "redis://h", "--media", "s3://k:s@h/b"},
		"retain":   {"--retain", "24h"},
	} {
		c, _, err := given{args: args}.load(t)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.unavailable(); err == nil || !strings.HasPrefix(err.Error(), "unavailable: --") || strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSwitchesMayStandAlone(t *testing.T) {
	for args, want := range map[string]bool{
		"--trust-proxy": true, "--trust-proxy on": true, "--trust-proxy off": false, "--trust-proxy=off": false,
		"--trust-proxy --name n": true, "--name n": false,
	} {
		c, _, err := given{args: strings.Fields(args)}.load(t)
		if err != nil || c.TrustProxy != want {
			t.Errorf("%s: %v, %v", args, c.TrustProxy, err)
		}
	}
}

func TestListsInTheFile(t *testing.T) {
	c, _, err := given{file: "origins: [https://a.example, https://b.example]\n"}.load(t)
	if err != nil || !reflect.DeepEqual(c.Origins, []string{"https://a.example", "https://b.example"}) {
		t.Fatalf("got %v, %v", c.Origins, err)
	}
}

func TestLimitsOffLiftsRatesAlone(t *testing.T) {
	c, _, err := given{args: []string{"--limits", "off"}}.load(t)
	if err != nil || !proto.Equal(c.EffectiveLimits(), messages.WithoutRates(messages.DefaultLimits())) {
		t.Fatalf("got %v, %v", c.EffectiveLimits(), err)
	}
	if !proto.Equal(c.Limits, messages.DefaultLimits()) {
		t.Fatal("what was configured is gone")
	}
}

func TestRedacted(t *testing.T) {
	for v, want := range map[string]string{
		"s3://KEY:SE/CR?E@T@host/bucket":  "s3://REDACTED@host/bucket",
		"redis://:pw@h:1/0":               "redis://REDACTED@h:1/0",
		"cql://h,h/keyspace":              "cql://h,h/keyspace",
		"https://hook.example/x?token=pw": "https://hook.example/x?REDACTED",
		"https://h/x?a=b@c":               "https://REDACTED@c",
		"s3:KEY:SECRET@host":              "s3://REDACTED@host",
		"pebble:/data/@home":              "pebble:/data/@home",
		"memory:":                         "memory:",
	} {
		if got := redacted(v); got != want {
			t.Errorf("%s: got %s, want %s", v, got, want)
		}
	}
}

func runConfigWith(t *testing.T, g given, more ...string) string {
	t.Helper()
	args, getenv := g.start(t)
	var out, errs bytes.Buffer
	if code := run(t.Context(), env{out: &out, err: &errs, getenv: getenv}, append(append([]string{"config"}, args...), more...)); code != 0 {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	return out.String()
}

func TestWhatConfigPrintsCanBeRead(t *testing.T) {
	g := given{args: []string{"--origins", "https://a.example,*", "--limits", "off", "--grace", "77s"}, vars: map[string]string{"TROUPE_NAME": "on"}}
	printed := runConfigWith(t, g)
	for _, line := range []string{"grace: 77s # --grace\n", "# TROUPE_NAME\n", "listen: 127.0.0.1:7070 # default\n"} {
		if !strings.Contains(printed, line) {
			t.Errorf("no %q in:\n%s", line, printed)
		}
	}
	want, _, err := g.load(t)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := given{file: printed}.load(t)
	if err != nil {
		t.Fatal(err)
	}
	got.MakeTokenKey = want.MakeTokenKey // the file names the key
	if !proto.Equal(got.Limits, want.Limits) {
		t.Fatal("the limits differ")
	}
	got.Limits = want.Limits
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
}

func TestConfigShowsNoSecret(t *testing.T) {
	g := given{args: []string{"--media", "s3://pw:pw@h/b", "--hook", "https://pw@h/?pw", "--hook-secret", "f"}}
	for _, more := range [][]string{nil, {"--json"}} {
		if out := runConfigWith(t, g, more...); strings.Contains(out, "pw") || !strings.Contains(out, "REDACTED") {
			t.Errorf("%v: %s", more, out)
		}
	}
}

func TestConfigAsJSON(t *testing.T) {
	var got map[string]struct{ Value, From string }
	out := runConfigWith(t, given{args: []string{"--grace", "3s"}}, "--json")
	if err := json.Unmarshal([]byte(out), &got); err != nil || got["grace"].Value != "3s" || got["grace"].From != "--grace" || len(got) != len(settings) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func FuzzYAML(f *testing.F) {
	f.Add("name: a\nlisten: 127.0.0.1:1\n")
	f.Add("origins: [a, {b: c}]")
	f.Add("&a name: *a")
	f.Add("---\n---\n")
	f.Add("name: !!binary x\n? [a]\n: b")
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parseYAML([]byte(text))
		if err != nil {
			return
		}
		c := Config{Limits: messages.DefaultLimits()}
		for name, v := range values {
			for i := range settings {
				if settings[i].name == name {
					_ = settings[i].set(&c, v)
				}
			}
		}
		_, _ = c.contradictions(), c.unavailable()
	})
}
