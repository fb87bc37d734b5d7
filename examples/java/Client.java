// Embeds an image, writes images to a collection, and searches it: java Client QUERY.jpg [MORE.jpg ...]
//
// IMAGESEARCH_EMBEDDER and IMAGESEARCH_TARGET are the two services, HOST:PORT. IMAGESEARCH_CA is the file of the
// authority that issued their certificates (unset: plain text), and IMAGESEARCH_TOKEN is sent with each call.
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import imagesearch.embedder.v1.EmbedRequest;
import imagesearch.embedder.v1.EmbedderServiceGrpc;
import imagesearch.search.v1.Collection;
import imagesearch.search.v1.CollectionServiceGrpc;
import imagesearch.search.v1.CreateCollectionRequest;
import imagesearch.search.v1.GetCollectionRequest;
import imagesearch.search.v1.Hit;
import imagesearch.search.v1.ImageServiceGrpc;
import imagesearch.search.v1.Query;
import imagesearch.search.v1.SearchRequest;
import imagesearch.search.v1.SearchServiceGrpc;
import imagesearch.search.v1.WriteImagesRequest;
import imagesearch.search.v1.WriteImagesResponse;
import imagesearch.types.v1.EncodedImage;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

public final class Client {
  private static final int DEADLINE_SECONDS = 30;
  private static final String COLLECTION = "from_java";
  // A larger request would not be repeated. The services take images of up to 20 MiB.
  private static final long RETRY_BUFFER_BYTES = 48L << 20;

  // Repeat these calls if a server is unavailable or stopping. Others might be carried out twice.
  private static final Map<String, ?> SERVICE_CONFIG = Map.of("methodConfig", List.of(Map.of(
      "name", List.of(
          Map.of("service", "imagesearch.embedder.v1.EmbedderService", "method", "Embed"),
          Map.of("service", "imagesearch.search.v1.CollectionService", "method", "GetCollection"),
          Map.of("service", "imagesearch.search.v1.SearchService", "method", "Search")),
      "retryPolicy", Map.of(
          "maxAttempts", 4.0,
          "initialBackoff", "0.1s",
          "maxBackoff", "2s",
          "backoffMultiplier", 2.0,
          "retryableStatusCodes", List.of("UNAVAILABLE", "CANCELLED")))));

  // Sends a token with each call.
  private static final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> KEY =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final String token;

    Bearer(String token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      Metadata metadata = new Metadata();
      metadata.put(KEY, "Bearer " + token);
      applier.apply(metadata);
    }

