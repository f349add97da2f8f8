package messages

// Idle is told to an activation that has had no message for a while. One that
// has nothing under way and nothing to keep calls Leave, within its Receive:
// its activation ends, and the next message to its identity starts another.
// Messages that are already on their way wait for that one. One that does not
// call Leave stays.
type Idle struct {
	Leave func()
}

// Inspect asks an activation for its state, for operators: Reply is called
// once, within Receive, with a value that encodes as JSON and holds no content.
type Inspect struct {
	Reply func(any)
}
