package console

import (
	"net/http"
	"strconv"

	"github.com/troupe-chat/troupe/gateway/httpjson"
	"github.com/troupe-chat/troupe/messages"
)

// Filter selects activations. Empty fields select all.
type Filter struct {
	Kind, Member string
	Sort         string // SortMailbox, SortRate or SortAge: the most first
	Limit        int
}

// What activations are sorted by.
const (
	SortMailbox = "mailbox"
	SortRate    = "rate"
	SortAge     = "age"
)

const (
	defaultLimit = 100
	maxLimit     = 10_000
)

func (c *console) members(w http.ResponseWriter, r *http.Request) error {
	all, err := c.Cluster.Members(r.Context())
	if err == nil {
		list(w, "members", all)
	}
	return err
}

func (c *console) actors(w http.ResponseWriter, r *http.Request) error {
	f, err := filter(r)
	if err != nil {
		return err
	}
	all, err := c.Cluster.Actors(r.Context(), f)
	if err == nil {
		list(w, "actors", all)
	}
	return err
}

func filter(r *http.Request) (Filter, error) {
	q := r.URL.Query()
	f := Filter{Kind: q.Get("kind"), Member: q.Get("member"), Sort: q.Get("sort")}
	if f.Kind != "" && !isKind(f.Kind) {
		return f, unknownKind(f.Kind)
	}
	switch f.Sort {
	case "":
		f.Sort = SortMailbox
	case SortMailbox, SortRate, SortAge:
	default:
		return f, messages.Fail(messages.CodeInvalid, "sort must be mailbox, rate or age")
	}
	var err error
	f.Limit, err = limit(q.Get("limit"))
	return f, err
}

func limit(s string) (int, error) {
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, messages.Fail(messages.CodeInvalid, "limit must be a number from 1 to %d", maxLimit)
	}
	return n, nil
}

func isKind(kind string) bool {
	switch kind {
	case messages.ActorConversation, messages.ActorGroup, messages.ActorSession, messages.ActorInbox:
		return true
	}
	return false
}

func unknownKind(kind string) error {
	return messages.Fail(messages.CodeNotFound, "there is no kind %q: it is conversation, group, session or inbox", kind)
}

// wellFormed reports whether id can be an identity of kind.
func wellFormed(kind, id string) bool {
	switch kind {
	case messages.ActorSession, messages.ActorInbox:
		return messages.UserID(id).Valid()
	}
	return messages.ConversationID(id).ActorKind() == kind
}

func (c *console) actor(w http.ResponseWriter, r *http.Request) error {
	kind, id := r.PathValue("kind"), r.PathValue("id")
	if !isKind(kind) {
		return unknownKind(kind)
	}
	if !wellFormed(kind, id) {
		return messages.Fail(messages.CodeInvalid, "%q cannot be the id of a %s", id, kind)
	}
	detail, err := c.Cluster.Actor(r.Context(), kind, id)
	if err == nil {
		httpjson.Write(w, http.StatusOK, detail)
	}
	return err
}

func (c *console) session(w http.ResponseWriter, r *http.Request) error {
	u, err := user(r)
	if err != nil {
		return err
	}
	devices, err := c.Cluster.Session(r.Context(), u)
	if err == nil {
		list(w, "devices", devices)
	}
	return err
}

func user(r *http.Request) (messages.UserID, error) {
	u := messages.UserID(r.PathValue("user"))
	if !u.Valid() {
		return "", messages.Fail(messages.CodeInvalid, "a user name is 1 to 64 of a-z 0-9 . _ -")
	}
	return u, nil
}

func (c *console) listUsers(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r.URL.Query().Get("limit"))
	if err != nil {
		return err
	}
	all, err := c.Users.Users(r.Context(), messages.UserID(r.URL.Query().Get("after")), n)
	if err == nil {
		list(w, "users", all)
	}
	return err
}

type credentials struct {
	User     messages.UserID `json:"user"`
	Password string          `json:"password"`
}

func (c *console) createUser(w http.ResponseWriter, r *http.Request) error {
	var in credentials
	if err := httpjson.Read(w, r, &in); err != nil {
		return err
	}
	if err := c.Users.Create(r.Context(), in.User, in.Password); err != nil {
		return err
	}
	httpjson.Write(w, http.StatusCreated, map[string]messages.UserID{"user": in.User})
	return nil
}

// changeUser serves disable, enable, disconnect and password. The body of the
// last is {"password": …}; the others' is not looked at.
func (c *console) changeUser(w http.ResponseWriter, r *http.Request) error {
	u, err := user(r)
	if err != nil {
		return err
	}
	switch r.PathValue("action") {
	case "disable":
		err = c.Users.SetDisabled(r.Context(), u, true)
	case "enable":
		err = c.Users.SetDisabled(r.Context(), u, false)
	case "disconnect":
		err = c.Users.Disconnect(r.Context(), u)
	case "password":
		err = c.setPassword(w, r, u)
	default:
		err = messages.Fail(messages.CodeNotFound, "a user can be given disable, enable, disconnect or password")
	}
	if err == nil {
		httpjson.NoContent(w)
	}
	return err
}

func (c *console) setPassword(w http.ResponseWriter, r *http.Request, u messages.UserID) error {
	var in credentials
	if err := httpjson.Read(w, r, &in); err != nil {
		return err
	}
	return c.Users.SetPassword(r.Context(), u, in.Password)
}
