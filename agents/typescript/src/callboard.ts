// An agent of Callboard: it signs in, beats, takes offers, and repeats its reports until they are recorded.
// The contract is docs/protocol.md, section 3; nothing but a NATS client is needed to keep it.
import { randomUUID } from "node:crypto";
import { connect, type Msg, type NatsConnection } from "@nats-io/transport-node";

const REPORT_TIMEOUT_MS = 5_000;
const MEMORY_MS = 30_000; // longer than any offer is repeated
const LAST_WORDS_MS = 1_000;

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** One attempt of a task, as it was offered. */
export interface Task {
  /** The key for idempotent side effects: a task may run more than once. */
  readonly taskId: string;
  readonly attempt: number;
  readonly type: string;
  readonly payload: Json;
  /** Aborted when the task is cancelled. */
  readonly signal: AbortSignal;
  /** Tells how far the task is. */
  progress(percent: number, message?: string, data?: Json): void;
}

/** Runs a task; what it resolves to is the result, what it throws fails the attempt. */
export type Handler = (task: Task) => Promise<Json> | Json;

export interface AgentOptions {
  id: string;
  pool?: string;
  /** `nats://host:port`, with `token@` or `user:password@` before the host to sign in. */
  server?: string;
  slots?: number;
  handlers: Record<string, Handler>;
}

/** What fences: a task and one of its attempts. */
interface Ref {
  task_id: string;
  attempt: number;
}

interface Order extends Ref {
  epoch: number;
  type: string;
  payload: Json;
  grace_ms: number;
}

interface AssignAnswer {
  accepted: boolean;
  reason?: string;
}

/** What register and heartbeat are answered with. */
interface Pulse {
  epoch: number;
  heartbeat_interval_ms: number;
  lease_ms: number;
  cancel: Ref[];
  drain: boolean;
}

/** An error answer (protocol, section 2). */
export class WireError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryable: boolean,
  ) {
    super(`${code}: ${message}`);
  }
}

/** One incarnation of an agent of one pool. */
export class Agent {
  private readonly incarnation = randomUUID();
  private readonly root: string;
  private readonly slots: number;
  private readonly held = new Map<string, { ref: Ref; abort: AbortController }>(); // their reports are not answered
  private readonly recent = new Map<string, { answer: AssignAnswer; until: number }>();
  private nc!: NatsConnection;
  private registered = false;
  private leaseLost = false;
  private drained = false; // by an operator
  private leaving = false; // by ourselves or by an order to shut down
  private leaveBy = Infinity;
  private epoch = 0;
  private seq = 0;
  private alive = 0; // handlers: the slots in use
  private intervalMs = 5_000;
  private leaseMs = 15_000;
  private heardMs = Infinity; // when the last request that was answered was sent
  private wake: () => void = () => {};

  constructor(private readonly options: AgentOptions) {
    this.root = `callboard.v1.${options.pool ?? "default"}`;
    this.slots = options.slots ?? 1;
  }

  /** Serves until it is told to finish or to shut down; rejects when a newer process has its id. */
  async run(): Promise<void> {
    this.nc = await connect({
      ...addressOf(this.options.server ?? "nats://127.0.0.1:4222"),
      name: `callboard agent ${this.options.id}`,
      inboxPrefix: `_INBOX.${this.options.id}`, // the one inbox that an agent's user may listen to
      waitOnFirstConnect: true,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 200,
    });
    void this.hurryOnReconnect();
    this.nc.subscribe(`${this.root}.to.${this.options.id}.*`, { callback: (_, message) => this.onOrder(message) });
    try {
      await this.beatOn();
    } finally {
      for (const { abort } of this.held.values()) abort.abort();
      this.held.clear(); // nothing more is said of what still runs
      await this.nc.close();
    }
  }

  /** Takes nothing new, and leaves when all is recorded, or at `leaveBy` (of performance.now()). */
  finish(leaveBy = Infinity): void {
    this.leaving = true;
    if (leaveBy < this.leaveBy) {
      this.leaveBy = leaveBy;
      setTimeout(() => this.wake(), leaveBy - performance.now());
    }
    this.wake();
  }

