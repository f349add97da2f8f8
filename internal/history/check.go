package history

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-chat/troupe/messages"
)

// Fault is what kind of promise was broken.
type Fault string

// The faults.
const (
	Lost       Fault = "lost"        // acknowledged, and not in the log or not at a device it is due to
	Duplicate  Fault = "duplicate"   // twice in the log or on a connection, or again after it was confirmed
	Hole       Fault = "hole"        // a seq was skipped
	Inversion  Fault = "inversion"   // a seq after a higher one, or a time after a later one
	Leak       Fault = "leak"        // shown to a user outside its memberships
	CursorBack Fault = "cursor back" // a receipt lower than one shown before
	Conflict   Fault = "conflict"    // one client id with two seqs, or one seq with two entries
	Phantom    Fault = "phantom"     // in the log, and never sent, or refused each time
	Unjudged   Fault = "unjudged"    // there is no log to judge by
)

// Violation is one broken promise.
type Violation struct {
	Fault        Fault
	Conversation messages.ConversationID
	Seq          messages.Seq
	User         messages.UserID   // empty where it is in the log itself
	Device       messages.DeviceID // "
	Detail       string
	Around       []string // the device's last records of that conversation, up to the one at fault
}

func (v Violation) String() string {
	s := fmt.Sprintf("%s: %s/%d", v.Fault, v.Conversation, v.Seq)
	if v.User != "" {
		s += fmt.Sprintf(" at %s/%s", v.User, v.Device)
	}
	s += ": " + v.Detail
	if len(v.Around) > 0 {
		s += "\n\t" + strings.Join(v.Around, "\n\t")
	}
	return s
}

// Options says what else a history promises.
type Options struct {
	// AcksStored: every acknowledgement was stored before its device's next
	// connection, so that nothing acknowledged may be repeated. Otherwise only
	// what read or hello told counts: an acknowledgement can be lost with its
	// connection.
	AcksStored bool
	// Max bounds how many violations are reported; 0: 100.
	Max int
}

// aroundSize is how many records a violation shows.
const aroundSize = 8

// Check returns the violations of a history, the logs' own first. It takes
// time and memory in proportion to the records.
func (h *History) Check(o Options) []Violation {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.Max == 0 {
		o.Max = 100
	}
	c := &checker{options: o, talks: make(map[messages.ConversationID]*talk)}
	for id, log := range h.logs {
		c.talks[id] = newTalk(id, log)
	}
	for _, t := range h.tapes {
		c.collect(t)
	}
	for _, id := range c.ids() {
		c.checkLog(c.talks[id])
	}
	for _, t := range h.tapes {
		c.checkTape(t)
	}
	return c.found
}

// checker is the state of one Check.
type checker struct {
	options Options
	talks   map[messages.ConversationID]*talk
	authors map[messages.UserID]bool // who has a tape
	found   []Violation
}

// talk is one conversation: its log, and what its authors were told of it.
type talk struct {
	id    messages.ConversationID
	log   []Entry // by seq − 1, as far as that is so
	known bool    // a log was given
	views views
	acked []bool // by seq − 1
	sends map[sendKey]*sendState
}

type sendKey struct {
	author   messages.UserID
	clientID messages.ClientID
}

// sendState is all attempts at one client id.
type sendState struct {
	attempts, refused int
	seq               messages.Seq // 0: never answered with one
	hash              uint64
}

func newTalk(id messages.ConversationID, log []Entry) *talk {
	return &talk{
		id: id, log: log, known: true,
		views: viewsOf(id, log),
		acked: make([]bool, len(log)),
		sends: make(map[sendKey]*sendState),
	}
}

// talk returns what is known of a conversation; of one without a log, once a
// complaint.
func (c *checker) talk(id messages.ConversationID) *talk {
	t := c.talks[id]
	if t == nil {
		t = newTalk(id, nil)
		t.known = false
		c.talks[id] = t
		c.report(Violation{Fault: Unjudged, Conversation: id, Detail: "no log was given"})
	}
	return t
}

func (c *checker) report(v Violation) {
	if len(c.found) < c.options.Max {
		c.found = append(c.found, v)
	}
}

