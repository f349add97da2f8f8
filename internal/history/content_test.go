package history

import (
	"testing"

	"github.com/troupe-chat/troupe/messages"
)

func TestASendAndItsEntryHaveOneHash(t *testing.T) {
	text := &messages.Text{Body: "hi"}
	send := &messages.Send{ClientId: "c1", ReplyTo: 3, Content: &messages.Send_Text{Text: text}}
	e := &messages.Entry{Conversation: "d:ana~bo", Seq: 4, From: "ana", ClientId: "c1", At: 9, ReplyTo: 3, Kind: &messages.Entry_Text{Text: text}}
	got := EntryOf(e)
	want := Entry{Conversation: "d:ana~bo", Seq: 4, Author: "ana", ClientID: "c1", At: 9, Hash: HashOf(send)}
	if got != want || got.Hash == 0 {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	e.Kind = &messages.Entry_Text{Text: &messages.Text{Body: "ho"}}
	if EntryOf(e).Hash == want.Hash {
		t.Fatal("other content, same hash")
	}
	e.EditedAt = 1
	if EntryOf(e).Hash != 0 {
		t.Fatal("an edited entry has a hash")
	}
}

func TestMediaIsComparedByWhatWasSent(t *testing.T) {
	send := &messages.Send{Content: &messages.Send_Media{Media: &messages.Media{Media: "m1", Caption: "a cat"}}}
	e := &messages.Entry{Kind: &messages.Entry_Media{Media: &messages.Media{Media: "m1", Caption: "a cat", Name: "cat.png", Size: 3, Width: 4}}}
	if EntryOf(e).Hash != HashOf(send) {
		t.Fatal("what the server added changes the hash")
	}
}
