package node_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/internal/world"
	"github.com/troupe-chat/troupe/messages"
)

// bad is one thing that a client should not do, and what it is told.
type bad struct {
	name string
	do   proto.Message // a command, or
	raw  []byte        // a whole WebSocket message,
	kind int           // of this kind; 0: of the subprotocol
	code string        // of the error; "": none
	end  int           // close code; 0: the socket stays
}

// notConversations are strings that name no conversation of ana.
var notConversations = []string{
	"", "x", "d:", "d:~", "d:ana~", "d:~bo", "d:ana", "d:ana~ana", "d:bo~ana", "d:cy~dee", "d:ana~bo~cy", "D:ana~bo",
	"d:ana~BO", "d:ana ~bo", "ana~bo", "g:", "g:short", "g:" + strings.Repeat("a", 32), "g:" + strings.Repeat("1", 32),
	"g:" + strings.Repeat("a", 33), "G:" + strings.Repeat("a", 32), strings.Repeat("x", 161), strings.Repeat("é", 200),
	"../../etc/passwd", "d:ana~bo\n", "d:ana~bo\x00", "\x00", "null", "d:ana~bo/../d:cy~dee", "👋",
}

// about are the commands about a conversation.
func about(id string) []proto.Message {
	return []proto.Message{
		&messages.Send{Conversation: id, ClientId: "c", Content: &messages.Send_Text{Text: &messages.Text{Body: "x"}}},
		&messages.Send{Conversation: id}, // nothing else about it is looked at
		&messages.Send{Conversation: id, ClientId: "c", Content: &messages.Send_Edit{Edit: &messages.Edit{Seq: 1, Body: "x"}}},
		&messages.Send{Conversation: id, ClientId: "c", Content: &messages.Send_Retract{Retract: &messages.Retract{Seq: 1}}},
		&messages.Send{Conversation: id, ClientId: "c", Content: &messages.Send_Reaction{Reaction: &messages.Reaction{Seq: 1, Emoji: "x"}}},
		&messages.Read{Conversation: id, Seq: 1},
		&messages.Typing{Conversation: id, Active: true},
		&messages.History{Conversation: id, Before: 1, After: 1},
		&messages.GroupQuery{Conversation: id},
		&messages.ChangeGroup{Conversation: id, ClientId: "c", Name: "mine"},
		&messages.ChangeGroup{Conversation: id},
		&messages.Receipts{Conversation: id, Seq: 1},
		&messages.Mute{Conversation: id, Value: true},
		&messages.Archive{Conversation: id, Value: true},
		&messages.Pin{Conversation: id, Value: true},
		&messages.Clear{Conversation: id},
	}
}

func text(user, clientID, body string) *messages.Send {
	return &messages.Send{User: user, ClientId: clientID, Content: &messages.Send_Text{Text: &messages.Text{Body: body}}}
}

func long(n int) string { return strings.Repeat("x", n) }

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("u%d", i)
	}
	return out
}

