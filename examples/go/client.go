// Embeds an image, writes images to a collection, and searches it: client QUERY.jpg [MORE.jpg ...]
//
// IMAGESEARCH_EMBEDDER and IMAGESEARCH_TARGET are the two services, HOST:PORT. IMAGESEARCH_CA is the file of the
// authority that issued their certificates (unset: plain text), and IMAGESEARCH_TOKEN is sent with each call.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	embedderv1 "imagesearch/embedder/v1"
	searchv1 "imagesearch/search/v1"
	typesv1 "imagesearch/types/v1"
)

const (
	deadline   = 30 * time.Second
	collection = "from_go"
	// A larger request would not be repeated. The services take images of up to 20 MiB.
	retryBufferBytes = 48 << 20
	// Repeat these calls if a server is unavailable or stopping. Others might be carried out twice.
	// Before grpc-go 1.40 this also needs GRPC_GO_RETRY=on in the environment.
	serviceConfig = `{"methodConfig": [{
		"name": [
			{"service": "imagesearch.embedder.v1.EmbedderService", "method": "Embed"},
			{"service": "imagesearch.search.v1.CollectionService", "method": "GetCollection"},
			{"service": "imagesearch.search.v1.SearchService", "method": "Search"}
		],
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.1s",
			"maxBackoff": "2s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
		}
	}]}`
)

// A photo is the content of a file, and its name without the suffix.
type photo struct {
	id      string
	content []byte
}

// bearer sends a token with each call. gRPC sends it over TLS only.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// connect opens a channel that checks the server's certificate against the authority.
func connect(target string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxRetryRPCBufferSize(retryBufferBytes)),
	}
	authority := os.Getenv("IMAGESEARCH_CA")
	if authority == "" {
		return grpc.Dial(target, append(options, grpc.WithInsecure())...)
	}
	tls, err := credentials.NewClientTLSFromFile(authority, "")
	if err != nil {
		return nil, err
	}
	options = append(options, grpc.WithTransportCredentials(tls))
	if token := os.Getenv("IMAGESEARCH_TOKEN"); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return grpc.Dial(target, options...)
}

// printError prints a status and its details: a call's error carries one, an item's error is one.
func printError(what string, refusal *status.Status) {
	fmt.Printf("%s: %s %s\n", what, refusal.Code(), refusal.Message())
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Printf("  reason %s of %s\n", detail.GetReason(), detail.GetDomain())
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				fmt.Printf("  field %s: %s\n", violation.GetField(), violation.GetDescription())
			}
		case *errdetails.RetryInfo:
			delay := detail.GetRetryDelay()
			fmt.Printf("  retry after %.2f s\n", float64(delay.GetSeconds())+float64(delay.GetNanos())/1e9)
		}
	}
}

// write sends each photo on one stream, and reads one answer for each; an answer may be that photo's error.
func write(ctx context.Context, images searchv1.ImageServiceClient, photos []photo) error {
	stream, err := images.WriteImages(ctx)
	if err != nil {
		return err
	}
	go func() {
		defer stream.CloseSend()
		for _, photo := range photos {
			request := &searchv1.WriteImagesRequest{
				Collection: collection,
				RequestId:  photo.id,
				Id:         photo.id,
				Source:     &searchv1.WriteImagesRequest_Image{Image: &typesv1.EncodedImage{Content: photo.content}},
			}
			if stream.Send(request) != nil {
				return // Recv returns the reason
			}
		}
	}()
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if answer.GetError() != nil {
			printError("refused "+answer.GetId(), status.FromProto(answer.GetError()))
		} else {
			fmt.Printf("stored %s\n", answer.GetId())
		}
	}
}

func run(ctx context.Context, files []string) error {
	photos := []photo{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		photos = append(photos, photo{strings.TrimSuffix(filepath.Base(file), ".jpg"), content})
	}
	query := &typesv1.EncodedImage{Content: photos[0].content}

	// One channel for each service, for as long as the program runs.
	embedder, err := connect(os.Getenv("IMAGESEARCH_EMBEDDER"))
	if err != nil {
		return err
	}
	defer embedder.Close()
	search, err := connect(os.Getenv("IMAGESEARCH_TARGET"))
	if err != nil {
		return err
	}
	defer search.Close()

	// Ask whether the servers serve. Health needs no token.
	for _, channel := range []*grpc.ClientConn{embedder, search} {
		health, err := grpc_health_v1.NewHealthClient(channel).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		fmt.Printf("%s is %s\n", channel.Target(), health.GetStatus())
	}

	// Turn an image into a vector.
	embedded, err := embedderv1.NewEmbedderServiceClient(embedder).Embed(ctx, &embedderv1.EmbedRequest{Image: query})
	if err != nil {
		return err
	}
	vector := embedded.GetEmbedding()
	fmt.Printf("embedded into %d values by %s\n", len(vector.GetValues()), vector.GetFingerprint())

	// Make a collection for the embedder's default model, unless it is there from an earlier run.
	collections := searchv1.NewCollectionServiceClient(search)
	_, err = collections.GetCollection(ctx, &searchv1.GetCollectionRequest{Name: collection})
	if status.Code(err) == codes.NotFound {
		_, err = collections.CreateCollection(ctx, &searchv1.CreateCollectionRequest{
			Collection: &searchv1.Collection{Name: collection},
		})
	}
	if err != nil {
		return err
	}

	photos = append(photos, photo{"broken", []byte("no image")})
	if err := write(ctx, searchv1.NewImageServiceClient(search), photos); err != nil {
		return err
	}

	// Find the images that are most like the query.
	searcher := searchv1.NewSearchServiceClient(search)
	request := &searchv1.SearchRequest{
		Collection: collection,
		Query:      &searchv1.Query{Kind: &searchv1.Query_Image{Image: query}},
		Limit:      3,
	}
	found, err := searcher.Search(ctx, request)
	if err != nil {
		return err
	}
	for _, hit := range found.GetHits() {
		fmt.Printf("hit %s %.3f\n", hit.GetImage().GetId(), hit.GetScore())
	}

	// A request that is refused: the details name the field.
	request.Limit = 2000
	if _, err := searcher.Search(ctx, request); err != nil {
		printError("search", status.Convert(err))
	}
	return nil
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: client QUERY.jpg [MORE.jpg ...]")
	}
	// Every call ends with this deadline at the latest.
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		refusal, ok := status.FromError(err)
		if !ok {
			log.Fatal(err)
		}
		printError("failed", refusal)
		os.Exit(1)
	}
}
