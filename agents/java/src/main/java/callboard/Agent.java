package callboard;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import io.nats.client.Connection;
import io.nats.client.ConnectionListener;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Options;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * An agent of Callboard: it signs in, beats, takes offers, and repeats its reports until they are recorded.
 *
 * <p>The contract is docs/protocol.md, section 3; nothing but a NATS client is needed to keep it.
 */
public final class Agent {
  private static final Duration REPORT_TIMEOUT = Duration.ofSeconds(5);
  private static final Duration LAST_WORDS = Duration.ofSeconds(1);
  private static final long MEMORY_MS = 30_000; // longer than any offer is repeated

  /** Runs a task; what it returns is the result, what it throws fails the attempt. A cancel interrupts it. */
  @FunctionalInterface
  public interface Handler {
    JsonElement run(Task task) throws Exception;
  }

  /** What fences: a task and one of its attempts. The task's id is the key for idempotent side effects. */
  public record Ref(String taskId, long attempt) {
    JsonObject json() {
      JsonObject json = new JsonObject();
      json.addProperty("task_id", taskId);
      json.addProperty("attempt", attempt);
      return json;
    }

    static Ref of(JsonObject json) {
      return new Ref(json.get("task_id").getAsString(), json.get("attempt").getAsLong());
    }
  }

  /** One attempt of a task, as it was offered. */
  public record Task(Ref ref, String type, JsonElement payload, Agent agent) {
    /** Tells how far the task is. */
    public void progress(double percent, String message) {
      JsonObject body = agent.report(ref);
      body.addProperty("percent", percent);
      body.addProperty("message", message);
      agent.nats.publish(agent.from("progress"), bytes(body));
    }
  }

  /** An error answer (protocol, section 2). */
  public static final class RefusedException extends Exception {
    private static final long serialVersionUID = 1;
    final String code;
    final boolean retryable;

    RefusedException(JsonObject error) {
      super(error.get("code").getAsString() + ": " + error.get("message").getAsString());
      this.code = error.get("code").getAsString();
      this.retryable = error.get("retryable").getAsBoolean();
    }
  }

  private record Remembered(JsonObject answer, long untilMs) {}

  private final String id;
  private final String root;
  private final int slots;
  private final Map<String, Handler> handlers;
  private final String incarnation = UUID.randomUUID().toString();
  private final Semaphore wake = new Semaphore(0);
  private final ExecutorService threads = Executors.newCachedThreadPool(Agent::daemon);
  private Connection nats;

  // What follows is guarded by this agent's monitor.
  private final Map<Ref, Future<?>> held = new HashMap<>(); // accepted attempts whose reports are not answered
  private final Map<Ref, Remembered> recent = new HashMap<>();
  private boolean registered;
  private boolean leaseLost;
  private boolean drained; // by an operator
  private boolean leaving; // by ourselves or by an order to shut down
  private long leaveByMs = Long.MAX_VALUE;
  private long epoch;
  private long seq;
  private long intervalMs = 5_000;
  private long leaseMs = 15_000;
  private long heardMs = -1; // when the last request that was answered was sent
  private int alive; // handlers: the slots in use

  public Agent(String id, String pool, int slots, Map<String, Handler> handlers) {
    this.id = id;
    this.root = "callboard.v1." + pool;
    this.slots = slots;
    this.handlers = Map.copyOf(handlers);
  }

  /** Serves until it is told to finish or to shut down; throws when a newer process has its id. */
  public void run(String url) throws IOException, InterruptedException, RefusedException {
    Options options =
        new Options.Builder()
            .server(url)
            .connectionName("callboard agent " + id)
            .inboxPrefix("_INBOX." + id + ".") // the one inbox that an agent's user may listen to
            .maxReconnects(-1)
            .reconnectWait(Duration.ofMillis(200))
            .connectionListener(
                (connection, event) -> {
                  if (event == ConnectionListener.Events.RECONNECTED) wake.release();
                })
            .build();
    nats = Nats.connectReconnectOnConnect(options);
    try {
      nats.createDispatcher(this::onOrder).subscribe(root + ".to." + id + ".*");
      beatOn();
    } finally {
      giveUp();
      nats.close();
    }
  }

