// A till that speaks to Laurel, from the client that `make clients ARGS=go` generates.
//
//	export LAUREL_ADDRESS=127.0.0.1:50051 LAUREL_API_KEY=...
//	go run . join    CARD NAME             a member joins
//	go run . sell    CARD AMOUNT RECEIPT   a purchase earns points
//	go run . redeem  CARD POINTS RECEIPT   points pay for something
//	go run . balance CARD                  what the member holds
//	go run . deliver                       send what could not be sent
//
// A sale is written to the outbox before it is sent and leaves it once the server has
// answered. So it survives a dead connection and a dead till, and since it keeps its
// request_id it counts once however often it is sent. Nothing is redeemed without an
// answer: only the server knows what a member may spend.
//
// Exit codes: 0 done, or kept for later; 1 refused; 2 wrong usage; 3 the server can't be reached.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/money"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	loyalty "loyalty.laurel/sdk/go/loyalty/v1"
)

const (
	callTime  = 5 * time.Second
	attempts  = 4
	firstWait = 100 * time.Millisecond
)

// The call may have happened or not: sending it again, with the same request_id, is safe.
var passing = []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted}

// What the server has against this one sale. Anything else, such as a revoked key, is no fault of the sale.
var ofTheSale = []codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists}

var errUsage = errors.New("usage: terminal [-outbox FOLDER] join|sell|redeem|balance|deliver ARGUMENT...")

// till is one till. outbox is a folder that survives a restart.
type till struct {
	members  loyalty.MemberServiceClient
	points   loyalty.PointsServiceClient
	key      string
	outbox   string
	setAside int
}

// join registers a member with a card.
func (t *till) join(card, name string) error {
	reply, err := call(t, t.members.RegisterMember, &loyalty.RegisterMemberRequest{
		RequestId: rand.Text(),
		Member:    &loyalty.Member{GivenName: name, CardNumbers: []string{card}},
	})
	if err == nil {
		fmt.Printf("%s joined as %s\n", name, reply.Member.MemberId)
	}
	return err
}

// sell records a purchase in rupees, now or as soon as there is a connection.
func (t *till) sell(card, amount, receipt string) error {
	rupees, err := rupees(amount)
	if err != nil {
		return err
	}
	err = t.keep(&loyalty.AccrueRequest{
		RequestId:      rand.Text(),
		Member:         &loyalty.AccrueRequest_Identifier{Identifier: byCard(card)},
		OrderReference: receipt,
		Channel:        "pos",
		Amount:         rupees,
		// Rules see when it was sold, not when it arrived.
		OccurTime: timestamppb.Now(),
	})
	if err != nil {
		return err
	}
	return t.deliver()
}

// redeem spends points. The request_id comes from the receipt: to repeat the command is to repeat the call.
func (t *till) redeem(card, points, receipt string) error {
	wanted, err := strconv.ParseInt(points, 10, 64)
	if err != nil {
		return errUsage
	}
	reply, err := call(t, t.points.Redeem, &loyalty.RedeemRequest{
		RequestId:      "redeem-" + receipt,
		Member:         &loyalty.RedeemRequest_Identifier{Identifier: byCard(card)},
		Points:         wanted,
		OrderReference: receipt,
		Channel:        "pos",
	})
	if err == nil {
		fmt.Printf("receipt %s: %d points redeemed, balance %d\n", receipt, reply.Points, reply.Balance)
	}
	return err
}

// balance says what a member may spend.
func (t *till) balance(card string) error {
	found, err := call(t, t.members.FindMember, &loyalty.FindMemberRequest{Identifier: byCard(card)})
	if err != nil {
		return err
	}
	reply, err := call(t, t.points.GetBalance, &loyalty.GetBalanceRequest{MemberId: found.Member.MemberId})
	if err == nil {
		fmt.Printf("balance %d, tier %s\n", reply.Wallets[0].Balance, reply.Tier)
	}
	return err
}

