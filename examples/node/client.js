// Embeds an image, writes images to a collection, and searches it: node client.js QUERY.jpg [MORE.jpg ...]
//
// IMAGESEARCH_EMBEDDER and IMAGESEARCH_TARGET are the two services, HOST:PORT. IMAGESEARCH_CA is the file of the
// authority that issued their certificates (unset: plain text), and IMAGESEARCH_TOKEN is sent with each call.
import {readFileSync} from 'node:fs';
import {basename} from 'node:path';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const {IMAGESEARCH_EMBEDDER, IMAGESEARCH_TARGET, IMAGESEARCH_CA, IMAGESEARCH_TOKEN} = process.env;
const DEADLINE_SECONDS = 30;
const COLLECTION = 'from_node';
// A larger request would not be repeated. The services take images of up to 20 MiB.
const RETRY_BUFFER_BYTES = 48 * 1024 * 1024;

// Load the contracts at run time; no stubs are generated.
const types = protoLoader.loadSync(
  [
    'imagesearch/embedder/v1/embedder.proto',
    'imagesearch/search/v1/search.proto',
    'google/rpc/error_details.proto',
    'grpc/health/v1/health.proto',
  ],
  {includeDirs: [fileURLToPath(new URL('../../protos', import.meta.url))], enums: String, longs: Number, oneofs: true},
);
const {imagesearch, grpc: {health}} = grpc.loadPackageDefinition(types);

// Repeat these calls if a server is unavailable or stopping. Others might be carried out twice.
const serviceConfig = {
  methodConfig: [{
    name: [
      {service: 'imagesearch.embedder.v1.EmbedderService', method: 'Embed'},
      {service: 'imagesearch.search.v1.CollectionService', method: 'GetCollection'},
      {service: 'imagesearch.search.v1.SearchService', method: 'Search'},
    ],
    retryPolicy: {
      maxAttempts: 4,
      initialBackoff: '0.1s',
      maxBackoff: '2s',
      backoffMultiplier: 2,
      retryableStatusCodes: ['UNAVAILABLE', 'CANCELLED'],
    },
  }],
};

// Check the servers' certificates against the authority. gRPC sends a token over TLS only.
function credentials() {
  if (!IMAGESEARCH_CA) return grpc.credentials.createInsecure();
  const tls = grpc.credentials.createSsl(readFileSync(IMAGESEARCH_CA));
  if (!IMAGESEARCH_TOKEN) return tls;
  const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${IMAGESEARCH_TOKEN}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(tls, token);
}

const connect = (Client, target) =>
  new Client(target, credentials(), {
    'grpc.service_config': JSON.stringify(serviceConfig),
    'grpc.per_rpc_retry_buffer_size': RETRY_BUFFER_BYTES,
    'grpc.retry_buffer_size': RETRY_BUFFER_BYTES,
  });
const deadline = () => ({deadline: Date.now() + DEADLINE_SECONDS * 1000});
const call = (client, method, request) => promisify(client[method].bind(client))(request, deadline());

// Print what google.rpc.Status says: a call's error carries it in its trailing metadata, an item's error is one.
function printError(what, status) {
  console.log(`${what}: ${grpc.status[status.code]} ${status.message}`);
  for (const {type_url, value} of status.details) {
    const type = type_url.split('/')[1];
    const detail = types[type].deserialize(value);
    if (type === 'google.rpc.ErrorInfo') console.log(`  reason ${detail.reason} of ${detail.domain}`);
    if (type === 'google.rpc.BadRequest')
      for (const {field, description} of detail.fieldViolations) console.log(`  field ${field}: ${description}`);
    if (type === 'google.rpc.RetryInfo') console.log(`  retry after ${seconds(detail.retryDelay)} s`);
  }
}

const seconds = (duration) => (duration.seconds + duration.nanos / 1e9).toFixed(2);

function statusOf(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  if (bytes) return types['google.rpc.Status'].deserialize(bytes);
  return {code: error.code, message: error.details, details: []}; // from gRPC itself, not from the service
}

// Send each image on one stream, and read one answer for each; an answer may be that image's error.
async function write(images, photos) {
  const stream = images.writeImages(deadline());
  for (const [id, content] of photos)
    stream.write({collection: COLLECTION, requestId: id, id, image: {content}});
  stream.end();
  for await (const answer of stream) {
    if (answer.error) printError(`refused ${answer.id}`, answer.error);
    else console.log(`stored ${answer.id}`);
  }
}

async function main(files) {
  const photos = files.map((file) => [basename(file, '.jpg'), readFileSync(file)]);
  const [[, query]] = photos;

  // One channel for each service, for as long as the program runs.
  const embedder = connect(imagesearch.embedder.v1.EmbedderService, IMAGESEARCH_EMBEDDER);
  const collections = connect(imagesearch.search.v1.CollectionService, IMAGESEARCH_TARGET);
  const images = connect(imagesearch.search.v1.ImageService, IMAGESEARCH_TARGET);
  const searcher = connect(imagesearch.search.v1.SearchService, IMAGESEARCH_TARGET);

  // Ask whether the servers serve. Health needs no token.
  for (const target of [IMAGESEARCH_EMBEDDER, IMAGESEARCH_TARGET]) {
    const {status} = await call(connect(health.v1.Health, target), 'check', {service: ''});
    console.log(`${target} is ${status}`);
  }

  // Turn an image into a vector.
  const {embedding} = await call(embedder, 'embed', {image: {content: query}});
  console.log(`embedded into ${embedding.values.length} values by ${embedding.fingerprint}`);

  // Make a collection for the embedder's default model, unless it is there from an earlier run.
  try {
    await call(collections, 'getCollection', {name: COLLECTION});
  } catch (error) {
    if (error.code !== grpc.status.NOT_FOUND) throw error;
    await call(collections, 'createCollection', {collection: {name: COLLECTION}});
  }

  await write(images, [...photos, ['broken', Buffer.from('no image')]]);

  // Find the images that are most like the query.
  const {hits} = await call(searcher, 'search', {collection: COLLECTION, query: {image: {content: query}}, limit: 3});
  for (const {score, image} of hits) console.log(`hit ${image.id} ${score.toFixed(3)}`);

  // A request that is refused: the details name the field.
  try {
    await call(searcher, 'search', {collection: COLLECTION, query: {image: {content: query}}, limit: 2000});
  } catch (error) {
    printError('search', statusOf(error));
  }
}

main(process.argv.slice(2)).catch((error) => {
  if (!error.metadata) throw error; // not an error of a call
  printError('failed', statusOf(error));
  process.exitCode = 1;
});
