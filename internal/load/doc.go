// Package load is the engine behind the benchmarks and the load tester: many
// WebSocket clients of a chat server in one process, at so little cost for each
// message that the server beside it can be measured.
//
// A few event loops own all clients; each loop is one goroutine over one epoll
// instance and shares nothing with the others. All members of a room (a
// conversation under load) belong to one loop, so order, loss and duplicates
// are checked as entries arrive, without a lock. Answers that arrive together
// are read with one system call, and what they call forth (sends and
// acknowledgements) leaves as one WebSocket message in one write.
//
// Latency is measured from the instant at which a send was due, to the
// recipient's socket. In an open loop that instant follows from the schedule
// alone, so a server that stalls cannot hide it by holding the generator up.
// What arrives in one read is stamped once, before it is parsed.
//
// The engine needs Linux: epoll, /proc, IP_BIND_ADDRESS_NO_PORT.
package load
