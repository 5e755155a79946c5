// grpc-go as a server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"drainctl.test/peers/contract"
	"drainctl.test/peers/wire"
)

// Slow messages: a response of about four seconds.
const messages = 40

type peer struct{ contract.Server }

type unary = func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error)

func method(answer func(peer, []byte) []byte) unary {
	return func(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		response := answer(srv.(peer), request)
		return &response, nil
	}
}

func body(_ peer, request []byte) []byte {
	size, _ := strconv.Atoi(string(request))
	return contract.Body(size)
}

func count(p peer, request []byte) []byte {
	p.Execute(string(request))
	return request
}

func slow(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	for _, piece := range contract.Split(body(peer{}, request), messages) {
		if err := stream.SendMsg(&piece); err != nil {
			return err
		}
		time.Sleep(contract.Pause) // not a wait for a state: the server's pace
	}
	return nil
}

func talk(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(&message)
		}
		if err != nil {
			return err
		}
	}
}

func main() {
	args := contract.ServerArgs()
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", args.Port))
	if err != nil {
		contract.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(wire.Codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.Service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Body", Handler: method(body)},
			{MethodName: "Count", Handler: method(count)},
		},
		Streams: []grpc.StreamDesc{
			{StreamName: "Slow", Handler: slow, ServerStreams: true},
			{StreamName: "Talk", Handler: talk, ServerStreams: true, ClientStreams: true},
		},
	}, peer{args})
	contract.Fatal(server.Serve(listener))
}