  /** Takes nothing new, and leaves when all is recorded. */
  public void finish() {
    finish(Long.MAX_VALUE);
  }

  private synchronized void finish(long byMs) {
    leaving = true;
    leaveByMs = Math.min(leaveByMs, byMs);
    wake.release();
  }

  private void beatOn() throws InterruptedException, RefusedException {
    for (int failures = 0; !isDone(); ) {
      long pauseMs;
      try {
        pauseMs = beat();
        failures = 0;
      } catch (RefusedException refused) {
        // Refused for what it says of itself: repeating that does not help.
        boolean isFinal = !refused.retryable && !isRegistered();
        if (isFinal || refused.code.equals("incarnation_replaced")) throw refused;
        pauseMs = retryMs(++failures);
      } catch (IOException | RuntimeException unanswered) {
        System.err.println("not answered: " + unanswered.getMessage());
        pauseMs = retryMs(++failures);
      }
      if (wake.tryAcquire(untilNext(pauseMs), TimeUnit.MILLISECONDS)) wake.drainPermits();
    }
    try {
      JsonObject body = new JsonObject();
      body.addProperty("incarnation", incarnation);
      ask("leave", body, LAST_WORDS);
    } catch (IOException | RefusedException nobodyToSayItTo) {
      System.err.println("left without an answer: " + nobodyToSayItTo.getMessage());
    }
  }

  /** What still runs is interrupted, and nothing more is said of it. */
  private synchronized void giveUp() {
    held.clear();
    threads.shutdownNow();
  }

  private synchronized boolean isDone() {
    return leaving && (held.isEmpty() || nowMs() >= leaveByMs);
  }

  private synchronized long untilNext(long pauseMs) {
    return Math.max(0, Math.min(pauseMs, leaveByMs - nowMs()));
  }

  private synchronized long retryMs(int failures) {
    return Math.min(backoffMs(failures), intervalMs);
  }

  /** Registers or sends a heartbeat, and says how long to wait for the next. */
  private long beat() throws IOException, InterruptedException, RefusedException {
    boolean isBeat;
    Duration timeout;
    JsonObject body = new JsonObject();
    synchronized (this) {
      if (isLeaseOver()) {
        leaseLost = true;
        registered = false;
      }
      isBeat = registered;
      timeout = isBeat ? Duration.ofMillis(intervalMs) : REPORT_TIMEOUT;
      JsonArray running = new JsonArray();
      held.keySet().forEach(ref -> running.add(ref.json()));
      body.addProperty("incarnation", incarnation);
      body.add("running", running);
      body.addProperty("draining", leaving);
      if (isBeat) {
        body.addProperty("seq", ++seq);
      } else {
        body.addProperty("slots", slots);
        body.addProperty("version", "1.0.0");
      }
    }
    long sentMs = nowMs();
    JsonObject answer;
    try {
      answer = ask(isBeat ? "heartbeat" : "register", body, timeout);
    } catch (RefusedException refused) {
      if (!refused.code.equals("unknown_incarnation")) throw refused;
      forgotten();
      return 0;
    }
    synchronized (this) {
      long owner = answer.get("epoch").getAsLong();
      if (owner < epoch && (isBeat || !leaseLost)) throw new IOException("an owner that is no more");
      epoch = owner;
      intervalMs = Math.max(answer.get("heartbeat_interval_ms").getAsLong(), 20);
      leaseMs = answer.get("lease_ms").getAsLong();
      drained = answer.get("drain").getAsBoolean();
      heardMs = sentMs;
      if (!isBeat) {
        registered = true;
        leaseLost = false;
      }
      answer.getAsJsonArray("cancel").forEach(each -> cancel(Ref.of(each.getAsJsonObject())));
      return Math.round(intervalMs * (0.8 + 0.4 * ThreadLocalRandom.current().nextDouble()));
    }
  }

