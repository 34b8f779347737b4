package callboard;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.util.Map;

/** An agent with three task types; the process ends when the agent has left. */
public final class Main {
  private Main() {}

  static JsonElement echo(Agent.Task task) {
    JsonObject result = new JsonObject();
    result.add("echo", task.payload());
    return result;
  }

  static JsonElement sleep(Agent.Task task) throws InterruptedException {
    long ms = task.payload().getAsJsonObject().get("ms").getAsLong();
    task.progress(50, "half-way");
    Thread.sleep(ms);
    JsonObject result = new JsonObject();
    result.addProperty("slept_ms", ms);
    return result;
  }

  static JsonElement fail(Agent.Task task) throws Exception {
    throw new Exception(task.payload().getAsString());
  }

  public static void main(String[] arguments) {
    Agent agent =
        new Agent(
            setting("CALLBOARD_AGENT_ID", "java-1"),
            setting("CALLBOARD_POOL", "default"),
            Integer.parseInt(setting("CALLBOARD_SLOTS", "1")),
            Map.of("echo", Main::echo, "sleep", Main::sleep, "fail", Main::fail));
    Thread main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> finish(agent, main)));
    int status = 0;
    try {
      agent.run(setting("NATS_URL", "nats://127.0.0.1:4222"));
    } catch (Exception error) {
      System.err.println(error.getMessage());
      status = 1;
    }
    Runtime.getRuntime().halt(status); // after a signal the exit status would be 143 though all went well
  }

  /** On SIGTERM and SIGINT: the machine waits for its hooks, so this one waits for the agent's end. */
  private static void finish(Agent agent, Thread main) {
    agent.finish();
    try {
      main.join();
    } catch (InterruptedException impatient) {
      Thread.currentThread().interrupt();
    }
  }

  private static String setting(String name, String fallback) {
    return System.getenv().getOrDefault(name, fallback);
  }
}
