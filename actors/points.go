package actors

// Point names a place between two steps that must not be torn apart unnoticed:
// tests end the process there and check that nothing is lost.
type Point string

// The points.
const (
	BeforeAppend Point = "before_append" // decided, not handed to the store
	AfterAppend  Point = "after_append"  // durable with its marks and effects, nobody told
	MidFanOut    Point = "mid_fan_out"   // some recipients are told
	BeforeAnswer Point = "before_answer" // all are told, the sender is not answered
	BeforeCursor Point = "before_cursor" // a cursor has moved, and is not stored
	HandOver     Point = "hand_over"     // an activation leaves
	MidDrain     Point = "mid_drain"     // some of what waited for a device is on its way to it
)

// at tells a test that a point is reached.
func (e *Env) at(p Point) {
	if e.Reached != nil {
		e.Reached(p)
	}
}
