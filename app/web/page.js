// The page: a source of sound -> capture.js -> client.js -> captions.
//
// One Run at a time is one press of Start. What the page is doing stands in `body[data-state]` and its class `running`,
// and page.css shows it.

import { CaptionsClient } from "./client.js";

const CHUNK_SECONDS = 0.1;
const MICROPHONE_RATE = 16_000; // speech needs no more, and a phone's uplink is glad
const MAX_RATE = 48_000; // the gateway's
const FLUSH_MS = 300; // an audio thread that the system has suspended does not answer
const LEVEL_BARS = 28;
const SILENCE_DB = -60;
const NEAR_END_PX = 48; // so close to the end, the reader still follows

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

// Sound ---------------------------------------------------------------------------------------------

/** The microphone, the sample or a file as chunks of LINEAR16. The latter two at their own pace, and heard. */
class Sound {
  #context;
  #gain;
  #source;
  #stream;
  #capture;

  /** In the click itself: a browser lets a page make sound only then. */
  constructor(kind) {
    this.#context = kind === "microphone" ? new AudioContext({ sampleRate: MICROPHONE_RATE }) : new AudioContext();
    this.#context.resume();
  }

  /** Of the chunks. The context's own, or the largest whole part of it that the gateway takes. */
  get rate() {
    return Math.round(this.#context.sampleRate / this.#decimate);
  }

  get #decimate() {
    return Math.ceil(this.#context.sampleRate / MAX_RATE);
  }

  async open(kind, file) {
    if (kind === "microphone") await this.#openMicrophone();
    else await this.#openRecording(kind === "file" ? await file.arrayBuffer() : await download("sample.wav"));
    await this.#context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    this.#capture = new AudioWorkletNode(this.#context, "capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      outputChannelCount: [1],
      processorOptions: { decimate: this.#decimate, chunkSamples: Math.round(this.rate * CHUNK_SECONDS) },
    });
    this.#capture.connect(this.#context.destination); // silence, but what leads nowhere may not be run
  }

  async #openMicrophone() {
    // The recognizer hears better without the browser's cleaning, which is made for calls.
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio });
    try {
      this.#source = this.#context.createMediaStreamSource(this.#stream);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      this.#context.close(); // older Firefox: a microphone only at its own rate
      this.#context = new AudioContext();
      this.#source = this.#context.createMediaStreamSource(this.#stream);
    }
  }

  async #openRecording(bytes) {
    this.#source = this.#context.createBufferSource();
    this.#source.buffer = await this.#context.decodeAudioData(bytes);
    this.#gain = this.#context.createGain();
    this.#source.connect(this.#gain).connect(this.#context.destination);
  }

  start({ onChunk, onEnd }) {
    this.#capture.port.onmessage = ({ data }) => onChunk(data.audio, data.level);
    this.#source.connect(this.#capture);
    this.#source.onended = onEnd;
    this.#source.start?.();
    for (const track of this.#stream?.getTracks() ?? []) track.onended = onEnd; // unplugged, or taken back
  }

  set audible(audible) {
    if (this.#gain) this.#gain.gain.value = audible ? 1 : 0;
  }

  /** A recording waits; the microphone does not. */
  set held(held) {
    if (!this.#gain || this.#context.state === "closed") return;
    held ? this.#context.suspend() : this.#context.resume();
  }

  /** Resolves when the last chunk was handed over. */
  async finish() {
    const { port } = this.#capture;
    const { onmessage } = port;
    this.#source.onended = null;
    this.#source.disconnect();
    this.#context.resume();
    await new Promise((done) => {
      port.onmessage = (event) => (event.data.done ? done() : onmessage(event));
      port.postMessage("finish");
      setTimeout(done, FLUSH_MS);
    });
    port.onmessage = null;
    this.close();
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
  return response.arrayBuffer();
}

// Captions ------------------------------------------------------------------------------------------

/** The text so far. Follows its end for as long as the reader is there. */
class Captions {
  #following = true;
  #interim = { time: ui.interim.querySelector("time"), text: ui.interim.querySelector("span") };

  constructor() {
    ui.captions.addEventListener("scroll", () => this.#follow(this.#left() <= NEAR_END_PX));
    ui.latest.addEventListener("click", () => this.#scroll());
    new ResizeObserver(() => this.#following && this.#scroll()).observe(ui.captions);
  }

  clear() {
    ui.finals.replaceChildren();
    ui.empty.hidden = true;
    this.settle();
    this.#follow(true);
  }

  interim({ text, start_ms }) {
    this.#change(() => {
      this.#interim.time.textContent = clock(start_ms);
      this.#interim.text.textContent = text;
      ui.interim.hidden = !text;
    });
  }

  final({ text, start_ms }) {
    this.#change(() => {
      ui.interim.hidden = true;
      ui.finals.append(line(start_ms, text));
    });
  }

  gap({ start_ms, end_ms, reason }) {
    const seconds = Math.max(0.1, (end_ms - start_ms) / 1000).toFixed(1);
    this.#change(() => ui.finals.append(line(start_ms, `${seconds} s without captions (${reason})`, "gap")));
  }

  /** Nothing more comes: what is not firm by now never will be. */
  settle() {
    ui.interim.hidden = true;
  }

  #change(apply) {
    apply();
    if (this.#following) this.#scroll();
  }

  #follow(following) {
    this.#following = following;
    ui.latest.hidden = following;
  }

  #left() {
    return ui.captions.scrollHeight - ui.captions.clientHeight - ui.captions.scrollTop;
  }

  #scroll() {
    ui.captions.scrollTop = ui.captions.scrollHeight;
  }
}

