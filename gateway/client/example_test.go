package client_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/troupe-chat/troupe/gateway/client"
	"github.com/troupe-chat/troupe/gateway/client/clienttest"
	"github.com/troupe-chat/troupe/messages"
)

// Two people on one server: ana writes, bo reads.
func Example() {
	server := httptest.NewServer(clienttest.New())
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	accounts := client.Accounts{Server: server.URL}
	for _, name := range []messages.UserID{"ana", "bo"} {
		if _, err := accounts.Register(ctx, name, "correct horse"); err != nil {
			log.Fatal(err)
		}
	}
	read := make(chan string)
	bo, err := client.New(client.Options{
		Server: server.URL,
		Token:  accounts.Source("bo", "correct horse"),
		Device: "phone",
		Client: "example/1.0",
		Handler: client.Handler{
			Entry: func(e *messages.Entry) { read <- e.From + ": " + e.GetText().GetBody() },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	go bo.Run(ctx)

	ana, err := client.New(client.Options{
		Server: server.URL,
		Token:  accounts.Source("ana", "correct horse"),
		Device: "laptop",
		Client: "example/1.0",
	})
	if err != nil {
		log.Fatal(err)
	}
	go ana.Run(ctx)

	out, err := ana.Send(client.Text(client.ToUser("bo"), "hello"))
	if err != nil {
		log.Fatal(err)
	}
	sent, err := out.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sent as", sent.Conversation, sent.Seq)
	fmt.Println(<-read)
	// Output:
	// sent as d:ana~bo 1
	// ana: hello
}

// Commands wait for the connection and for the server's answer.
func ExampleClient_CreateGroup() {
	server := clienttest.New()
	listening := httptest.NewServer(server)
	defer listening.Close()
	server.AddUser("bo", "correct horse")
	token := server.AddUser("ana", "correct horse")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	ana, err := client.New(client.Options{
		Server: listening.URL,
		Token:  func(context.Context) (string, error) { return token, nil },
		Device: "laptop",
	})
	if err != nil {
		log.Fatal(err)
	}
	go ana.Run(ctx)
	group, err := ana.CreateGroup(ctx, &messages.CreateGroup{Name: "trip", Members: []string{"bo"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range group.Members {
		fmt.Println(m.User, m.Role)
	}
	// Output:
	// ana owner
	// bo member
}
