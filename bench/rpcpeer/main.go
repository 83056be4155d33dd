// Command rpcpeer is the Go peer over gRPC and over net/rpc, on Unix sockets. It is a
// program of its own because gRPC and Protocol Buffers bring much that no other peer needs.
package main

import (
	"context"
	"fmt"
	"net"
	"net/rpc"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

func main() {
	os.Exit(peer.Main(os.Args[1:], nil, peer.Roles{"answer": answer, "call": call}))
}

// answer is the role of a server that sends back what it is asked.
func answer(p *peer.Peer) error {
	l, err := net.Listen("unix", p.Args["socket"])
	if err != nil {
		return err
	}
	switch p.Kind {
	case "grpc":
		s := grpc.NewServer()
		s.RegisterService(&echoService, echoServer(echo{}))
		go s.Serve(l) // until the process is killed
	case "netrpc":
		if err := rpc.Register(Echo{}); err != nil {
			return err
		}
		go rpc.Accept(l)
	default:
		return fmt.Errorf("no server of %q", p.Kind)
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	select {}
}

// call is the role of the client: all callers share one connection.
func call(p *peer.Peer) error {
	var do peer.Call
	switch p.Kind {
	case "grpc":
		conn, err := grpc.NewClient("unix:"+p.Args["socket"], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		do = func(out []byte) ([]byte, error) {
			reply := new(wrapperspb.BytesValue)
			err := conn.Invoke(context.Background(), "/Echo/Echo", wrapperspb.Bytes(out), reply)
			return reply.GetValue(), err
		}
	case "netrpc":
		client, err := rpc.Dial("unix", p.Args["socket"])
		if err != nil {
			return err
		}
		do = func(out []byte) (reply []byte, err error) {
			err = client.Call("Echo.Echo", out, &reply)
			return reply, err
		}
	default:
		return fmt.Errorf("no client of %q", p.Kind)
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	return p.Calls(do)
}

// Echo is the service of net/rpc.
type Echo struct{}

// Echo is its method.
func (Echo) Echo(text []byte, reply *[]byte) error {
	*reply = text
	return nil
}

// echoServer and echoService are what the compiler of Protocol Buffers makes of
//
//	service Echo { rpc Echo(google.protobuf.BytesValue) returns (google.protobuf.BytesValue); }
type echoServer interface {
	Echo(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error)
}

var echoService = grpc.ServiceDesc{
	ServiceName: "Echo",
	HandlerType: (*echoServer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := decode(in); err != nil {
				return nil, err
			}
			if intercept == nil {
				return srv.(echoServer).Echo(ctx, in)
			}
			info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/Echo/Echo"}
			return intercept(ctx, in, info, func(ctx context.Context, req any) (any, error) {
				return srv.(echoServer).Echo(ctx, req.(*wrapperspb.BytesValue))
			})
		},
	}},
}

type echo struct{}

func (echo) Echo(_ context.Context, text *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return text, nil
}