  private async beatOn(): Promise<void> {
    for (let failures = 0; ; ) {
      if (this.leaving && (this.held.size === 0 || performance.now() >= this.leaveBy)) {
        await this.ask("leave", { incarnation: this.incarnation }, LAST_WORDS_MS).catch(() => {});
        return;
      }
      const woken = new Promise<void>((resolve) => (this.wake = resolve));
      let pauseMs = 0;
      try {
        if (await this.beat()) pauseMs = this.intervalMs * (0.8 + 0.4 * Math.random());
        failures = 0;
      } catch (error) {
        if (error instanceof WireError) {
          // Refused for what it says of itself: repeating that does not help.
          const isRefused = !error.retryable && !this.registered;
          if (error.code === "incarnation_replaced" || isRefused) throw error;
        }
        failures += 1;
        pauseMs = Math.min(backoffMs(failures), this.intervalMs);
        console.error(`not answered: ${String(error)}`);
      }
      await Promise.race([woken, pause(pauseMs)]);
    }
  }

  /** Registers, or sends a heartbeat; false when it turns out that nobody knows this incarnation. */
  private async beat(): Promise<boolean> {
    if (this.isLeaseOver) {
      this.leaseLost = true;
      this.registered = false;
    }
    const sentMs = performance.now();
    const running = [...this.held.values()].map(({ ref }) => ref);
    const body = { incarnation: this.incarnation, running, draining: this.leaving };
    const isBeat = this.registered;
    let answer: Pulse;
    try {
      answer = isBeat
        ? await this.ask<Pulse>("heartbeat", { ...body, seq: ++this.seq }, this.intervalMs)
        : await this.ask<Pulse>("register", { ...body, slots: this.slots, version: "1.0.0" }, REPORT_TIMEOUT_MS);
    } catch (error) {
      if (!(error instanceof WireError) || error.code !== "unknown_incarnation") throw error;
      this.registered = false;
      return false;
    }
    if (answer.epoch < this.epoch && (isBeat || !this.leaseLost)) throw new Error("an owner that is no more");
    this.epoch = answer.epoch;
    this.intervalMs = Math.max(answer.heartbeat_interval_ms, 20);
    this.leaseMs = answer.lease_ms;
    this.drained = answer.drain;
    this.heardMs = sentMs;
    if (!isBeat) {
      this.registered = true;
      this.leaseLost = false;
    }
    answer.cancel.forEach((ref) => this.cancel(ref));
    return true;
  }

  /** Takes what the orchestrator asks on `to.<agent_id>.<verb>`. */
  private onOrder(message: Msg): void {
    const verb = message.subject.slice(message.subject.lastIndexOf(".") + 1);
    let order: Order;
    try {
      order = message.json<Order>();
      if (!Number.isInteger(order.epoch)) throw new TypeError("no epoch");
    } catch {
      if (verb === "assign") respond(message, { accepted: false, reason: "invalid_request" });
      return;
    }
    if (order.epoch < this.epoch) return; // of an owner that is no more
    this.epoch = order.epoch;
    switch (verb) {
      case "assign":
        return respond(message, this.decide(order));
      case "cancel":
        this.cancel(order);
        return respond(message, {});
      case "drain":
        this.drained = true;
        return respond(message, {});
      case "shutdown":
        respond(message, {});
        return this.finish(performance.now() + order.grace_ms);
    }
  }

  /** Answers an offer; the same offer gets the same answer, and runs once. */
  private decide(offer: Order): AssignAnswer {
    const key = keyOf(offer);
    if (this.held.has(key)) return { accepted: true };
    const known = this.recent.get(key);
    if (known && performance.now() < known.until) return known.answer;
    const handler = Object.hasOwn(this.options.handlers, offer.type) ? this.options.handlers[offer.type] : undefined;
    const reason = this.leaving || this.drained ? "draining"
      : this.leaseLost || this.isLeaseOver ? "lease_lost"
      : !handler ? "unsupported"
      : this.alive >= this.slots ? "busy"
      : undefined;
    if (reason !== undefined || !handler) {
      const answer = { accepted: false, reason: reason ?? "unsupported" };
      this.remember(offer, answer);
      return answer;
    }
    const ref = { task_id: offer.task_id, attempt: offer.attempt };
    const abort = new AbortController();
    this.alive += 1;
    this.held.set(key, { ref, abort });
    void this.work(handler, offer, ref, abort.signal);
    return { accepted: true };
  }