  /** Takes what the orchestrator asks on {@code to.<agent_id>.<verb>}. */
  private synchronized void onOrder(Message message) {
    String verb = message.getSubject().substring(message.getSubject().lastIndexOf('.') + 1);
    try {
      JsonObject order = parse(message);
      if (!order.getAsJsonPrimitive("epoch").isNumber()) throw new JsonParseException("epoch: expected a number");
      if (order.get("epoch").getAsLong() < epoch) return; // of an owner that is no more
      epoch = order.get("epoch").getAsLong();
      switch (verb) {
        case "assign" -> respond(message, decide(order));
        case "cancel" -> {
          cancel(Ref.of(order));
          respond(message, new JsonObject());
        }
        case "drain" -> {
          drained = true;
          respond(message, new JsonObject());
        }
        case "shutdown" -> {
          finish(nowMs() + order.get("grace_ms").getAsLong());
          respond(message, new JsonObject());
        }
        default -> {}
      }
    } catch (RuntimeException notUnderstood) {
      if (verb.equals("assign")) respond(message, declined("invalid_request"));
    }
  }

  /** Answers an offer; the same offer gets the same answer, and runs once. */
  private JsonObject decide(JsonObject offer) {
    Ref ref = Ref.of(offer);
    String type = offer.get("type").getAsString();
    if (held.containsKey(ref)) return accepted();
    Remembered known = recent.get(ref);
    if (known != null && nowMs() < known.untilMs) return known.answer;
    Handler handler = handlers.get(type);
    String reason = null;
    if (leaving || drained) reason = "draining";
    else if (leaseLost || isLeaseOver()) reason = "lease_lost";
    else if (handler == null) reason = "unsupported";
    else if (alive >= slots) reason = "busy";
    if (reason != null) {
      remember(ref, declined(reason));
      return declined(reason);
    }
    JsonElement payload = offer.has("payload") ? offer.get("payload") : JsonNull.INSTANCE;
    Task task = new Task(ref, type, payload, this);
    alive++;
    held.put(ref, threads.submit(() -> work(handler, task)));
    return accepted();
  }

  /** Has a handler do the task, and reports what came of it. */
  private void work(Handler handler, Task task) {
    JsonObject body = report(task.ref);
    String verb = "complete";
    try {
      JsonElement result = handler.run(task);
      body.add("result", result == null ? JsonNull.INSTANCE : result);
    } catch (Exception failure) {
      verb = "fail";
      JsonObject error = new JsonObject();
      error.addProperty("message", failure.getMessage() == null ? failure.toString() : failure.getMessage());
      body.add("error", error);
    } finally {
      synchronized (this) {
        alive--;
      }
    }
    try {
      reportUntilRecorded(task.ref, verb, body);
    } catch (InterruptedException cancelled) {
      Thread.currentThread().interrupt(); // nobody wants it any more
    }
  }

  /** Repeats a report until it is recorded, refused for good, or nobody wants it any more. */
  private void reportUntilRecorded(Ref ref, String verb, JsonObject body) throws InterruptedException {
    for (int failures = 1; isHeld(ref); failures++) {
      if (isRegistered()) {
        try {
          ask(verb, body, REPORT_TIMEOUT);
          settle(ref);
          return;
        } catch (RefusedException refused) {
          boolean isResult = refused.code.equals("invalid_request") || refused.code.equals("payload_too_large");
          if (refused.code.equals("unknown_incarnation")) {
            forgotten();
          } else if (verb.equals("complete") && isResult) {
            reportUntilRecorded(ref, "fail", resultRefused(ref, refused));
            return;
          } else if (!refused.retryable) {
            settle(ref);
            return;
          }
        } catch (IllegalArgumentException largerThanNatsCarries) {
          reportUntilRecorded(ref, "fail", resultRefused(ref, largerThanNatsCarries));
          return;
        } catch (IOException | RuntimeException unanswered) {
          System.err.println(verb + " not answered: " + unanswered.getMessage());
        }
      }
      Thread.sleep(backoffMs(failures));
    }
  }

