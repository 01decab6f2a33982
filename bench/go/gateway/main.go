// Gateway is the Go grpc-gateway in front of a gRPC server: what Laurel's own REST is measured against.
//
//	gateway -listen 127.0.0.1:8081 -server 127.0.0.1:50051
package main

import (
	"context"
	"flag"
	"log"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	routes "loyalty.laurel/bench/gateway/routes/loyalty/v1"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8081", "address to serve HTTP on")
	server := flag.String("server", "127.0.0.1:50051", "address of the gRPC server")
	flag.Parse()

	connection, err := grpc.NewClient(*server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	mux := runtime.NewServeMux()
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		routes.RegisterMemberServiceHandler,
		routes.RegisterPointsServiceHandler,
	} {
		if err := register(context.Background(), mux, connection); err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(http.ListenAndServe(*listen, mux))
}