// badCommands are refused and leave the socket open.
func badCommands() []bad {
	var table []bad
	for _, id := range notConversations {
		for _, m := range about(id) {
			table = append(table, bad{name: fmt.Sprintf("%T of %.40q", m, id), do: m, code: messages.CodeNotFound})
		}
	}
	add := func(code, name string, m proto.Message) { table = append(table, bad{name: name, do: m, code: code}) }
	for _, user := range []string{"nobody", "UPPER", "a b", "bo~", long(65), "\x00", "ana~bo"} {
		add(messages.CodeNotFound, fmt.Sprintf("text to %.20q", user), text(user, "c", "x"))
	}
	for _, id := range []string{"", long(65), "a b", "tab\t", "é", "\x00"} {
		add(messages.CodeInvalid, fmt.Sprintf("client id %.20q", id), text("bo", id, "x"))
		add(messages.CodeInvalid, fmt.Sprintf("group by client id %.20q", id), &messages.CreateGroup{ClientId: id, Name: "n"})
	}
	content := func(reply uint64, c any) *messages.Send {
		s := &messages.Send{Conversation: anaBo, ClientId: "c", ReplyTo: reply}
		switch c := c.(type) {
		case *messages.Text:
			s.Content = &messages.Send_Text{Text: c}
		case *messages.Edit:
			s.Content = &messages.Send_Edit{Edit: c}
		case *messages.Retract:
			s.Content = &messages.Send_Retract{Retract: c}
		case *messages.Reaction:
			s.Content = &messages.Send_Reaction{Reaction: c}
		}
		return s
	}
	add(messages.CodeInvalid, "to oneself", text("ana", "c", "x"))
	add(messages.CodeInvalid, "user and conversation disagree", &messages.Send{Conversation: anaBo, User: "cy", ClientId: "c"})
	add(messages.CodeInvalid, "no content", content(0, nil))
	add(messages.CodeInvalid, "empty text", content(0, &messages.Text{}))
	add(messages.CodeTooLarge, "long text", content(0, &messages.Text{Body: long(16<<10 + 1)}))
	add(messages.CodeInvalid, "reply to nothing", content(99, &messages.Text{Body: "x"}))
	add(messages.CodeInvalid, "reply to the end of numbers", content(1<<64-1, &messages.Text{Body: "x"}))
	for _, seq := range []uint64{0, 99, 1<<63 - 1, 1<<64 - 1} {
		add(messages.CodeNotFound, fmt.Sprint("edit of ", seq), content(0, &messages.Edit{Seq: seq, Body: "x"}))
		add(messages.CodeNotFound, fmt.Sprint("retraction of ", seq), content(0, &messages.Retract{Seq: seq}))
		add(messages.CodeNotFound, fmt.Sprint("reaction to ", seq), content(0, &messages.Reaction{Seq: seq, Emoji: "x"}))
		add(messages.CodeNotFound, fmt.Sprint("receipts of ", seq), &messages.Receipts{Conversation: anaBo, Seq: seq})
	}
	add(messages.CodeInvalid, "empty edit", content(0, &messages.Edit{Seq: 1}))
	add(messages.CodeTooLarge, "long edit", content(0, &messages.Edit{Seq: 1, Body: long(16<<10 + 1)}))
	add(messages.CodeForbidden, "another's entry edited", content(0, &messages.Edit{Seq: 2, Body: "x"}))
	add(messages.CodeForbidden, "another's entry retracted", content(0, &messages.Retract{Seq: 2}))
	add(messages.CodeInvalid, "long emoji", content(0, &messages.Reaction{Seq: 1, Emoji: long(65)}))
	add(messages.CodeInvalid, "history both ways", &messages.History{Conversation: anaBo, Before: 2, After: 1})
	add(messages.CodeInvalid, "group of a direct conversation", &messages.GroupQuery{Conversation: anaBo})
	add(messages.CodeInvalid, "change of a direct conversation", &messages.ChangeGroup{Conversation: anaBo, ClientId: "c", Name: "x"})
	add(messages.CodeInvalid, "nameless group", &messages.CreateGroup{ClientId: "c"})
	add(messages.CodeInvalid, "long group name", &messages.CreateGroup{ClientId: "c", Name: long(257)})
	add(messages.CodeInvalid, "group history", &messages.CreateGroup{ClientId: "c", Name: "n", History: "some"})
	add(messages.CodeNotFound, "unknown member", &messages.CreateGroup{ClientId: "c", Name: "n", Members: []string{"bo", "nobody"}})
	add(messages.CodeNotFound, "impossible member", &messages.CreateGroup{ClientId: "c", Name: "n", Members: []string{"NO BODY"}})
	add(messages.CodeTooLarge, "1,025 members", &messages.CreateGroup{ClientId: "c", Name: "n", Members: many(messages.MaxMembers)})
	add(messages.CodeInvalid, "201 watched", &messages.Watch{Users: many(201)})
	add(messages.CodeInvalid, "201 profiles", &messages.Profile{Users: many(201)})
	add(messages.CodeTooLarge, "long name", &messages.Profile{Set: &messages.ProfileSet{Name: long(257)}})
	add(messages.CodeTooLarge, "long avatar", &messages.Profile{Set: &messages.ProfileSet{Avatar: long(1025)}})
	add(messages.CodeInvalid, "oneself blocked", &messages.Block{User: "ana"})
	add(messages.CodeNotFound, "nobody blocked", &messages.Block{User: "nobody"})
	add(messages.CodeNotFound, "nobody unblocked", &messages.Unblock{User: "\x00"})
	for _, cursor := range []string{"x", "!!", "bm8", "AAAA", long(1000)} {
		add(messages.CodeInvalid, fmt.Sprintf("cursor %.10q", cursor), &messages.Conversations{Cursor: cursor})
	}
	return table
}

