package history

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/troupe-chat/troupe/messages"
)

// Linearizable reports whether the sends to one conversation can be put in one
// order that agrees with the seqs they were answered with, with the final log,
// and with real time: a send that was answered before another left stands
// before it. It is for small hot histories; a search that takes longer than
// timeout is an error.
//
// A send without an answer took place if the log has it, at any time after it
// left.
func (h *History) Linearizable(c messages.ConversationID, timeout time.Duration) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := h.operations(c)
	switch porcupine.CheckOperationsTimeout(appends, ops, timeout) {
	case porcupine.Ok:
		return true, nil
	case porcupine.Illegal:
		return false, nil
	}
	return false, fmt.Errorf("judge %d sends to %s: not done within %v", len(ops), c, timeout)
}

// operation is one send, or, without an id, the reading of the whole log.
type operation struct {
	id  string
	log string
}

// appends is the model of a log to which each id is appended once: its state
// is the ids in order, each with a newline after it.
var appends = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		ids, op, seq := state.(string), input.(operation), output.(messages.Seq)
		if op.id == "" {
			return ids == op.log, ids
		}
		if at := place(ids, op.id); at != 0 {
			return at == seq, ids
		}
		next := ids + op.id + "\n"
		return messages.Seq(strings.Count(next, "\n")) == seq, next
	},
	Equal: func(a, b any) bool { return a.(string) == b.(string) },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("send %s → %d", input.(operation).id, output)
	},
}

// place returns the seq of id in a state, or 0.
func place(ids, id string) messages.Seq {
	before, _, found := strings.Cut("\n"+ids, "\n"+id+"\n")
	if !found {
		return 0
	}
	return messages.Seq(strings.Count(before, "\n") + 1)
}

// forever is when an answer that never came came.
const forever = math.MaxInt64 - 1

// operations returns what was done to one conversation, ending with the
// reading of its log. Entries that are no sends of the tapes are appends
// without bounds in time.
func (h *History) operations(c messages.ConversationID) []porcupine.Operation {
	var log strings.Builder
	logged := make(map[string]messages.Seq)
	for _, e := range h.logs[c] {
		id := logID(e)
		logged[id] = e.Seq
		log.WriteString(id + "\n")
	}
	var ops []porcupine.Operation
	made := make(map[string]bool)
	for client, t := range h.tapes {
		for _, op := range t.sends(c, client, logged) {
			made[op.Input.(operation).id] = true
			ops = append(ops, op)
		}
	}
	for id, seq := range logged {
		if !made[id] {
			ops = append(ops, porcupine.Operation{ClientId: len(h.tapes), Input: operation{id: id}, Call: 0, Output: seq, Return: forever})
		}
	}
	return append(ops, porcupine.Operation{
		ClientId: len(h.tapes), Input: operation{log: log.String()},
		Call: forever + 1, Output: messages.Seq(0), Return: forever + 1,
	})
}

func logID(e Entry) string {
	if e.ClientID == "" {
		return fmt.Sprintf("#%d", e.Seq)
	}
	return string(e.Author) + " " + string(e.ClientID)
}

// sends returns the device's sends to c that took place. An answer belongs to
// the oldest attempt at its id that has none yet.
func (t *Tape) sends(c messages.ConversationID, client int, logged map[string]messages.Seq) []porcupine.Operation {
	var ops []porcupine.Operation
	waiting := make(map[string][]int)
	for _, r := range t.records {
		if r.conv != c {
			continue
		}
		id := string(r.author) + " " + string(r.clientID)
		switch r.kind {
		case Sending:
			waiting[id] = append(waiting[id], len(ops))
			ops = append(ops, porcupine.Operation{
				ClientId: client, Input: operation{id: id}, Call: int64(r.at), Output: logged[id], Return: forever,
			})
		case Sent, Refused:
			if w := waiting[id]; len(w) > 0 {
				answer(&ops[w[0]], r)
				waiting[id] = w[1:]
			}
		}
	}
	return tookPlace(ops)
}

func answer(op *porcupine.Operation, r record) {
	op.Return = int64(r.at)
	op.Output = r.seq // 0 where it was refused
}

// tookPlace drops what changed nothing.
func tookPlace(ops []porcupine.Operation) []porcupine.Operation {
	kept := ops[:0]
	for _, op := range ops {
		if op.Output != messages.Seq(0) {
			kept = append(kept, op)
		}
	}
	return kept
}
