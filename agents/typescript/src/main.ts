import { setTimeout as sleep } from "node:timers/promises";
import { Agent, type Task } from "./callboard.js";

const { env } = process;

const agent = new Agent({
  id: env.CALLBOARD_AGENT_ID ?? "typescript-1",
  pool: env.CALLBOARD_POOL ?? "default",
  server: env.NATS_URL ?? "nats://127.0.0.1:4222",
  slots: Number(env.CALLBOARD_SLOTS ?? "1"),
  handlers: {
    echo: (task: Task) => ({ echo: task.payload }),

    sleep: async (task: Task) => {
      const { ms } = task.payload as { ms: number };
      task.progress(50, "half-way");
      await sleep(ms, undefined, { signal: task.signal });
      return { slept_ms: ms };
    },

    fail: (task: Task) => {
      throw new Error(String(task.payload));
    },
  },
});

process.once("SIGINT", () => agent.finish());
process.once("SIGTERM", () => agent.finish());

try {
  await agent.run();
  process.exit(0);
} catch (error) {
  console.error(String(error));
  process.exit(1);
}
