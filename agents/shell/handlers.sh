# What this agent can do: a function `task_<type>` gets the payload on standard input and prints the result, one JSON
# value. It fails with a status other than 0; the last line that it wrote to standard error says why.
# `progress PERCENT [MESSAGE]` tells how far it is; TASK_ID is the key for idempotent side effects.

task_echo() { jq -c '{echo: .}'; }

task_sleep() {
  local ms
  ms=$(jq -e '.ms | numbers')
  progress 50 half-way
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
  printf '{"slept_ms": %d}' "$ms"
}

task_fail() { jq -r . >&2; return 1; }