function line(startMs, text, kind = "") {
  const paragraph = document.createElement("p");
  paragraph.className = `line ${kind}`.trim();
  const time = document.createElement("time");
  time.textContent = clock(startMs);
  const words = document.createElement("span");
  words.textContent = text;
  paragraph.append(time, words);
  return paragraph;
}

/** 75 s are 1:15. */
function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

// Status and level ----------------------------------------------------------------------------------

const GO_LABELS = {
  preparing: "Cancel",
  connecting: "Cancel",
  listening: "Stop",
  reconnecting: "Stop",
  finishing: "Don't wait",
};

/** By the client's state: the page's, and how it is told. */
const SHOWN = { connecting: "connecting", live: "listening", reconnecting: "reconnecting" };
const STATUS = { connecting: "Connecting", live: "Listening", reconnecting: "Reconnecting" };

/** `state`: loading, ready, preparing, connecting, listening, reconnecting, finishing, done or error. */
function show(state, text, code = "") {
  const running = state in GO_LABELS;
  document.body.dataset.state = state;
  document.body.classList.toggle("running", running);
  const name = document.createElement("code");
  name.textContent = code;
  ui.status.replaceChildren(...(code ? [name, " "] : []), text);
  ui.go.textContent = GO_LABELS[state] ?? "Start";
  ui.sources.disabled = ui.language.disabled = ui.file.disabled = running;
  prepare();
}

/** What depends on the source. */
function prepare() {
  const kind = source();
  document.body.dataset.source = kind;
  ui.go.disabled = !ui.language.value || (kind === "file" && !ui.file.files.length);
}

function source() {
  return ui.controls.elements.source.value;
}

/** `level`: RMS, 0 to 1. The newest bar is the rightmost. */
function showLevel(level) {
  const decibels = Math.max(SILENCE_DB, Math.min(0, 20 * Math.log10(level || 1e-9)));
  const bar = ui.level.firstElementChild;
  bar.style.transform = `scaleY(${Math.max(0.06, Math.min(1, 2 * (1 - decibels / SILENCE_DB) ** 2))})`;
  ui.level.append(bar);
  ui.level.setAttribute("aria-valuenow", Math.round(decibels));
}

// A run ---------------------------------------------------------------------------------------------

/** From Start to the last caption. */
class Run {
  #sound;
  #client;
  #kind;
  #samples = 0;
  #over = false;
  #stopping = false;
  #held = false;
  #gateway = ""; // what it says of itself, while it is behind
  #trouble = ""; // with the connection

  constructor(kind) {
    this.#kind = kind;
    this.#sound = new Sound(kind);
  }

