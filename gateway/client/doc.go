// Package client is the Go client of a Troupe server.
//
// A Client keeps one connection to the server for as long as its Run runs. It
// comes back by itself when the connection is lost, hands every entry of every
// conversation to the application once and in order, and keeps what the
// application sends until the server has it.
//
//	accounts := client.Accounts{Server: "http://127.0.0.1:7070"}
//	c, err := client.New(client.Options{
//		Server: accounts.Server,
//		Token:  accounts.Source("ana", "correct horse battery"),
//		Device: "laptop",
//		Client: "example/1.0",
//		Handler: client.Handler{
//			Entry: func(e *messages.Entry) { fmt.Println(e.From, e.GetText().GetBody()) },
//		},
//	})
//	if err != nil {
//		return err
//	}
//	out, err := c.Send(client.Text(client.ToUser("bo"), "hello"))
//	if err != nil {
//		return err
//	}
//	return c.Run(ctx) // blocks; Send and the commands work from any goroutine
//
// # Receiving
//
// The functions of Handler are called one after the other on one goroutine, in
// the order in which things happened. They may take their time and may call
// any method of the Client, except that a method which waits for the server
// holds back the events behind it. After Handler.Entry has returned, the
// position is saved in the Store and then acknowledged, so an entry whose
// handling a crash cut short comes again: an application that keeps entries
// tells them apart by (conversation, seq).
//
// # Sending
//
// Send queues and returns at once, connected or not. Each send carries a client
// id under which the server takes it once, however often it is sent again. The
// sends to one conversation keep their order, sends to others overtake them.
// With a FileStore what is queued survives the process.
//
// # Commands
//
// Everything else is a method that waits for the server's answer until its
// context ends. All of them may be repeated without harm, and are, when the
// connection is lost before the answer. An answer that refuses is a
// *messages.Failure.
package client