  /** Has a handler do the task, and reports what came of it. */
  private async work(handler: Handler, offer: Order, ref: Ref, signal: AbortSignal): Promise<void> {
    const task: Task = {
      taskId: offer.task_id,
      attempt: offer.attempt,
      type: offer.type,
      payload: offer.payload ?? null,
      signal,
      progress: (percent, message, data) =>
        this.nc.publish(this.from("progress"), this.encode({ ...ref, percent, message, data })),
    };
    let report: [verb: string, fields: object];
    try {
      report = ["complete", { result: await handler(task) }];
    } catch (error) {
      report = ["fail", { error: { message: error instanceof Error ? error.message : String(error) } }];
    } finally {
      this.alive -= 1;
    }
    await this.report(ref, ...report);
  }

  /** Repeats a report until it is recorded, refused for good, or nobody wants it any more. */
  private async report(ref: Ref, verb: string, fields: object): Promise<void> {
    for (let failures = 1; this.held.has(keyOf(ref)); failures += 1) {
      if (this.registered) {
        try {
          await this.ask(verb, { ...ref, incarnation: this.incarnation, ...fields }, REPORT_TIMEOUT_MS);
          return this.settle(ref);
        } catch (error) {
          if (error instanceof WireError && error.code === "unknown_incarnation") {
            this.registered = false;
            this.wake();
          } else if (verb === "complete" && isResultRefused(error)) {
            const refused = { type: "result_refused", message: String(error), retryable: false };
            return this.report(ref, "fail", { error: refused });
          } else if (error instanceof WireError && !error.retryable) {
            return this.settle(ref);
          }
        }
      }
      await pause(backoffMs(failures));
    }
  }

  /** Stops an attempt, of which nothing more is said, and declines it should it be offered again. */
  private cancel(ref: Ref): void {
    this.remember(ref, { accepted: false, reason: "cancelled" });
    this.held.get(keyOf(ref))?.abort.abort();
    if (this.held.delete(keyOf(ref))) this.wake();
  }

  /** Forgets an attempt whose report is answered. */
  private settle(ref: Ref): void {
    this.held.delete(keyOf(ref));
    this.remember(ref, { accepted: true });
    if (this.leaving) this.wake();
  }

  private remember(ref: Ref, answer: AssignAnswer): void {
    const now = performance.now();
    for (const [key, { until }] of this.recent) if (until < now) this.recent.delete(key);
    this.recent.set(keyOf(ref), { answer, until: now + Math.max(this.leaseMs, MEMORY_MS) });
  }

  /** Counts from the sending of the last request that was answered. */
  private get isLeaseOver(): boolean {
    return performance.now() - this.heardMs > this.leaseMs;
  }

  /** A request of this agent; rejects with the error that the answer is. */
  private async ask<T>(verb: string, body: object, timeout: number): Promise<T> {
    const message = await this.nc.request(this.from(verb), JSON.stringify(body), { timeout });
    if (!message.headers?.get("Nats-Service-Error-Code")) return message.json<T>();
    const { error } = message.json<{ error: WireError }>();
    throw new WireError(error.code, error.message, error.retryable);
  }

  private encode(fields: object): string {
    return JSON.stringify({ ...fields, incarnation: this.incarnation });
  }

  private from(verb: string): string {
    return `${this.root}.agent.${this.options.id}.${verb}`;
  }

  private async hurryOnReconnect(): Promise<void> {
    for await (const status of this.nc.status()) if (status.type === "reconnect") this.wake();
  }
}

/** The client takes who signs in apart from the server. */
function addressOf(servers: string): { servers: string[]; user?: string; pass?: string; token?: string } {
  const urls = servers.split(",").map((server) => new URL(server.trim()));
  const { username = "", password = "" } = urls.find((url) => url.username) ?? {};
  const hosts = urls.map((url) => url.host);
  if (password) return { servers: hosts, user: decodeURIComponent(username), pass: decodeURIComponent(password) };
  return username ? { servers: hosts, token: decodeURIComponent(username) } : { servers: hosts };
}

function respond(message: Msg, body: object): void {
  message.respond(JSON.stringify(body));
}

function isResultRefused(error: unknown): boolean {
  if (error instanceof WireError) return error.code === "invalid_request" || error.code === "payload_too_large";
  return error instanceof Error && /max_payload/i.test(error.message); // larger than NATS carries
}

function keyOf(ref: Ref): string {
  return `${ref.task_id}/${ref.attempt}`;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Doubles from 200 ms to 5 s, and is spread so that a fleet does not march in step. */
function backoffMs(failures: number): number {
  return Math.min(200 * 2 ** Math.min(failures - 1, 5), 5_000) * (0.5 + Math.random());
}