// badMessages are whole WebSocket messages, by subprotocol. None has an id.
func badMessages() map[string][]bad {
	invalid := func(raw string) bad {
		return bad{name: fmt.Sprintf("%.40q", raw), raw: []byte(raw), code: messages.CodeInvalid}
	}
	broken := func(raw string) bad {
		return bad{name: fmt.Sprintf("%.40q", raw), raw: []byte(raw), end: messages.CloseBadFrame}
	}
	ignored := func(raw string) bad { return bad{name: fmt.Sprintf("%.40q", raw), raw: []byte(raw)} }
	frame := func(b []byte) string {
		return string(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b))
	}
	field := func(n protowire.Number, b string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	tooLong := bad{name: "65 KiB", raw: bytes.Repeat([]byte(" "), 65<<10), end: messages.CloseTooLarge}
	return map[string][]bad{
		world.JSON: {
			invalid("null"), invalid("1"), invalid(`"x"`), invalid("true"), invalid("{}"), invalid("[null]"), invalid("[1]"),
			invalid("[[]]"), invalid(`{"id":7}`), invalid(`{"nothing":{}}`), invalid(`{"ping":[]}`), invalid(`{"ping":1}`),
			invalid(`{"id":-1,"ping":{}}`), invalid(`{"id":4294967296,"ping":{}}`), invalid(`{"id":"x","ping":{}}`),
			invalid(`{"ping":{},"typing":{}}`), invalid(`{"read":{"seq":"x"}}`), invalid(`{"read":{"seq":-1}}`),
			invalid(`{"read":{"seq":1e400}}`), invalid(`{"read":{"seq":1.5}}`), invalid(`{"read":{"seq":18446744073709551616}}`),
			invalid(`{"send":{"text":{"body":"\ud800"}}}`), invalid(`{"send":{"text":"x"}}`), invalid(`{"send":{"text":{},"edit":{}}}`),
			invalid(`{"ack":{"positions":{}}}`), invalid(`{"ack":{"positions":[1]}}`),
			ignored("[]"), ignored(" [ ] "), ignored(`{"ack":{}}`), ignored(`{"ack":{"positions":[{"conversation":"d:ana~bo","seq":"18446744073709551615"}]}}`),
			ignored(`{"ack":{"positions":[{"conversation":"nonsense","seq":5},{}]}}`),
			broken(""), broken(" "), broken("{"), broken("}"), broken("nul"), broken("["), broken("{}{}"), broken("[{}"),
			broken(`{"id":01}`), broken(`{'ping':{}}`), broken("\x00"), broken("\xff\xfe"), broken("{\"x\":\"\xc3\x28\"}"),
			broken(strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000)),
			{name: "binary", raw: []byte(`{"ping":{}}`), kind: websocket.BinaryMessage, end: messages.CloseBadFrame}, tooLong,
		},
		world.Proto: {
			invalid(frame(nil)), invalid(frame(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7))),
			invalid(frame(field(999, "later"))), invalid(frame(field(22, ""))),
			ignored(""), ignored(string(field(2, "unknown"))), ignored(frame(field(4, ""))),
			broken("\xff"), broken("\x0a"), broken("\x0a\xff\xff\xff\xff\x0f"), broken("\x0a\x05abc"), broken("\x0b"), broken("\x0c"),
			broken("\x0f\x00"), broken("\x00\x00"), broken(strings.Repeat("\xff", 100)), broken(frame([]byte("\x0a"))),
			broken(frame(field(3, string(field(3, "\xff\xfe"))))), broken(frame(field(3, "\x0a\x7f"))), broken(frame(field(21, "\x0b"))),
			broken(`{"ping":{}}`),
			{name: "text", raw: []byte("\x0a\x00"), kind: websocket.TextMessage, end: messages.CloseBadFrame}, tooLong,
		},
	}
}