  private JsonObject resultRefused(Ref ref, Exception why) {
    JsonObject error = new JsonObject();
    error.addProperty("type", "result_refused");
    error.addProperty("message", why.getMessage());
    error.addProperty("retryable", false);
    JsonObject body = report(ref);
    body.add("error", error);
    return body;
  }

  /** Stops an attempt, of which nothing more is said, and declines it should it be offered again. */
  private void cancel(Ref ref) {
    remember(ref, declined("cancelled"));
    Future<?> work = held.remove(ref);
    if (work != null) {
      work.cancel(true);
      wake.release();
    }
  }

  /** Forgets an attempt whose report is answered. */
  private synchronized void settle(Ref ref) {
    if (held.remove(ref) != null) remember(ref, accepted());
    if (leaving) wake.release();
  }

  private void remember(Ref ref, JsonObject answer) {
    long now = nowMs();
    recent.values().removeIf(known -> known.untilMs < now);
    recent.put(ref, new Remembered(answer, now + Math.max(leaseMs, MEMORY_MS)));
  }

  private synchronized boolean isHeld(Ref ref) {
    return held.containsKey(ref);
  }

  private synchronized boolean isRegistered() {
    return registered;
  }

  /** Makes the next beat a registration. */
  private synchronized void forgotten() {
    registered = false;
    wake.release();
  }

  /** Counts from the sending of the last request that was answered. */
  private boolean isLeaseOver() {
    return heardMs >= 0 && nowMs() - heardMs > leaseMs;
  }

  /** A request of this agent, and its answer. */
  private JsonObject ask(String verb, JsonObject body, Duration timeout)
      throws IOException, InterruptedException, RefusedException {
    Message message = nats.request(from(verb), bytes(body), timeout);
    if (message == null) throw new IOException(verb + " was not answered");
    if (message.isStatusMessage()) throw new IOException(message.getStatus().getMessageWithCode());
    JsonObject answer = parse(message);
    if (message.getHeaders() == null || !message.getHeaders().containsKey("Nats-Service-Error-Code")) return answer;
    throw new RefusedException(answer.getAsJsonObject("error"));
  }

  private void respond(Message message, JsonObject answer) {
    if (message.getReplyTo() != null) nats.publish(message.getReplyTo(), bytes(answer));
  }

  /** The beginning of complete, fail and progress. */
  private JsonObject report(Ref ref) {
    JsonObject json = ref.json();
    json.addProperty("incarnation", incarnation);
    return json;
  }

  private String from(String verb) {
    return root + ".agent." + id + "." + verb;
  }

  private static JsonObject accepted() {
    JsonObject json = new JsonObject();
    json.addProperty("accepted", true);
    return json;
  }

  private static JsonObject declined(String reason) {
    JsonObject json = new JsonObject();
    json.addProperty("accepted", false);
    json.addProperty("reason", reason);
    return json;
  }

  private static JsonObject parse(Message message) {
    return JsonParser.parseString(new String(message.getData(), StandardCharsets.UTF_8)).getAsJsonObject();
  }

  private static byte[] bytes(JsonObject json) {
    return json.toString().getBytes(StandardCharsets.UTF_8);
  }

  /** Doubles from 200 ms to 5 s, and is spread so that a fleet does not march in step. */
  private static long backoffMs(int failures) {
    long delay = Math.min(200L << Math.min(failures - 1, 5), 5_000);
    return Math.round(delay * (0.5 + ThreadLocalRandom.current().nextDouble()));
  }

  private static long nowMs() {
    return TimeUnit.NANOSECONDS.toMillis(System.nanoTime());
  }

  private static Thread daemon(Runnable work) {
    Thread thread = new Thread(work, "callboard-task");
    thread.setDaemon(true);
    return thread;
  }
}