func (c *checker) ids() []messages.ConversationID {
	ids := make([]messages.ConversationID, 0, len(c.talks))
	for id := range c.talks {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// entry returns what stands at seq.
func (t *talk) entry(seq messages.Seq) (Entry, bool) {
	if seq < 1 || seq > messages.Seq(len(t.log)) {
		return Entry{}, false
	}
	return t.log[seq-1], true
}

// collect gathers what a tape's user sent and was told of it.
func (c *checker) collect(t *Tape) {
	if c.authors == nil {
		c.authors = make(map[messages.UserID]bool)
	}
	c.authors[t.User] = true
	for i := range t.records {
		r := &t.records[i]
		switch r.kind {
		case Sending, Sent, Refused:
			c.collectSend(t, i, c.talk(r.conv))
		}
	}
}

func (c *checker) collectSend(t *Tape, i int, talk *talk) {
	r := &t.records[i]
	s := talk.sends[sendKey{r.author, r.clientID}]
	if s == nil {
		s = &sendState{}
		talk.sends[sendKey{r.author, r.clientID}] = s
	}
	switch r.kind {
	case Sending:
		s.attempts++
		s.hash = r.hash
	case Refused:
		s.refused++
	case Sent:
		c.collectSent(t, i, talk, s)
	}
}

func (c *checker) collectSent(t *Tape, i int, talk *talk, s *sendState) {
	r := &t.records[i]
	if s.seq != 0 && s.seq != r.seq {
		c.fault(Conflict, t, i, fmt.Sprintf("client id %s was answered with %d before", r.clientID, s.seq))
	}
	s.seq = r.seq
	if !talk.known {
		return
	}
	e, ok := talk.entry(r.seq)
	switch {
	case !ok:
		c.fault(Lost, t, i, "acknowledged, and not in the log")
	case e.Author != r.author || e.ClientID != r.clientID:
		c.fault(Lost, t, i, fmt.Sprintf("acknowledged to %s for %s, and the log has %s of %s", r.author, r.clientID, e.ClientID, e.Author))
	default:
		talk.acked[r.seq-1] = true
	}
}

// checkLog judges a log by itself, and by what its authors say.
func (c *checker) checkLog(t *talk) {
	at := make(map[sendKey]messages.Seq, len(t.log))
	for i, e := range t.log {
		c.checkPlace(t, i)
		if e.ClientID == "" || e.Event != nil {
			continue
		}
		key := sendKey{e.Author, e.ClientID}
		if before := at[key]; before != 0 {
			c.inLog(Duplicate, t, e.Seq, fmt.Sprintf("client id %s of %s is at %d too", e.ClientID, e.Author, before))
		}
		at[key] = e.Seq
		c.checkOrigin(t, e, t.sends[key])
	}
}

func (c *checker) checkPlace(t *talk, i int) {
	e := t.log[i]
	switch want := messages.Seq(i + 1); {
	case e.Seq > want:
		c.inLog(Hole, t, e.Seq, fmt.Sprintf("stands where %d should", want))
	case e.Seq < want:
		c.inLog(Inversion, t, e.Seq, fmt.Sprintf("stands where %d should", want))
	}
	if i > 0 && e.At < t.log[i-1].At {
		c.inLog(Inversion, t, e.Seq, fmt.Sprintf("its time %d is before %d, that of the entry before it", e.At, t.log[i-1].At))
	}
}

// checkOrigin judges whether the author sent what the log has. Of an author
// without a tape nothing is known.
func (c *checker) checkOrigin(t *talk, e Entry, s *sendState) {
	switch {
	case !c.authors[e.Author]:
	case s == nil:
		c.inLog(Phantom, t, e.Seq, fmt.Sprintf("%s never sent %s", e.Author, e.ClientID))
	case s.refused >= s.attempts:
		c.inLog(Phantom, t, e.Seq, fmt.Sprintf("%s of %s was refused each time", e.ClientID, e.Author))
	case differ(s.hash, e.Hash):
		c.inLog(Conflict, t, e.Seq, fmt.Sprintf("%s of %s has other content than was sent", e.ClientID, e.Author))
	}
}

// differ compares contents where both are known.
func differ(a, b uint64) bool { return a != 0 && b != 0 && a != b }

func (c *checker) inLog(f Fault, t *talk, seq messages.Seq, detail string) {
	c.report(Violation{Fault: f, Conversation: t.id, Seq: seq, Detail: detail})
}

// fault reports what record i of a tape tells.
func (c *checker) fault(f Fault, t *Tape, i int, detail string) {
	r := &t.records[i]
	c.report(Violation{f, r.conv, r.seq, t.User, t.Device, detail, t.around(i, r.conv)})
}

// around returns the last records of a conversation up to record i, with the
// connects between them.
func (t *Tape) around(i int, conv messages.ConversationID) []string {
	var out []string
	for ; i >= 0 && len(out) < aroundSize; i-- {
		if r := &t.records[i]; r.conv == conv || r.kind == Connected {
			out = append(out, r.String())
		}
	}
	slices.Reverse(out)
	return out
}

func (r *record) String() string {
	s := fmt.Sprintf("%v connection %d: %v", r.at, r.conn, r.kind)
	if r.kind == Connected {
		return s
	}
	s += fmt.Sprintf(" %s/%d", r.conv, r.seq)
	if by := cmp.Or(string(r.clientID), string(r.author)); by != "" {
		s += fmt.Sprintf(" %s %s", r.author, r.clientID)
	}
	if r.code != "" {
		s += " " + r.code
	}
	return s
}
