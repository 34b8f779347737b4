"""The Synadia Agent Protocol for NATS, 0.3, on both of its sides; what we rely on is in docs/synadia.md.

- `fleet`: its agents, as they are, as agents of a pool (`callboard agent synadia`).
- `gateway`: a pool as one of its agents (`callboard gateway`).

Rules:
- `wire`, `peers`, `roster` and `prompts` are pure: bytes and instants in, values out. The protocol's own SDKs are not
  used.
- What another party may send wrong is refused or ignored as the protocol says, and never believed.
"""