    @Override
    public void thisUsesUnstableApi() {}
  }

  // Check the servers' certificates against the authority. gRPC sends a token over TLS only.
  private static ChannelCredentials credentials() throws IOException {
    String authority = System.getenv("IMAGESEARCH_CA");
    if (authority == null) {
      return InsecureChannelCredentials.create();
    }
    ChannelCredentials tls = TlsChannelCredentials.newBuilder().trustManager(new File(authority)).build();
    String token = System.getenv("IMAGESEARCH_TOKEN");
    return token == null ? tls : CompositeChannelCredentials.create(tls, new Bearer(token));
  }

  private static ManagedChannel connect(String target) throws IOException {
    return Grpc.newChannelBuilder(target, credentials())
        .defaultServiceConfig(SERVICE_CONFIG)
        .enableRetry()
        .perRpcBufferLimit(RETRY_BUFFER_BYTES)
        .retryBufferSize(RETRY_BUFFER_BYTES)
        .build();
  }

  // Print what google.rpc.Status says: a call's error carries it in its trailing metadata, an item's error is one.
  private static void print(String what, Status status) throws InvalidProtocolBufferException {
    io.grpc.Status.Code code = io.grpc.Status.fromCodeValue(status.getCode()).getCode();
    System.out.printf("%s: %s %s%n", what, code, status.getMessage());
    for (Any detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        System.out.printf("  reason %s of %s%n", info.getReason(), info.getDomain());
      } else if (detail.is(BadRequest.class)) {
        for (BadRequest.FieldViolation fault : detail.unpack(BadRequest.class).getFieldViolationsList()) {
          System.out.printf("  field %s: %s%n", fault.getField(), fault.getDescription());
        }
      } else if (detail.is(RetryInfo.class)) {
        Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
        System.out.printf("  retry after %.2f s%n", delay.getSeconds() + delay.getNanos() / 1e9);
      }
    }
  }

  // Send each image on one stream, and read one answer for each; an answer may be that image's error.
  private static void write(ManagedChannel search, Map<String, ByteString> photos)
      throws InterruptedException, ExecutionException {
    CompletableFuture<Void> done = new CompletableFuture<>();
    StreamObserver<WriteImagesRequest> requests = ImageServiceGrpc.newStub(search)
        .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
        .writeImages(new StreamObserver<>() {
          @Override
          public void onNext(WriteImagesResponse answer) {
            if (answer.hasWritten()) {
              System.out.printf("stored %s%n", answer.getId());
              return;
            }
            try {
              print("refused " + answer.getId(), answer.getError());
            } catch (InvalidProtocolBufferException error) {
              done.completeExceptionally(error);
            }
          }

          @Override
          public void onError(Throwable error) {
            done.completeExceptionally(error);
          }

          @Override
          public void onCompleted() {
            done.complete(null);
          }
        });
    photos.forEach((id, content) -> requests.onNext(WriteImagesRequest.newBuilder()
        .setCollection(COLLECTION)
        .setRequestId(id)
        .setId(id)
        .setImage(EncodedImage.newBuilder().setContent(content))
        .build()));
    requests.onCompleted();
    done.get();
  }

  private static void run(ManagedChannel embedder, ManagedChannel search, Map<String, ByteString> photos)
      throws Exception {
    EncodedImage query = EncodedImage.newBuilder().setContent(photos.values().iterator().next()).build();

    // Ask whether the servers serve. Health needs no token.
    for (ManagedChannel channel : List.of(embedder, search)) {
      var health = HealthGrpc.newBlockingStub(channel)
          .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
          .check(HealthCheckRequest.getDefaultInstance());
      System.out.printf("%s is %s%n", channel.authority(), health.getStatus());
    }

    // Turn an image into a vector.
    var vector = EmbedderServiceGrpc.newBlockingStub(embedder)
        .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
        .embed(EmbedRequest.newBuilder().setImage(query).build())
        .getEmbedding();
    System.out.printf("embedded into %d values by %s%n", vector.getValuesCount(), vector.getFingerprint());

    // Make a collection for the embedder's default model, unless it is there from an earlier run.
    var collections = CollectionServiceGrpc.newBlockingStub(search);
    try {
      collections.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
          .getCollection(GetCollectionRequest.newBuilder().setName(COLLECTION).build());
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != io.grpc.Status.Code.NOT_FOUND) {
        throw error;
      }
      collections.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
          .createCollection(CreateCollectionRequest.newBuilder()
              .setCollection(Collection.newBuilder().setName(COLLECTION))
              .build());
    }

    photos.put("broken", ByteString.copyFromUtf8("no image"));
    write(search, photos);

    // Find the images that are most like the query.
    var searcher = SearchServiceGrpc.newBlockingStub(search);
    var request = SearchRequest.newBuilder()
        .setCollection(COLLECTION)
        .setQuery(Query.newBuilder().setImage(query))
        .setLimit(3);
    var found = searcher.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS).search(request.build());
    for (Hit hit : found.getHitsList()) {
      System.out.printf("hit %s %.3f%n", hit.getImage().getId(), hit.getScore());
    }

    // A request that is refused: the details name the field.
    try {
      searcher.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS).search(request.setLimit(2000).build());
    } catch (StatusRuntimeException error) {
      print("search", StatusProto.fromThrowable(error));
    }
  }

  public static void main(String[] files) throws Exception {
    Map<String, ByteString> photos = new LinkedHashMap<>();
    for (String file : files) {
      Path path = Path.of(file);
      photos.put(path.getFileName().toString().replace(".jpg", ""), ByteString.copyFrom(Files.readAllBytes(path)));
    }
    // One channel for each service, for as long as the program runs.
    ManagedChannel embedder = connect(System.getenv("IMAGESEARCH_EMBEDDER"));
    ManagedChannel search = connect(System.getenv("IMAGESEARCH_TARGET"));
    try {
      run(embedder, search, photos);
    } catch (StatusRuntimeException | ExecutionException error) {
      print("failed", StatusProto.fromThrowable(error));
      System.exit(1);
    } finally {
      embedder.shutdown();
      search.shutdown();
    }
  }
}