// badHellos are refused before anybody is known.
func badHellos(w *world.World) []bad {
	token := w.Token("ana")
	parts := strings.Split(token, ".")
	var table []bad
	add := func(code string, end int, name string, h *messages.Hello) {
		table = append(table, bad{name: name, do: h, code: code, end: end})
	}
	for name, t := range map[string]string{
		"no token": "", "no JWT": "x", "two parts": parts[0] + "." + parts[1], "four parts": token + ".x", "long token": long(9 << 10),
		"no signature": parts[0] + "." + parts[1] + ".", "cut": token[:len(token)-4], "changed": parts[0] + "." + parts[1] + "x." + parts[2],
		"unsigned": unsigned("ana"), "another key": forged("ana"), "deleted user": w.DeletedToken("gone"), "NUL": "\x00", "spaces": " " + token,
	} {
		add(messages.CodeUnauthenticated, messages.CloseUnauthenticated, name, &messages.Hello{Token: t, Device: "d"})
	}
	for _, device := range []string{"", long(65), "a b", "é", "\n"} {
		add(messages.CodeInvalid, 0, fmt.Sprintf("device %.10q", device), &messages.Hello{Token: token, Device: device})
	}
	add(messages.CodeInvalid, 0, "start", &messages.Hello{Token: token, Device: "d", Start: "tail"})
	add(messages.CodeInvalid, 0, "client", &messages.Hello{Token: token, Device: "d", Client: long(257)})
	add(messages.CodeInvalid, 0, "501 positions", &messages.Hello{Token: token, Device: "d", Positions: make501()})
	return table
}

func make501() []*messages.Position {
	out := make([]*messages.Position, 501)
	for i := range out {
		out[i] = &messages.Position{Conversation: fmt.Sprint(i)}
	}
	return out
}

func unsigned(user string) string {
	t := jwt.NewWithClaims(jwt.SigningMethodNone, claimsOf(user))
	s, _ := t.SignedString(jwt.UnsafeAllowNoneSignatureType)
	return s
}

func forged(user string) string {
	_, key, _ := ed25519.GenerateKey(nil)
	s, _ := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claimsOf(user)).SignedString(key)
	return s
}

func claimsOf(user string) jwt.RegisteredClaims {
	return jwt.RegisteredClaims{Subject: user, ID: "x", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))}
}

// Whatever a client sends, it is told what is wrong, by the right error or the
// right close code, on both subprotocols, before and after hello; and the
// server keeps nothing of it.
func TestHostileInput(t *testing.T) {
	w := world.Start(t)
	bo := w.As("bo")
	w.As("ana").Says("bo", "one")
	bo.Says("ana", "two")
	w.Users("cy", "dee")
	w.As("cy").Says("dee", "secret")
	group := w.As("cy").Makes("theirs", "all", "dee")
	rows := hostilePass(t, w, group)
	if rows < 100 {
		t.Errorf("only %d inputs", rows)
	}
	t.Logf("%d inputs", rows)
	before := heap()
	hostilePass(t, w, group)
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	if n := len(w.Log(anaBo)) + len(w.Log("d:cy~dee")) + len(w.Log(messages.ConversationID(group))); n != 4 {
		t.Errorf("the logs have %d entries", n)
	}
	bo.Settle() // and everyone else is served
}

// heap is what lives on the heap after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func hostilePass(t *testing.T, w *world.World, group string) (rows int) {
	commands := badCommands()
	for _, m := range about(group) {
		commands = append(commands, bad{name: fmt.Sprintf("%T of a stranger's group", m), do: m, code: messages.CodeNotFound})
	}
	hellos, messagesOf := badHellos(w), badMessages()
	for _, protocol := range []string{world.Proto, world.JSON} {
		c := w.Connect(world.Device{User: "ana", Name: "hostile", Protocol: protocol, Quiet: true})
		for _, b := range commands {
			c.Refused(t, b.name, b.do, b.code)
		}
		for _, b := range messagesOf[protocol] {
			c = afterHello(t, w, c, b)
			beforeHello(t, w, protocol, b)
		}
		for _, b := range hellos {
			helloRow(t, w, protocol, b)
		}
		rows += len(commands) + 2*len(messagesOf[protocol]) + len(hellos) + tooEarly(t, w, protocol)
		c.Close()
	}
	return rows
}

