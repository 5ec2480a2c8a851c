// Azurite has no Put Block From URL: read the source as the service would, and hand it to Azurite's own Put Block.
const path = require("path");
const { Readable } = require("stream");

const blob = path.dirname(process.argv[1]);
const errors = require(path.join(blob, "errors/StorageErrorFactory")).default;
const handler = require(path.join(blob, "handlers/BlockBlobHandler")).default;

handler.prototype.stageBlockFromURL = async function (blockId, contentLength, sourceUrl, options, context) {
  const headers = { "x-ms-version": "2023-11-03", "x-ms-range": options.sourceRange };
  const authorization = context.request.getHeader("x-ms-copy-source-authorization");
  if (authorization) headers["authorization"] = authorization;
  const condition = context.request.getHeader("x-ms-source-if-match");
  if (condition) headers["if-match"] = condition;
  const answer = await fetch(sourceUrl, { headers });
  const body = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw errors.getCannotVerifyCopySource(context.contextId, answer.status, answer.statusText);
  return this.stageBlock(blockId, body.length, Readable.from([body]), options, context);
};
