// natrp_client.js: the original natrp client's behaviour, spoken by @grpc/grpc-js. See natrp_client.py, which it equals.
"use strict";

const net = require("net");
const path = require("path");
const { parseArgs } = require("util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const REOPEN_MS = 100;
const CALL_MS = 20000;

const definition = loader.loadSync(path.join(__dirname, "server_proto.txt"), { keepCase: true, longs: Number });
const { ServerService } = grpc.loadPackageDefinition(definition).serverpb;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: "string" },
    token: { type: "string", multiple: true, default: [] },
    local: { type: "string" },
    streams: { type: "string", default: "1" },
    bytes: { type: "string", default: "0" },
    compress: { type: "boolean", default: false },
  },
});

const options = values.compress ? { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip } : {};
const client = new ServerService(values.server, grpc.credentials.createInsecure(), options);

function metadata() {
  const fields = new grpc.Metadata();
  for (const token of values.token) fields.add("natrp-token", token);
  return fields;
}

function say(what, status) {
  console.log(`${what} ${grpc.status[status.code]} ${status.details}`);
}

function callOnce(method) {
  const done = (what, text) => {
    console.log(`${what} ${text}`);
    process.exit(0);
  };
  const failed = (error) => done("status", `${grpc.status[error.code]} ${error.details}`);
  if (method === "Msg") {
    const call = client.Msg(metadata());
    call.on("data", () => {});
    call.on("error", () => {});
    call.on("status", failed);
    if (Number(values.bytes)) call.write({ data: Buffer.alloc(Number(values.bytes)) });
    return;
  }
  const request = { email: "someone@example.test", password: "secret" };
  client[method](request, metadata(), { deadline: Date.now() + CALL_MS }, (error, answer) => {
    if (error) failed(error);
    else done("answer", `${answer.code} ${answer.msg}`);
  });
}

function keepOpen(host, port) {
  const call = client.Msg(metadata());
  const service = net.connect(port, host);
  service.setNoDelay(true);
  call.on("data", (response) => {
    if (service.destroyed || service.write(response.data)) return;
    call.pause();
    service.once("drain", () => call.resume());
  });
  service.on("data", (data) => {
    if (data.subarray(-7).toString() === "cancel!") {
      call.cancel();
      return;
    }
    if (call.write({ data })) return;
    service.pause();
    call.once("drain", () => service.resume());
  });
  service.on("end", () => call.end());
  service.on("error", () => call.cancel());
  service.on("close", () => call.resume()); // nobody is waited for any more
  call.on("error", () => {}); // status says it
  call.on("end", () => {
    if (!service.destroyed) service.end(() => service.destroySoon());
  });
  call.on("status", (status) => {
    say("ended", status); // maybe before the last messages: those of a call that is paused
    setTimeout(() => keepOpen(host, port), REOPEN_MS);
  });
}

if (positionals[0] === "call") {
  callOnce(positionals[1] || "Msg");
} else {
  const [host, port] = values.local.split(":");
  for (let i = 0; i < Number(values.streams); ++i) keepOpen(host, Number(port));
}
