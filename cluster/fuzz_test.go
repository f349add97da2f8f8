package cluster

import (
	"testing"

	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/proto"

	"github.com/troupe-chat/troupe/messages"
)

// FuzzBatch gives the actors' port what a peer may send: whatever it is, it is
// taken or refused, and the node goes on.
func FuzzBatch(f *testing.F) {
	body, err := proto.Marshal(&messages.Delivered{User: "ana", Seq: 7})
	if err != nil {
		f.Fatal(err)
	}
	env, err := proto.Marshal(&messages.Envelope{
		Version: envelopeVersion, Kind: "counter", Identity: "x", Type: "troupe.v1.Delivered", Body: body,
	})
	if err != nil {
		f.Fatal(err)
	}
	batch, err := proto.Marshal(&remote.MessageBatch{
		TypeNames: []string{envelopeName},
		Envelopes: []*remote.MessageEnvelope{{MessageData: env}, {TypeId: -1}, {Target: 9}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(batch, env)
	f.Add([]byte{}, []byte{})
	n, err := Start(f.Context(), Config{Name: "fuzzed"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = n.Stop(f.Context()) })
	f.Fuzz(func(t *testing.T, raw, envelope []byte) {
		var b remote.MessageBatch
		if proto.Unmarshal(raw, &b) == nil {
			n.acceptBatch(&b)
		}
		var e messages.Envelope
		if proto.Unmarshal(envelope, &e) == nil {
			n.deliver(&e, nil)
		}
		if n.refusals.of(Panicked).Load() != 0 {
			t.Fatal("handling it panicked")
		}
	})
}