  async begin(kind, file, language) {
    show("preparing", kind === "microphone" ? "Waiting for the microphone" : "Reading the recording");
    try {
      await this.#sound.open(kind, file);
    } catch (error) {
      this.#end("error", whyNoSound(error, kind));
    }
    if (this.#over) return this.#sound.close();
    this.audible = ui.sound.ariaPressed === "true";
    this.#connect(language);
    this.#sound.start({ onChunk: (audio, level) => this.#send(audio, level), onEnd: () => this.#finish() });
  }

  set audible(audible) {
    this.#sound.audible = audible;
  }

  /** A second time: without waiting for the last words. */
  stop() {
    if (!this.#client) this.#end("ready", "Cancelled");
    else if (this.#stopping || this.#client.state === "connecting") this.#client.close();
    else this.#finish();
  }

  /** The page is left: the gateway need not wait for anybody. */
  leave() {
    this.#client?.close();
  }

  async #finish() {
    if (this.#over || this.#stopping) return;
    this.#stopping = true;
    await this.#sound.finish();
    this.#client.stop();
    this.#tell();
  }

  #connect(language) {
    this.#client = new CaptionsClient({
      url: new URL("ws/transcribe", document.baseURI).href.replace(/^http/, "ws"),
      start: {
        audio: { encoding: "LINEAR16", sample_rate_hertz: this.#sound.rate },
        language_codes: [language],
        client: { name: "captions page" },
      },
      token: ui.token.value.trim() || undefined,
      overflow: this.#kind === "microphone" ? "gap" : "wait",
      on: {
        state: (state, detail) => this.#enter(state, detail),
        interim: (message) => captions.interim(message),
        final: (message) => captions.final(message),
        gap: (message) => captions.gap(message),
        held: (held) => {
          this.#held = held;
          this.#sound.held = held;
          this.#tell();
        },
        throttle: ({ state, queued_ms }) =>
          this.#tell(state === "on" ? `the gateway is ${(queued_ms / 1000).toFixed(1)} s behind` : ""),
        warning: ({ message }) => this.#tell(message),
      },
    });
  }

  #send(audio, level) {
    this.#client.send(audio);
    this.#samples += audio.byteLength / 2;
    ui.clock.textContent = clock((this.#samples / this.#sound.rate) * 1000);
    showLevel(level);
  }

  #enter(state, detail) {
    if (state === "failed") return this.#end("error", detail.message, detail.code);
    if (state === "stopped") return this.#ended(detail);
    this.#trouble = state === "reconnecting" ? trouble(detail) : "";
    return this.#tell(""); // what the gateway said of itself was on the connection before
  }

  #tell(gateway = this.#gateway) {
    if (this.#over) return;
    this.#gateway = gateway;
    const state = this.#client?.state ?? "connecting";
    const kept = state === "reconnecting" && this.#kind === "microphone" && !this.#held;
    const more = [this.#trouble, this.#waits, gateway].filter(Boolean).join(", ");
    if (this.#stopping) show("finishing", `${state === "live" ? "Finishing" : "Reconnecting"}: waiting for the last words`);
    else show(SHOWN[state], (kept ? "Recording, reconnecting" : STATUS[state]) + (more && `: ${more}`));
  }

  get #waits() {
    if (!this.#held) return "";
    return this.#kind === "microphone" ? "no room for more, this is skipped" : "waiting, the gateway is behind";
  }

  /** `stopped` as the gateway's, or null. */
  #ended(stopped) {
    captions.settle();
    if (!stopped) return this.#end("done", "Closed without waiting for the last words");
    const { audio_ms, gap_ms, finals } = stopped;
    const count = `${finals || "no"} caption${finals === 1 ? "" : "s"}`;
    const missing = gap_ms ? `, ${(gap_ms / 1000).toFixed(1)} s missing` : "";
    return this.#end("done", `Closed: ${count} from ${(audio_ms / 1000).toFixed(1)} s of audio${missing}`);
  }

  #end(state, text, code) {
    if (this.#over) return;
    this.#over = true;
    this.#sound.close();
    run = null;
    show(state, text, code);
    for (const _ of ui.level.children) showLevel(0);
  }
}

/** Of a client's state "reconnecting". */
function trouble({ attempt, in_ms }) {
  const wait = in_ms < 1000 ? "" : ` in ${Math.ceil(in_ms / 1000)} s`;
  return `try ${attempt}${wait}`;
}

function whyNoSound(error, kind) {
  const reasons = {
    NotAllowedError: "The microphone is not allowed: allow it for this page in the browser",
    NotFoundError: "There is no microphone",
    NotReadableError: "The microphone is in use by another program",
    EncodingError: "The browser cannot decode this file: try WAV, MP3, M4A, Ogg or FLAC",
  };
  return reasons[error.name] ?? `The ${kind} cannot be read: ${error.message}`;
}

// The controls --------------------------------------------------------------------------------------

const captions = new Captions();
let run = null;

function press() {
  if (run) return run.stop();
  captions.clear();
  ui.clock.textContent = clock(0);
  run = new Run(source());
  return run.begin(source(), ui.file.files[0], ui.language.value);
}

function take(files) {
  if (run || !files.length) return;
  ui.file.files = files;
  ui.controls.elements.source.value = "file";
  nameFile();
}

function nameFile() {
  ui["file-name"].textContent = ui.file.files[0]?.name ?? "Choose an audio file, or drop one on this page";
  prepare();
}

function listen() {
  ui.controls.addEventListener("submit", (event) => {
    event.preventDefault();
    press();
  });
  ui.sources.addEventListener("change", prepare);
  ui.file.addEventListener("change", nameFile);
  ui.sound.addEventListener("click", () => {
    ui.sound.ariaPressed = String(ui.sound.ariaPressed !== "true");
    if (run) run.audible = ui.sound.ariaPressed === "true";
  });
  window.addEventListener("pagehide", () => run?.leave());
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

/** The languages by name, and the one to begin with: the reader's, or the first. */
function offer(codes) {
  const names = new Intl.DisplayNames([navigator.language], { type: "language", languageDisplay: "standard" });
  for (const code of codes) ui.language.append(new Option(code === "auto" ? "Any language" : names.of(code), code));
  const [base] = navigator.language.split("-");
  ui.language.value =
    codes.find((code) => code === navigator.language) ?? codes.find((code) => code.split("-")[0] === base) ?? codes[0];
}

async function load() {
  ui.level.append(...Array.from({ length: LEVEL_BARS }, () => document.createElement("i")));
  listen();
  if (!window.isSecureContext) return show("error", "Sound needs https: browsers give it to no other page but localhost");
  try {
    const answer = await fetch("config");
    const config = await answer.json();
    if (!answer.ok) return show("error", config.error.message, config.error.code);
    ui["token-choice"].hidden = !config.authentication;
    offer(config.language_codes);
    ui["sample-choice"].hidden = !config.sample_recording;
    ui.about.textContent = `${config.upstream} · API ${config.speech_api} · ${config.model}`;
  } catch {
    return show("error", "The gateway does not answer: reload the page when it is back");
  }
  return show("ready", "Ready");
}

load();