// deliver sends what is in the outbox, oldest first, and stops as soon as there is no answer.
func (t *till) deliver() error {
	paths, err := filepath.Glob(filepath.Join(t.outbox, "*.sale"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		request, err := read(path)
		if err != nil {
			return err
		}
		reply, err := call(t, t.points.Accrue, request)
		switch {
		case err == nil:
			err = os.Remove(path)
			fmt.Printf("receipt %s: %d points, balance %d\n", request.OrderReference, reply.Points, reply.Balance)
		case slices.Contains(ofTheSale, status.Code(err)):
			// It must not block those behind it.
			t.setAside++
			fmt.Printf("receipt %s: refused, %s\n", request.OrderReference, inWords(err))
			err = os.Rename(path, strings.TrimSuffix(path, ".sale")+".refused")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep writes a sale durably, or not at all: a till may lose power at any moment.
func (t *till) keep(request *loyalty.AccrueRequest) error {
	raw, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(t.outbox, 0o700); err != nil {
		return err
	}
	name := filepath.Join(t.outbox, fmt.Sprintf("%d-%s", time.Now().UnixNano(), request.RequestId))
	file, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(name+".part", name+".sale")
}

func read(path string) (*loyalty.AccrueRequest, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	request := &loyalty.AccrueRequest{}
	return request, proto.Unmarshal(raw, request)
}

// call returns the reply; it sends the same request again where that may help.
func call[Request, Reply any](
	t *till, method func(context.Context, *Request, ...grpc.CallOption) (*Reply, error), request *Request,
) (*Reply, error) {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+t.key)
		reply, err := method(ctx, request)
		cancel()
		if err == nil || attempt == attempts || !slices.Contains(passing, status.Code(err)) {
			return reply, err
		}
		pause := max(wait, retryDelay(err))
		// Tills that lost the server together should not come back together.
		time.Sleep(time.Duration(float64(pause) * (0.5 + mathrand.Float64()/2)))
		wait *= 2
	}
}

// retryDelay is for how long the server asks to wait.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// inWords is the message with the reason of the ErrorInfo, which programs go by.
func inWords(err error) string {
	said := status.Convert(err)
	reason := said.Code().String()
	for _, detail := range said.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	return fmt.Sprintf("%s (%s)", said.Message(), reason)
}

func byCard(number string) *loyalty.Identifier {
	return &loyalty.Identifier{Kind: &loyalty.Identifier_CardNumber{CardNumber: number}}
}

// rupees reads an exact amount: money is never a float.
func rupees(amount string) (*money.Money, error) {
	exact, ok := new(big.Rat).SetString(amount)
	if !ok {
		return nil, errUsage
	}
	nanos := exact.Mul(exact, big.NewRat(1_000_000_000, 1))
	if !nanos.IsInt() || !nanos.Num().IsInt64() {
		return nil, errUsage
	}
	whole := nanos.Num().Int64()
	return &money.Money{CurrencyCode: "INR", Units: whole / 1_000_000_000, Nanos: int32(whole % 1_000_000_000)}, nil
}

func run(t *till, arguments []string) error {
	words := append(arguments, "", "", "", "")
	switch fmt.Sprintf("%s %d", words[0], len(arguments)-1) {
	case "join 2":
		return t.join(words[1], words[2])
	case "sell 3":
		return t.sell(words[1], words[2], words[3])
	case "redeem 3":
		return t.redeem(words[1], words[2], words[3])
	case "balance 1":
		return t.balance(words[1])
	case "deliver 0":
		return t.deliver()
	}
	return errUsage
}

func main() {
	outbox := flag.String("outbox", "outbox", "folder of unsent sales")
	flag.Parse()
	address := os.Getenv("LAUREL_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	t := &till{
		members: loyalty.NewMemberServiceClient(connection),
		points:  loyalty.NewPointsServiceClient(connection),
		key:     os.Getenv("LAUREL_API_KEY"),
		outbox:  *outbox,
	}
	err = run(t, flag.Args())
	os.Exit(exitCode(t, err, flag.Arg(0)))
}

func exitCode(t *till, err error, command string) int {
	_, fromServer := status.FromError(err)
	switch {
	case err == nil && t.setAside == 0:
		return 0
	case err == nil:
		return 1
	case !fromServer:
		fmt.Fprintln(os.Stderr, err)
		return 2
	case !slices.Contains(passing, status.Code(err)):
		fmt.Fprintln(os.Stderr, "refused:", inWords(err))
		return 1
	}
	fmt.Fprintln(os.Stderr, "no answer:", inWords(err))
	if command == "sell" {
		fmt.Println("the sale is in the outbox; `deliver` sends it")
		return 0
	}
	return 3
}
