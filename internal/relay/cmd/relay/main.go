// Command relay runs the minimal relay as a process of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/troupe-chat/troupe/internal/relay"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7080", "address to serve on")
	dir := flag.String("dir", "", "directory of the database, which must not exist yet")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, dir string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return relay.Serve(ctx, l, dir, slog.Default())
}