// afterHello sends a bad message on a live connection, and returns one that is.
func afterHello(t *testing.T, w *world.World, c *world.Client, b bad) *world.Client {
	seen := len(c.Frames())
	c.WriteAs(kindOf(c, b), b.raw)
	if b.end != 0 {
		if code := c.Closed(); code != b.end {
			t.Errorf("%s, %s: closed with %d, not %d", c.Protocol, b.name, code, b.end)
		}
		c.Reconnect()
		return c
	}
	c.Settle()
	answers := c.Frames()[seen:]
	if b.code == "" && len(answers) == 1 {
		return c
	}
	if len(answers) != 2 || answers[0].GetError().GetCode() != b.code {
		t.Errorf("%s, %s: answered %v, not %s", c.Protocol, b.name, answers, b.code)
	}
	return c
}

func kindOf(c *world.Client, b bad) int {
	switch {
	case b.kind != 0:
		return b.kind
	case c.Protocol == world.Proto:
		return websocket.BinaryMessage
	}
	return websocket.TextMessage
}

// beforeHello sends a bad message first: what is a frame at all is
// unauthenticated.
func beforeHello(t *testing.T, w *world.World, protocol string, b bad) {
	c := w.Raw(protocol)
	defer w.Forget(c)
	c.WriteAs(kindOf(c, b), b.raw)
	if b.end == 0 && b.code == "" && len(bytes.Trim(b.raw, " []")) == 0 || strings.HasPrefix(string(b.raw), "\x12") {
		return // no frame
	}
	want := b.end
	if want == 0 {
		want = messages.CloseUnauthenticated
	}
	if code := c.Closed(); code != want {
		t.Errorf("%s, %s first: closed with %d, not %d", protocol, b.name, code, want)
	}
}

func helloRow(t *testing.T, w *world.World, protocol string, b bad) {
	c := w.Raw(protocol)
	defer w.Forget(c)
	c.Refused(t, b.name, b.do, b.code)
	if b.end == 0 {
		return
	}
	if code := c.Closed(); code != b.end {
		t.Errorf("%s, %s: closed with %d, not %d", protocol, b.name, code, b.end)
	}
}

// tooEarly tries every command before hello.
func tooEarly(t *testing.T, w *world.World, protocol string) int {
	commands := append(about(anaBo), &messages.Ping{}, &messages.Ack{}, &messages.Watch{}, &messages.Conversations{},
		&messages.CreateGroup{ClientId: "c", Name: "n"}, &messages.Block{User: "bo"}, &messages.Unblock{User: "bo"}, &messages.Profile{})
	for _, m := range commands {
		helloRow(t, w, protocol, bad{
			name: fmt.Sprintf("%T before hello", m), do: m, code: messages.CodeUnauthenticated, end: messages.CloseUnauthenticated,
		})
	}
	return len(commands)
}

// A client that offers only subprotocols that are not known gets HTTP 400; one
// that offers none talks JSON; one that never says hello is closed with 4408.
func TestConnectingWithoutManners(t *testing.T) {
	w := world.Start(t)
	_, answer, err := (&websocket.Dialer{Subprotocols: []string{"chat", "troupe.v2"}}).Dial(w.SocketURL(), nil)
	if err == nil || answer.StatusCode != http.StatusBadRequest {
		t.Errorf("unknown subprotocols: %v, %v", answer, err)
	}
	silent := w.Raw(world.JSON)
	none := w.Raw("")
	none.Write([]byte(`{"hello":{"token":"` + w.Token("ana") + `","device":"d"}}`))
	none.Await("welcome", func(f *messages.ServerFrame) bool { return f.GetWelcome().GetUser() == "ana" })
	w.Clock.Advance(11 * time.Second)
	if code := silent.Closed(); code != messages.CloseTimeout {
		t.Errorf("silent: closed with %d", code)
	}
	none.Settle()
}
