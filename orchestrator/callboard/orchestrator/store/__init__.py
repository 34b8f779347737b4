"""Everything durable, and all SQL. `port` is what the shell sees; `postgres` and `memory` are its two sides."""
