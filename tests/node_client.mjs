// The page's client outside a browser, for tests/node_client.py: commands come as lines of JSON, and what its handlers
// are called with goes back the same way. The socket is the test's own, since not every Node has one.

import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [TEXT, BINARY, CLOSE, PING, PONG] = [1, 2, 8, 9, 10];

/** As much of a browser's WebSocket as the client uses. */
class Socket {
  #tcp;
  #input = Buffer.alloc(0);
  #open = false;
  #code = 1006;
  #reason = "";

  constructor(address, protocols) {
    const { hostname, port, host, pathname, search } = new URL(address);
    const lines = [
      `GET ${pathname}${search} HTTP/1.1`,
      `Host: ${host}`,
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
      `Sec-WebSocket-Protocol: ${protocols.join(", ")}`,
      `Origin: http://${host}`,
    ];
    this.#tcp = connect({ host: hostname, port: Number(port), noDelay: true });
    this.#tcp.on("connect", () => this.#tcp.write(`${lines.join("\r\n")}\r\n\r\n`));
    this.#tcp.on("data", (data) => this.#take(data));
    this.#tcp.on("error", () => {});
    this.#tcp.on("close", () => this.onclose?.({ code: this.#code, reason: this.#reason }));
  }

  send(data) {
    if (typeof data === "string") this.#write(TEXT, Buffer.from(data));
    else this.#write(BINARY, data);
  }

  close(code) {
    if (!this.#open) return this.#tcp.destroy();
    this.#write(CLOSE, Buffer.from([code >> 8, code & 255]));
    return this.#tcp.end();
  }

  #write(opcode, payload) {
    if (this.#tcp.destroyed || this.#tcp.writableEnded) return;
    const key = randomBytes(4);
    const size = payload.length < 126 ? [payload.length | 128] : [254, payload.length >> 8, payload.length & 255];
    this.#tcp.write(Buffer.concat([Buffer.from([opcode | 128, ...size]), key, payload.map((byte, i) => byte ^ key[i & 3])]));
  }

  #take(data) {
    this.#input = Buffer.concat([this.#input, data]);
    if (!this.#open && !this.#upgraded()) return;
    for (let frame; (frame = this.#frame()); ) this.#obey(...frame);
  }

  #upgraded() {
    const end = this.#input.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const head = this.#input.subarray(0, end).toString();
    this.#input = this.#input.subarray(end + 4);
    this.#open = head.startsWith("HTTP/1.1 101");
    if (this.#open) this.onopen?.();
    else this.#tcp.destroy();
    return this.#open;
  }

  /** A gateway sends no message in fragments, and masks none. */
  #frame() {
    const input = this.#input;
    if (input.length < 2) return null;
    const [head, size] = { 126: [4, 2], 127: [10, 8] }[input[1]] ?? [2, 0];
    if (input.length < head) return null;
    const length = size ? Number(BigInt(`0x${input.subarray(2, head).toString("hex")}`)) : input[1];
    if (input.length < head + length) return null;
    this.#input = input.subarray(head + length);
    return [input[0] & 15, input.subarray(head, head + length)];
  }

  #obey(opcode, payload) {
    if (opcode === TEXT) this.onmessage?.({ data: payload.toString() });
    if (opcode === PING) this.#write(PONG, payload);
    if (opcode !== CLOSE) return;
    this.#code = payload.length ? payload.readUInt16BE() : 1005;
    this.#reason = payload.subarray(2).toString();
    this.close(this.#code);
  }
}

const [, , file] = process.argv;
const { CaptionsClient } = await import(pathToFileURL(file));
const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const on = new Proxy({}, { get: (_, name) => (...values) => tell({ on: name, values }) });
const bytes = (value) => (value?.base64 === undefined ? value : Buffer.from(value.base64, "base64"));
let client;

for await (const line of createInterface({ input: process.stdin })) {
  const { id, options, method, args, get } = JSON.parse(line);
  if (options) client = new CaptionsClient({ ...options, on, WebSocket: Socket });
  const value = method ? client[method](...args.map(bytes)) : get ? client[get] : null;
  Promise.resolve(value).then((answer) => tell({ id, value: answer ?? null }));
}
process.exit();
