package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	pcluster "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// A peer that is silent for keepaliveTime is asked, and given up when it does
// not answer within keepaliveTimeout.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// newCluster makes protoactor's cluster of this node's parts. Its remote is
// not used: see the package comment.
func newCluster(ctx context.Context, n *Node) *pcluster.Cluster {
	return pcluster.New(n.system, pcluster.Configure("troupe",
		&provider{node: n, ctx: ctx}, &lookup{node: n}, remote.Configure("", 0),
		pcluster.WithClusterContextProducer(func(*pcluster.Cluster) pcluster.Context { return asking{n} }),
	))
}

// listen opens the actors' port.
func (n *Node) listen() error {
	if n.config.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.config.Listen)
	if err != nil {
		return fmt.Errorf("opening the actors' port: %w", err)
	}
	n.address = cmp.Or(n.config.Advertise, l.Addr().String())
	n.system.ProcessRegistry.Address = n.address
	n.system.ProcessRegistry.RegisterAddressResolver(n.resolve)
	n.server = grpc.NewServer(n.serverOptions()...)
	remote.RegisterRemotingServer(n.server, &receiver{node: n})
	n.serving.Go(func() {
		if err := n.server.Serve(l); err != nil {
			n.log.Error("the actors' port has failed", "error", err)
		}
	})
	return nil
}

// disconnect closes every link and the actors' port, and waits for them.
func (n *Node) disconnect() {
	n.links.close()
	if n.server != nil {
		n.server.Stop()
	}
	n.serving.Wait()
}

// receiver takes what other members send. What protoactor offers besides
// messages answers that it is not implemented.
type receiver struct {
	remote.UnimplementedRemotingServer
	node *Node
}

// Receive implements protoactor's RemotingServer.
func (r *receiver) Receive(stream remote.Remoting_ReceiveServer) error {
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.GetConnectRequest() != nil:
			err = stream.Send(connected(r.node.system.ID))
		default:
			r.node.acceptBatch(m.GetMessageBatch())
		}
		if err != nil {
			return err
		}
	}
}

// connected tells a peer that asks who is here.
func connected(id string) *remote.RemoteMessage {
	return &remote.RemoteMessage{MessageType: &remote.RemoteMessage_ConnectResponse{
		ConnectResponse: &remote.ConnectResponse{MemberId: id},
	}}
}

func (n *Node) serverOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.StreamInterceptor(n.recoverStream),
		grpc.UnaryInterceptor(n.recoverUnary),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(keepaliveTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
	if n.config.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(n.config.TLS)))
	}
	return options
}

func (n *Node) dialOptions() []grpc.DialOption {
	creds := insecure.NewCredentials()
	if n.config.TLS != nil {
		creds = credentials.NewTLS(n.config.TLS)
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
	}
}

// recoverStream turns a panic behind a stream into the stream's end.
func (n *Node) recoverStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer n.recovered(&err)
	return handler(srv, ss)
}

// recoverUnary turns a panic behind a call into its answer.
func (n *Node) recoverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	defer n.recovered(&err)
	return handler(ctx, req)
}

func (n *Node) recovered(err *error) {
	if r := recover(); r != nil {
		n.log.Error("a call of the actors' port failed", "reason", harmless(r))
		*err = status.Error(codes.Internal, "internal")
	}
}

func (c *Config) validateListen() error {
	if c.Listen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("cluster: Listen: %w", err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("cluster: Listen: %q is no port number", port)
	}
	if c.TLS != nil {
		return validateTLS(c.TLS)
	}
	if !loopback(host) {
		return fmt.Errorf("cluster: Listen: %s is reachable from other machines, and whoever reaches the actors' port can tell any actor anything: set TLS, or listen on 127.0.0.1", c.Listen)
	}
	return nil
}

func validateTLS(c *tls.Config) error {
	if c.ClientAuth != tls.RequireAndVerifyClientCert || c.ClientCAs == nil || c.RootCAs == nil {
		return errors.New("cluster: TLS: must verify both sides: set ClientAuth to RequireAndVerifyClientCert, ClientCAs and RootCAs")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
